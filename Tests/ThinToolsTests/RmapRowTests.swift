import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

/// The rows of `thin_rmap`, also of pools that do not fit in memory at once. `InteropTests` holds its output
/// against the peer's.
@Suite struct RmapRowTests {
  private func rows(_ device: MemoryDevice, _ regions: [Range<UInt64>], runsMax: Int? = nil) throws
    -> [DumpedPool.ReverseRow]
  {
    var options = RmapOptions()
    options.regions = regions.map { DataBlock($0.lowerBound)..<DataBlock($0.upperBound) }
    if let runsMax { options.runsMax = runsMax }
    var rows: [DumpedPool.ReverseRow] = []
    try ThinRmap.run(device, options: options, progress: Progress()) { run, ids in
      for i in ids.indices {
        rows.append(
          DumpedPool.ReverseRow(
            device: ids[i].rawValue, data: run.dataBegin.rawValue..<run.dataEnd.rawValue,
            virtual: run.virtualBegin.rawValue))
      }
    }
    return rows
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
        let wanted = pool.reverseRows(regions)
        for runsMax in [nil, 2, 7, 100] {
          let found = try rows(device, regions, runsMax: runsMax)
          #expect(found == wanted, "seed \(seed), \(regions), \(runsMax ?? 0) runs at once")
        }
      }
    }
  }
}
