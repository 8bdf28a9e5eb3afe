import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// `thin_dump --repair`: a damaged node costs what was below it, and nothing else.
@Suite struct SalvageTests {
  @Test("of a sound pool everything is saved and nothing is reported lost", arguments: Pools.names)
  func soundPool(_ name: String) throws {
    let pool = try PoolUnderTest(name)
    let (xml, losses, _) = try salvaged(pool.device)
    #expect(try xml == dumped(pool.device))
    #expect(losses.isEmpty)
  }

  @Test(
    "damaged leaves cost their own mappings and no others, and what is saved restores to a sound pool",
    arguments: ["snapshots-of-snapshots", "multi-level", "many-devices", "data-refcounts"])
  func damagedLeaves(_ name: String) throws {
    var random = SplitMix64(seed: seed())
    let pool = try PoolUnderTest(name)
    var expected = DumpedPool(xml: try dumped(pool.device))
    let leaves = pool.catalogue.blocks[.node(.mappings, isLeaf: true)] ?? []
    let damaged = Set((0..<3).compactMap { _ in leaves.randomElement(using: &random) })
    var lost: [UInt64: [Range<UInt64>]] = [:]
    for (id, root) in pool.roots(pool.device.superblock) {
      for leaf in pool.leaves(of: root) where damaged.contains(leaf.block) {
        lost[id, default: []].append(leaf.range)
        for entry in pool.device.nodeEntries(leaf.block).entries {
          expected.devices[id]?.mappings[entry.key] = nil
        }
      }
    }
    for block in damaged { pool.device.edit(block)[100] ^= 1 }
    let (xml, losses, _) = try salvaged(pool.device)
    let saved = DumpedPool(xml: xml)
    #expect(saved.devices.keys.sorted() == expected.devices.keys.sorted())
    for (id, device) in saved.devices {
      // What earlier generations had in the place of lost leaves may be there as well.
      let certain = device.mappings.filter { entry in
        lost[id]?.contains { $0.contains(entry.key) } != true
      }
      #expect(certain == expected.devices[id]?.mappings, "damaged: \(damaged)")
      #expect(device.attributes["mapped_blocks"] == "\(device.mappings.count)")
    }
    for block in damaged { #expect(losses.contains { $0.contains("block \(block)") }) }

    let copy = MemoryDevice(byteCount: Int(pool.device.byteCount))
    try restore(xml, to: copy)
    #expect(try checked(copy).isClean)
    #expect(DumpedPool(xml: try dumped(copy)).devices == saved.devices)
  }

  @Test(
    "a lost superblock costs nothing when the latest trees of devices are whole",
    arguments: [
      "block-size-1g", "block-size-64k", "data-refcounts", "device-ids", "discard-holes", "fresh",
      "grown", "metadata-refcounts", "multi-level", "needs-check", "snapshots-of-snapshots",
    ])
  func lostSuperblock(_ name: String) throws {
    let pool = try PoolUnderTest(name)
    let before = DumpedPool(xml: try dumped(pool.device))
    let superblock = pool.device.superblock
    // Earlier generations go too: how many are left depends on when the kernel committed.
    for block in 0..<(pool.device.byteCount / 4096)
    where block == 0 || pool.catalogue.roles[block] == nil { pool.device.wipe(block) }
    #expect(throws: ToolError.self) { try salvaged(pool.device) }
    let (xml, losses, _) = try salvaged(pool.device) {
      $0.salvage.overrides.dataBlockSectors = superblock.dataBlockSectors
      $0.salvage.overrides.dataBlockCount = superblock.dataSpaceMap.blockCount
    }
    #expect(DumpedPool(xml: xml).devices == before.devices)
    #expect(!losses.isEmpty, "what was guessed is said")
  }

  @Test(
    "of the generations that are left when the superblock is lost, the latest is taken",
    arguments: Histories.kinds.indices)
  func latestGeneration(_ index: Int) throws {
    for seed in UInt64(1)...8 {
      let history = try PoolHistory(Histories.kinds[index], seed: seed)
      let before = DumpedPool(xml: try dumped(history.device))
      history.device.wipe(0)
      let (xml, _, _) = try salvaged(history.device) { $0.salvage.overrides.dataBlockSectors = 128 }
      #expect(
        DumpedPool(xml: xml).devices == before.devices,
        "\(Histories.kinds[index].name), seed \(seed)")
    }
  }

  @Test("where the superblock and the tree of devices are lost, the latest devices are saved")
  func latestWithoutDeviceTree() throws {
    let history = try PoolHistory(Histories.kinds[1], seed: 3)
    let before = DumpedPool(xml: try dumped(history.device))
    let last = try #require(history.superblocks.last?.mappingRoot)
    history.device.edit(last)[100] ^= 1
    history.device.wipe(0)
    let (xml, losses, _) = try salvaged(history.device) {
      $0.salvage.overrides.dataBlockSectors = 128
    }
    #expect(DumpedPool(xml: xml).devices == before.devices)
    #expect(losses.contains { $0.contains("of which some are lost") }, "\(losses)")
  }

  @Test("where little is left of the latest generation and no superblock, one before is taken")
  func generationBefore() throws {
    let history = try PoolHistory(Histories.kinds[1], seed: 3)
    let last = try #require(history.superblocks.last?.mappingRoot)
    let before = try #require(history.superblocks.last { $0.mappingRoot != last }?.mappingRoot)
    history.device.edit(last)[100] ^= 1
    let details = try #require(history.superblocks.last?.detailsRoot)
    history.device.edit(details)[100] ^= 1
    history.device.wipe(0)
    let (_, losses, _) = try salvaged(history.device) {
      $0.salvage.overrides.dataBlockSectors = 128
    }
    #expect(losses.contains { $0.contains("device tree at block \(before)") }, "\(losses)")
  }

  @Test("a lost details tree leaves every mapping, with details made up and said to be")
  func lostDetails() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    let before = DumpedPool(xml: try dumped(pool.device))
    // Every generation of it, so that no earlier one can serve instead.
    for block in 0..<(pool.device.byteCount / 4096) {
      let node = RawSpan(_unsafeBytes: pool.device.peek(block))
      let view = try? BtreeNodeView(validating: node, number: block, leafValueSize: 24)
      if let view, view.isLeaf { pool.device.edit(block)[200] ^= 1 }
    }
    let (xml, losses, _) = try salvaged(pool.device)
    let after = DumpedPool(xml: xml)
    #expect(after.devices.mapValues(\.mappings) == before.devices.mapValues(\.mappings))
    #expect(losses.contains { $0.contains("details are lost") })
  }

  @Test("a pool whose only mapping is of data block 0 is saved like any other")
  func dataBlockZero() throws {
    let device = MemoryDevice(byteCount: 64 * 4096)
    try restore(
      """
      <superblock uuid="" time="3" transaction="1" version="2" data_block_size="128" \
      nr_data_blocks="100">
        <device dev_id="1" mapped_blocks="1" transaction="0" creation_time="0" snap_time="3">
          <single_mapping origin_block="0" data_block="0" time="3"/>
        </device>
      </superblock>
      """, to: device)
    device.keep()
    let before = try dumped(device)
    #expect(try salvaged(device).xml == before)
    device.wipe(0)
    let (xml, _, _) = try salvaged(device) { $0.salvage.overrides.dataBlockSectors = 128 }
    #expect(DumpedPool(xml: xml).devices == DumpedPool(xml: before).devices)
  }
}

/// Lives of pools that leave earlier generations of every sort.
enum Histories {
  static let kinds = [
    kind("discards", blocks: 200...400, operations: 1...20) {
      $0.discards = 400
      $0.run = 20
    },
    kind("discards, and room for every generation", blocks: 3000...4000, operations: 1...10) {
      $0.discards = 400
      $0.run = 20
    },
    kind("deleted snapshots", blocks: 300...500, operations: 1...10) {
      $0.snapshots = 50
      $0.deletions = 45
      $0.discards = 200
      $0.run = 8
    },
    kind("devices made and deleted", blocks: 200...400, operations: 1...5) {
      $0.creations = 200
      $0.deletions = 180
    },
    kind("activations", blocks: 600...2000, operations: 1...20) {
      $0.discards = 350
      $0.run = 10
      $0.activations = 60
    },
    kind("metadata grown after many commits", blocks: 200...300, operations: 1...5) {
      $0.discards = 400
      $0.activations = 60
      $0.grownBlocks = 16_400
    },
  ]

  private static func kind(
    _ name: String, blocks: ClosedRange<Int>, operations: ClosedRange<Int>,
    _ change: (inout PoolHistory.Kind) -> Void
  ) -> PoolHistory.Kind {
    var kind = PoolHistory.Kind(
      name, metadataBlocks: blocks, commits: 20...120, operations: operations, window: 300...2000)
    change(&kind)
    return kind
  }
}
