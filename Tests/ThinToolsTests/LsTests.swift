import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@Suite struct LsTests {
  private func listed(_ device: any BlockDevice, _ source: MetadataView.Source = .current) throws
    -> [LsRow]
  {
    var options = LsOptions()
    options.source = source
    options.countsExclusive = true
    options.findsHighest = true
    return try ThinLs.run(device, options: options, progress: Progress()).rows
  }

  private func expect(_ rows: [LsRow], _ model: DumpedPool) {
    let exclusive = model.exclusiveCounts
    #expect(rows.map(\.deviceID.rawValue) == model.devices.keys.sorted())
    var different: [String] = []
    for row in rows {
      let id = row.deviceID.rawValue
      let device = model.devices[id]
      let mappings = device?.mappings ?? [:]
      let expected = LsRow(
        deviceID: row.deviceID, mapped: UInt64(mappings.count), exclusive: exclusive[id],
        shared: UInt64(mappings.count) - (exclusive[id] ?? 0),
        highest: mappings.keys.max().map { VirtualBlock($0) },
        transaction: device?.attributes["transaction"].flatMap { UInt64($0) } ?? 0,
        createTime: device?.attributes["creation_time"].flatMap { UInt64($0) } ?? 0,
        snapTime: device?.attributes["snap_time"].flatMap { UInt64($0) } ?? 0)
      if row != expected { different.append("\(row), not \(expected)") }
    }
    #expect(different.isEmpty)
  }

  @Test("rows equal the counts of all mappings", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let device = try FileDevice(path: Pools.path(name), access: .readOnly, exclusive: false)
    try expect(listed(device), DumpedPool(xml: dumped(device)))
  }

  @Test("rows of a metadata snapshot equal the counts of its own mappings")
  func snapshot() throws {
    let device = try MemoryDevice(contentsOf: Pools.path("held-metadata-snapshot"))
    let model = try DumpedPool(xml: dumped(device) { $0.source = .metadataSnapshot })
    try expect(listed(device, .metadataSnapshot), model)
    #expect(try listed(device) != listed(device, .metadataSnapshot))
  }

  @Test("a data block that one device maps twice is not exclusive")
  func twice() throws {
    let pool = try PoolUnderTest("block-size-64k")
    let leaf = try pool.block(.node(.mappings, isLeaf: true))
    var entries = pool.device.nodeEntries(leaf).entries
    entries[1].value = entries[0].value
    pool.device.putNode(leaf, isLeaf: true, entries)
    try expect(listed(pool.device), DumpedPool(xml: dumped(pool.device)))
  }
}
