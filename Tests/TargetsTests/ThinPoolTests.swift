import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Targets
import TestSupport
import Testing
import ThinTools

private let kib = 1024
private let block = blockBytes

@Suite("Thin pools in user space")
struct ThinPoolTests {
  @Test("written data is read back, the rest of the block and of the device reads as zeros")
  func provisioning() throws {
    let world = try World()
    try world.makePool(dataBytes: 64 * block)
    try world.makeThin(1, bytes: 16 * block)
    let bytes = pattern(1, 8 * kib)
    #expect(try world.write("thin1", at: 3 * block - 4 * kib, bytes) == 0)
    #expect(
      try world.read("thin1", at: 0, count: 16 * block)
        == zeros(3 * block - 4 * kib) + bytes + zeros(13 * block - 4 * kib))
    #expect(try world.status("thin1") == "256 \(4 * 128 - 1)")
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("small writes to one new block, all at once, take one block and one write")
  func merging() throws {
    let world = try World()
    try world.makePool(dataBytes: 64 * block)
    try world.makeThin(1, bytes: 16 * block)
    let bytes = pattern(2, block)
    let writes = try (0..<16).map {
      try world.start(
        .write, "thin1", at: $0 * 4 * kib, Array(bytes[($0 * 4 * kib)..<(($0 + 1) * 4 * kib)]))
    }
    world.finish(writes)
    #expect(try world.read("thin1", at: 0, count: block) == bytes)
    #expect(world.disks["data"]?.count(.write) == 1)
    #expect(try world.pool().data.used == 1)
  }

  @Test("a snapshot keeps the former content, and both sides change independently")
  func snapshots() throws {
    let world = try World()
    try world.makePool(dataBytes: 64 * block)
    try world.makeThin(1, bytes: 4 * block)
    let old = pattern(3, 2 * block)
    #expect(try world.write("thin1", at: 0, old) == 0)
    try world.snapshot(2, of: 1)
    try world.activate(2, bytes: 4 * block)
    let change = pattern(4, 4 * kib)
    #expect(try world.write("thin1", at: 8 * kib, change) == 0)
    #expect(try world.write("thin2", at: block + 512, change) == 0)
    #expect(
      try world.read("thin1", at: 0, count: 2 * block)
        == Array(old[0..<(8 * kib)]) + change + Array(old[(12 * kib)...]))
    #expect(
      try world.read("thin2", at: 0, count: 2 * block)
        == Array(old[0..<(block + 512)]) + change + Array(old[(block + 512 + 4 * kib)...]))
    #expect(try world.pool().data.used == 4)
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("a full pool queues writes, and they continue when it has grown")
  func queueing() throws {
    let world = try World()
    try world.makeFullPool()
    let late = try world.start(.write, "thin1", at: 8 * block, pattern(6, 4 * kib))
    world.passes()
    #expect(!late.isDone)
    #expect(try world.pool().mode == .outOfDataSpace)
    try world.growPool(to: 8 * block)
    world.finish([late])
    #expect(late.error == 0)
    #expect(try world.pool().mode == .readWrite)
    #expect(try world.read("thin1", at: 8 * block, count: 4 * kib) == pattern(6, 4 * kib))
  }

  @Test("a full pool fails writes with ENOSPC if its table says so, or after the timeout")
  func noSpace() throws {
    let world = try World()
    try world.makePool(dataBytes: 4 * block, "1 error_if_no_space", lowWater: 2)
    try world.makeThin(1, bytes: 16 * block)
    let before = try world.event()
    #expect(try world.write("thin1", at: 0, pattern(5, 2 * block)) == 0)
    #expect(try world.event() == before)
    #expect(try world.write("thin1", at: 2 * block, pattern(5, 2 * block)) == 0)
    // The low-water mark, once.
    #expect(try world.event() == before + 1)
    #expect(try world.write("thin1", at: 8 * block, pattern(6, 4 * kib)) == ENOSPC)
    #expect(try world.event() == before + 2)
    // A discard makes room, after the next commit.
    #expect(try world.perform(.discard, "thin1", at: 0, count: block) == 0)
    #expect(try world.status().contains(" rw "))
    #expect(try world.write("thin1", at: 8 * block, pattern(6, 4 * kib)) == 0)
    let other = try World()
    try other.makeFullPool()
    let held = try other.start(.write, "thin1", at: 8 * block, pattern(6, 4 * kib))
    other.passes()
    other.skip(seconds: 61)
    other.finish([held])
    #expect(held.error == ENOSPC)
    #expect(try other.pool().noSpace == .error)
    #expect(try other.pool().mode == .outOfDataSpace)
  }

  @Test("a failed metadata write makes the pool read-only and sets its needs-check flag")
  func metadataFailure() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.makeThin(1, bytes: 16 * block)
    #expect(try world.write("thin1", at: 0, pattern(7, block)) == 0)
    #expect(try world.perform(.flush, "thin1") == 0)
    #expect(try world.write("thin1", at: block, pattern(8, block)) == 0)
    world.disks["meta"]?.fails = { operation, _ in operation == .write }
    #expect(try world.perform(.flush, "thin1") == EIO)
    let pool = try world.pool()
    #expect(pool.mode == .readOnly && pool.needsCheck)
    #expect(try world.read("thin1", at: 0, count: 2 * block) == pattern(7, block) + zeros(block))
    #expect(try world.write("thin1", at: 2 * block, pattern(8, block)) == EIO)
    #expect(try world.write("thin1", at: 0, pattern(9, block)) == 0)
    #expect(try world.perform(.flush, "thin1") == EIO)
    #expect(world.refusal("create_thin 2") == EOPNOTSUPP)
    world.disks["meta"]?.fails = { _, _ in false }
    let report = try world.checkedAtEnd()
    #expect(report.isClean && report.needsCheck, "\(report.findings)")
  }

  @Test("an external origin is read where nothing was written, up to its end")
  func externalOrigin() throws {
    let world = try World()
    try world.makePool(dataBytes: 64 * block)
    let old = pattern(10, 2 * block + 4 * kib)
    try world.add("origin", MemoryDisk(world.loop, bytes: old, seed: 3))
    try world.message("create_thin 1")
    try world.activate(1, bytes: 4 * block, origin: "origin")
    let whole = old + zeros(2 * block - 4 * kib)
    #expect(try world.read("thin1", at: 0, count: 4 * block) == whole)
    let change = pattern(11, 512)
    var expected = whole
    for at in [1024, 2 * block + 1024, 3 * block + 512] {
      #expect(try world.write("thin1", at: at, change) == 0)
      expected.replaceSubrange(at..<(at + 512), with: change)
    }
    #expect(try world.read("thin1", at: 0, count: 4 * block) == expected)
    #expect(try world.perform(.discard, "thin1", at: 0, count: block) == 0)
    expected.replaceSubrange(0..<block, with: old[0..<block])
    #expect(try world.read("thin1", at: 0, count: 4 * block) == expected)
    #expect(world.disks["origin"]?.bytes == old)
  }

  @Test("messages are refused with the kernel's error numbers, and refusals change nothing")
  func messages() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.makeThin(1, bytes: 16 * block)
    try world.message("set_transaction_id 0 7")
    let before = try world.status()
    let cases: [(String, Int32)] = [
      ("create_thin 1", EEXIST), ("create_thin 16777216", EINVAL), ("create_snap 1 1", EEXIST),
      ("create_snap 2 9", ENODATA), ("delete 9", ENODATA), ("delete 1", EBUSY),
      ("set_transaction_id 1 2", EINVAL), ("release_metadata_snap", EINVAL), ("nonsense", EINVAL),
    ]
    for (text, code) in cases {
      #expect(world.refusal(text) == code)
    }
    #expect(try world.status() == before)
    try world.message("reserve_metadata_snap")
    #expect(try world.pool().heldRoot != nil)
    #expect(world.refusal("reserve_metadata_snap") == EBUSY)
    try world.message("release_metadata_snap")
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("suspending a thin device without flush returns writes that wait for space")
  func suspendHeld() throws {
    let world = try World()
    try world.makeFullPool()
    let late = try world.start(.write, "thin1", at: 8 * block, pattern(6, 4 * kib))
    world.passes()
    try world.dm.suspend(.name("thin1"), .noFlush)
    try world.growPool(to: 8 * block)
    world.passes()
    #expect(!late.isDone)
    try world.resume("thin1")
    world.finish([late])
    #expect(late.error == 0)
    #expect(try world.read("thin1", at: 8 * block, count: 4 * kib) == pattern(6, 4 * kib))
  }
}
