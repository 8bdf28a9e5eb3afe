import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

/// The rows of `thin_rmap`, also of pools that do not fit in memory at once. `InteropTests` holds its output
/// against the peer's.
@Suite struct RmapRowTests {
  private struct Row: Hashable {
    var device: UInt64
    var data: Range<UInt64>
    var virtual: UInt64
  }

  private func rows(_ device: MemoryDevice, _ regions: [Range<UInt64>], runsMax: Int? = nil) throws
    -> [Row]
  {
    var options = RmapOptions()
    options.regions = regions.map { DataBlock($0.lowerBound)..<DataBlock($0.upperBound) }
    if let runsMax { options.runsMax = runsMax }
    var rows: [Row] = []
    try ThinRmap.run(device, options: options, progress: Progress()) { run, ids in
      for i in ids.indices {
        rows.append(
          Row(
            device: ids[i].rawValue, data: run.dataBegin.rawValue..<run.dataEnd.rawValue,
            virtual: run.virtualBegin.rawValue))
      }
    }
    return rows
  }

  /// The rows that the mappings of a dump make: each as long as it can be.
  private func expected(_ pool: DumpedPool, _ regions: [Range<UInt64>]) -> [Row] {
    var rows: [Row] = []
    for (id, device) in pool.devices {
      var row: Row?
      for (virtual, mapping) in device.mappings.sorted(by: { $0.key < $1.key })
      where regions.isEmpty || regions.contains(where: { $0.contains(mapping.dataBlock) }) {
        if let last = row, last.data.upperBound == mapping.dataBlock,
          last.virtual + UInt64(last.data.count) == virtual
        {
          row?.data = last.data.lowerBound..<(mapping.dataBlock + 1)
          continue
        }
        if let row { rows.append(row) }
        row = Row(device: id, data: mapping.dataBlock..<(mapping.dataBlock + 1), virtual: virtual)
      }
      if let row { rows.append(row) }
    }
    return rows.sorted {
      ($0.data.lowerBound, $0.data.upperBound, $0.device, $0.virtual)
        < ($1.data.lowerBound, $1.data.upperBound, $1.device, $1.virtual)
    }
  }

  @Test(
    "rows are the longest that the mappings make, however few runs fit in memory at once",
    arguments: Histories.kinds.indices)
  func windows(_ index: Int) throws {
    for seed in 1...UInt64(4) {
      let device = try PoolHistory(Histories.kinds[index], seed: seed).device
      let pool = try DumpedPool(xml: dumped(device))
      var random = SplitMix64(seed: seed)
      let begin = UInt64.random(in: 0..<500, using: &random)
      for regions in [
        [], [begin..<(begin + 100)], [begin..<(begin + 7), (begin + 3)..<(begin + 40)],
      ] {
        let wanted = expected(pool, regions)
        for runsMax in [nil, 2, 7, 100] {
          let found = try rows(device, regions, runsMax: runsMax)
          #expect(found == wanted, "seed \(seed), \(regions), \(runsMax ?? 0) runs at once")
        }
      }
    }
  }
}
