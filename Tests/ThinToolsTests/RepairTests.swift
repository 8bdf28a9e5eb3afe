import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

/// What `thin_repair` writes: what `thin_dump --repair` and `thin_restore` would, and the metadata
/// snapshot; or nothing at all.
@Suite struct RepairTests {
  /// A repair of `device` to an output of so many blocks.
  private func repaired(
    _ device: any BlockDevice, blocks: UInt64? = nil,
    _ change: (inout RepairOptions) -> Void = { _ in }
  ) throws -> (output: MemoryDevice, result: RepairResult) {
    let output = MemoryDevice(byteCount: Int(blocks.map { $0 * 4096 } ?? device.byteCount))
    var options = RepairOptions()
    change(&options)
    return (output, try ThinRepair.run(device, to: output, options: options))
  }

  private func isEqual(_ a: MemoryDevice, _ b: MemoryDevice) -> Bool {
    a.byteCount == b.byteCount
      && (0..<(a.byteCount / 4096)).allSatisfy { a.peek($0).elementsEqual(b.peek($0)) }
  }

  /// Mappings of every device, whatever blocks name their definitions.
  private func model(_ device: any BlockDevice, snapshot: Bool = false) throws -> DumpedPool {
    DumpedPool(xml: try dumped(device) { $0.source = snapshot ? .metadataSnapshot : .current })
  }

  @Test("of a sound pool it is what a dump restores to, byte for byte", arguments: Pools.names)
  func soundPool(_ name: String) throws {
    let pool = try PoolUnderTest(name).device
    if pool.superblock.needsCheck { pool.changeSuperblock { $0.needsCheck = false } }
    let (output, result) = try repaired(pool)
    #expect(result.report.isWhole && result.report.notes.isEmpty)
    #expect(try checked(output).isClean)
    guard pool.superblock.metadataSnapshot == 0 else {
      #expect(result.report.snapshot == .kept)
      #expect(try model(output) == model(pool))
      #expect(try model(output, snapshot: true) == model(pool, snapshot: true))
      return
    }
    let restored = MemoryDevice(byteCount: Int(pool.byteCount))
    try restore(dumped(pool), to: restored)
    #expect(isEqual(output, restored))
  }

  @Test("the flag that asks for a check is cleared, everything else of the superblock is kept")
  func superblock() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots").device
    pool.changeSuperblock {
      $0.flags = 5
      $0.uuid = (1, 2)
      $0.transactionID = 77
    }
    let after = try repaired(pool).output.superblock
    #expect(after.flags == 4 && after.uuid == (1, 2) && after.transactionID == 77)
    #expect(
      after.time == pool.superblock.time && after.dataSpaceMap == pool.superblock.dataSpaceMap
        || after.dataSpaceMap.blockCount == pool.superblock.dataSpaceMap.blockCount)
  }

  @Test("an output of the blocks that are needed suffices, and one of fewer stays as it is")
  func sizes() throws {
    let pool = try PoolUnderTest("multi-level").device
    let needed = try repaired(pool).result.neededBlocks
    #expect(needed < pool.byteCount / 4096)
    let (output, result) = try repaired(pool, blocks: needed)
    #expect(result.neededBlocks == needed && result.outputBlocks == needed)
    #expect(try model(output) == model(pool))
    #expect(try checked(output).isClean)
    let small = MemoryDevice(byteCount: Int(needed - 1) * 4096)
    small.edit(0)[5] = 5
    small.keep()
    var said: (UInt64, UInt64)?
    let error = #expect(throws: ToolError.self) {
      try ThinRepair.run(pool, to: small, options: RepairOptions(), onSize: { said = ($0, $1) })
    }
    #expect(error?.cause == .outOfSpace)
    #expect(error?.message.contains("and \(needed) are needed") == true)
    #expect(said.map { $0 == (needed, needed - 1) } == true)
    #expect(small.changedBlocks.isEmpty)
  }

  @Test("the ranges of damaged leaves are reported, and a dry run writes nothing")
  func ranges() throws {
    let pool = try PoolUnderTest("multi-level")
    let root = try #require(pool.roots(pool.device.superblock).min { $0.key < $1.key })
    let leaves = pool.leaves(of: root.value)
    let (first, next, other) = (leaves[1], leaves[2], leaves[5])
    for leaf in [first, next, other] { pool.device.wipe(leaf.block) }
    pool.device.keep()
    var options = RepairOptions()
    let result = try ThinRepair.run(pool.device, to: nil, options: options)
    #expect(pool.device.changedBlocks.isEmpty)
    let device = try #require(result.report.devices.first { $0.id.rawValue == root.key })
    // Where an earlier generation had something in a leaf's place, its range is doubtful.
    #expect(device.ranges.allSatisfy { $0.kind == .lost || $0.kind == .doubtful })
    let places = device.ranges.reduce(into: [Range<UInt64>]()) { places, range in
      let (begin, end) = (range.begin.rawValue, range.end?.rawValue ?? .max)
      if let last = places.last, last.upperBound == begin {
        places[places.count - 1] = last.lowerBound..<end
      } else {
        places.append(begin..<end)
      }
    }
    #expect(places == [first.range.lowerBound..<next.range.upperBound, other.range])
    #expect(!device.isWhole && !result.report.isWhole)
    #expect(device.expected.map { $0 > device.saved } == true)
    options.keepsOld = true
    #expect(throws: ToolError.self) {
      try ThinRepair.run(pool.device, to: pool.device, options: options)
    }
  }

  @Test(
    "a device whose id is larger than any that can be made is left out and named, the others are saved"
  )
  func largeID() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots").device
    let sound = try model(pool)
    let last = try #require(sound.devices.keys.max())
    let large: UInt64 = 1 << 40
    #expect(pool.changeLastDeviceID(to: large) == [last, last])
    let (output, result) = try repaired(pool)
    let left = try #require(result.report.leftOut.first)
    #expect(result.report.leftOut.count == 1 && left.id == ThinID(large) && left.root != nil)
    #expect(Int(left.mapped) == sound.devices[last]?.mappings.count)
    #expect(!result.report.isWhole)
    #expect(try checked(output).isClean)
    var expected = sound
    expected.devices[last] = nil
    #expect(try model(output).devices == expected.devices)
  }

  @Test("a damaged metadata snapshot is dropped, and that is said")
  func damagedSnapshot() throws {
    let pool = try PoolUnderTest("held-metadata-snapshot").device
    let before = try model(pool)
    pool.edit(pool.superblock.metadataSnapshot)[100] ^= 1
    let (output, result) = try repaired(pool)
    #expect(result.report.snapshot == .dropped && !result.report.isWhole)
    #expect(output.superblock.metadataSnapshot == 0)
    #expect(try model(output) == before)
    #expect(try checked(output).isClean)
  }

  @Test("over a sound pool the old one stays until the new one is complete, if there is room")
  func besideOld() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots").device
    let output = try PoolUnderTest("multi-level").device
    let before = try model(output)
    var options = RepairOptions()
    options.keepsOld = true
    _ = try ThinRepair.run(pool, to: output, options: options)
    #expect(try model(output) == model(pool))
    #expect(try checked(output).isClean)
    let full = MemoryDevice(byteCount: 310 * 4096)
    try restore(dumped(PoolUnderTest("multi-level").device), to: full)
    full.keep()
    #expect(try model(full).devices == before.devices)
    let multiLevel = try PoolUnderTest("multi-level").device
    let error = #expect(throws: ToolError.self) {
      try ThinRepair.run(multiLevel, to: full, options: options)
    }
    #expect(error?.cause == .precious)
    #expect(try model(full).devices == before.devices)
    var notices: [String] = []
    _ = try ThinRepair.run(
      PoolUnderTest("multi-level").device, to: full, options: RepairOptions(),
      onNotice: { notices.append($0) })
    #expect(notices.count == 1)
    #expect(try checked(full).isClean)
  }

  @Test("where nothing can be saved, the output stays as it is and what to give is said")
  func nothing() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots").device
    pool.wipe(0)
    let output = MemoryDevice(byteCount: 1 << 20)
    let error = #expect(throws: ToolError.self) {
      try ThinRepair.run(pool, to: output, options: RepairOptions())
    }
    #expect(error?.message.contains("--data-block-size") == true)
    #expect(output.changedBlocks.isEmpty)
  }
}
