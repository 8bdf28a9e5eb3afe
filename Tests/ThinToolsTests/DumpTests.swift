import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@Suite struct DumpTests {
  @Test("a dump has every mapping of every device in the trees", arguments: Pools.names)
  func complete(_ name: String) throws {
    let pool = try PoolUnderTest(name)
    let text = try dumped(pool.device)
    let model = DumpedPool(xml: text)
    let roots = pool.roots(pool.device.superblock)
    #expect(Set(model.devices.keys) == Set(roots.keys))
    var different: [UInt64] = []
    for (id, root) in roots {
      var mappings: [UInt64: DumpedPool.Place] = [:]
      for entry in pool.mappings(of: root) {
        mappings[entry.key] = .init(dataBlock: entry.value >> 24, time: entry.value & 0xFF_FFFF)
      }
      if model.devices[id]?.mappings != mappings { different.append(id) }
    }
    #expect(different.isEmpty)
    let superblock = pool.device.superblock
    #expect(model.attributes["transaction"] == "\(superblock.transactionID)")
    #expect(model.attributes["nr_data_blocks"] == "\(superblock.dataSpaceMap.blockCount)")
    #expect(model.attributes["flags"] == (superblock.needsCheck ? "1" : nil))
    #expect(try dumped(pool.device) == text, "the second time")
  }

  @Test("a run ends where the virtual block, the data block or the time jumps")
  func runs() throws {
    let xml = """
      <superblock uuid="" time="7" transaction="1" version="2" data_block_size="128" \
      nr_data_blocks="5000">
        <device dev_id="1" mapped_blocks="1316" transaction="0" creation_time="0" snap_time="7">
          <range_mapping origin_begin="0" data_begin="10" length="600" time="1"/>
          <range_mapping origin_begin="600" data_begin="610" length="5" time="2"/>
          <single_mapping origin_block="605" data_block="616" time="2"/>
          <single_mapping origin_block="606" data_block="616" time="2"/>
          <range_mapping origin_begin="607" data_begin="615" length="2" time="2"/>
          <range_mapping origin_begin="610" data_begin="617" length="700" time="2"/>
          <single_mapping origin_block="1310" data_block="1317" time="7"/>
          <range_mapping origin_begin="1311" data_begin="1318" length="5" time="2"/>
          <single_mapping origin_block="18446744073709551614" data_block="0" time="0"/>
        </device>
      </superblock>
      """
    let device = zeroDevice(blocks: 64)
    try restore(xml, to: device)
    #expect(try dumped(device) == xml)
  }

  @Test("a dump of chosen devices has no others")
  func chosenDevices() throws {
    let device = try MemoryDevice(contentsOf: Pools.path("snapshots-of-snapshots"))
    let all = try DumpedPool(xml: dumped(device))
    for id in all.devices.keys {
      let one = try DumpedPool(xml: dumped(device) { $0.deviceIDs = [ThinID(id)] })
      #expect(one.devices == all.devices.filter { $0.key == id })
    }
    let known = try #require(all.devices.keys.first)
    let error = #expect(throws: ToolError.self) {
      try dumped(device) { $0.deviceIDs = [9_999_999, ThinID(known), 9_999_998] }
    }
    #expect(error?.cause == .refused && error?.message.contains("9999998, 9999999;") == true)
    let bare = try DumpedPool(xml: dumped(device) { $0.skipMappings = true })
    #expect(bare.devices.keys == all.devices.keys)
    #expect(bare.devices.values.allSatisfy { $0.mappings.isEmpty })
  }

  @Test("the block given with -m must be that of the snapshot, which the error names")
  func snapshotBlock() throws {
    let device = try MemoryDevice(contentsOf: Pools.path("held-metadata-snapshot"))
    let held = MetadataBlock(device.superblock.metadataSnapshot)
    try #require(held != 0)
    let live = try dumped(device)
    let snapshot = try dumped(device) { $0.source = .metadataSnapshot }
    #expect(snapshot != live)
    #expect(try dumped(device) { $0.source = .metadataSnapshotAt(held) } == snapshot)
    for number: UInt64 in [0, 1, held.rawValue - 1, held.rawValue + 1, .max] {
      let block = MetadataBlock(number)
      let error = #expect(throws: ToolError.self) {
        try dumped(device) { $0.source = .metadataSnapshotAt(block) }
      }
      #expect(error?.cause == .metadata(.otherMetadataSnapshot(named: block, held: held)))
      #expect(error?.message.contains("is at block \(held): give -m \(held)") == true)
    }
    device.changeSuperblock { $0.metadataSnapshot = 0 }
    let error = #expect(throws: ToolError.self) {
      try dumped(device) { $0.source = .metadataSnapshotAt(held) }
    }
    #expect(error?.message.contains("no current metadata snap") == true)
  }

  @Test("a full output is an error")
  func fullOutput() throws {
    for name in ["fresh", "multi-level"] {
      let device = try MemoryDevice(contentsOf: Pools.path(name))
      let full = try TextOutput(path: "/dev/full")
      let error = #expect(throws: ToolError.self) {
        try ThinDump.run(device, to: full.sink, options: DumpOptions(), progress: Progress())
      }
      guard case .system(let failed)? = error?.cause else {
        Issue.record("\(String(describing: error))")
        continue
      }
      #expect(failed.operation == .write && failed.code == ENOSPC)
      #expect(error?.message.contains("No space left") == true)
    }
  }

  @Test("a damaged node stops the dump, and is reported")
  func damage() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    for (role, blocks) in pool.catalogue.blocks {
      guard case .node(let kind, _) = role, [.mappings, .devices, .details].contains(kind) else {
        continue
      }
      for block in [blocks[0], blocks[blocks.count - 1]] {
        pool.device.edit(block)[50] ^= 2
        let error = #expect(throws: ToolError.self) { try dumped(pool.device) }
        #expect(error?.isDamage == true)
        #expect(
          error?.message.contains("block \(block)") == true, "\(role): \(error?.message ?? "")")
        pool.device.revert()
      }
    }
  }
}
