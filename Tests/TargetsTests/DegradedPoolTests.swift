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

@Suite("Degraded thin pools in user space")
struct DegradedPoolTests {
  @Test("without metadata space no block is mapped, until the metadata device has grown")
  func metadataSpace() throws {
    let world = try World()
    let old = try world.makeUsedPool(metaBytes: 64 * 4096)
    // Each new device takes a metadata block.
    var id = 1
    while try world.pool().mode == .readWrite {
      id += 1
      try world.message("create_thin \(id)")
      try #require(id < 64)
    }
    let pool = try world.pool()
    #expect(pool.mode == .readOnly && !pool.needsCheck && pool.metadata.used == 64)
    #expect(try world.write("thin1", at: block, old) == EIO)
    #expect(try world.write("thin1", at: 0, old) == 0)
    #expect(try world.perform(.writeZeroes, "thin1", at: 0, count: block) == EIO)
    #expect(try world.perform(.discard, "thin1", at: 0, count: block) == 0)
    #expect(try world.read("thin1", at: 0, count: 2 * block) == old + zeros(block))
    #expect(world.refusal("create_thin 100") == EOPNOTSUPP)
    world.disks["meta"]?.grow(to: 1 << 20)
    try world.dm.suspend(.name("pool"), [])
    try world.resume("pool")
    #expect(try world.pool().mode == .readWrite && world.pool().metadata.total == 256)
    try world.message("create_thin 100")
    #expect(try world.write("thin1", at: block, old) == 0)
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("a pool whose metadata cannot be read fails, and loses only unflushed data")
  func failure() throws {
    let world = try World()
    let old = try world.makeUsedPool()
    #expect(try world.perform(.flush, "thin1") == 0)
    #expect(try world.write("thin1", at: block, old) == 0)
    world.disks["meta"]?.fails = { operation, _ in operation != .flush }
    #expect(try world.perform(.flush, "thin1") == EIO)
    #expect(try world.status() == "Fail" && world.status("thin1") == "Fail")
    let read = try world.start(.read, "thin1", count: block)
    world.finish([read])
    #expect(read.error == EIO)
    #expect(try world.write("thin1", at: 0, old) == EIO)
    #expect(try world.perform(.discard, "thin1", at: 0, count: block) == EIO)
    world.disks["meta"]?.fails = { _, _ in false }
    #expect(world.refusal("create_thin 2") == EOPNOTSUPP)
    #expect(throws: DeviceMapperError.self) { try world.activate(1, bytes: block) }
    try world.dm.suspend(.name("pool"), [])
    try world.resume("pool")
    #expect(try world.status() == "Fail")
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
    try world.create("pool", [world.poolLine(16 * block)])
    try world.activate(1, bytes: 8 * block)
    #expect(try world.read("thin1", at: 0, count: 2 * block) == old + zeros(block))
  }

  @Test("writes that wait for space fail at the timeout; after the pool has grown they wait again")
  func timeout() throws {
    let world = try World()
    try world.makeFullPool()
    try world.makeThin(2, bytes: 8 * block)
    let held = [
      try world.start(.write, "thin1", at: 8 * block, pattern(6, 4 * kib)),
      try world.start(.write, "thin2", at: 100, pattern(7, 512)),
    ]
    world.skip(seconds: 30)
    world.passes()
    #expect(held.allSatisfy { !$0.isDone })
    let event = try world.event()
    world.skip(seconds: 31)
    world.finish(held)
    #expect(held.allSatisfy { $0.error == ENOSPC })
    #expect(try world.event() == event + 1 && world.pool().noSpace == .error)
    #expect(try world.write("thin2", at: 0, pattern(7, 512)) == ENOSPC)
    #expect(try world.read("thin1", at: 0, count: 4 * block) == pattern(5, 4 * block))
    try world.growPool(to: 6 * block)
    #expect(try world.pool().noSpace == .queue)
    #expect(try world.write("thin2", at: 0, pattern(7, 2 * block)) == 0)
    let late = try world.start(.write, "thin1", at: 8 * block, pattern(6, 4 * kib))
    world.passes()
    #expect(!late.isDone)
    world.skip(seconds: 61)
    world.finish([late])
    #expect(late.error == ENOSPC)
  }

  @Test("thin devices of a pool whose table became an error fail, and work again when it is back")
  func replaced() throws {
    let world = try World()
    let old = try world.makeUsedPool()
    try world.dm.suspend(.name("pool"), .noFlush)
    let held = try world.start(.write, "thin1", at: block, old)
    world.passes()
    #expect(!held.isDone)
    try world.reload("pool", [world.line(2048, "error", "")])
    world.finish([held])
    #expect(held.error == EIO)
    #expect(try world.write("thin1", at: block, old) == EIO)
    try world.reload("pool", [world.poolLine(16 * block)])
    #expect(try world.read("thin1", at: 0, count: 2 * block) == old + zeros(block))
    #expect(try world.write("thin1", at: block, old) == 0)
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("in a full pool a flush succeeds and keeps earlier writes, while other writes wait")
  func flushWhenFull() throws {
    let world = try World()
    try world.makeFullPool()
    // Block 0 of thin device 2 is not mapped: the kernel fails its flushes.
    try world.makeThin(2, bytes: 8 * block)
    let held = try world.start(.write, "thin2", at: 0, pattern(6, 4 * kib))
    world.passes()
    #expect(try !held.isDone && world.pool().mode == .outOfDataSpace)
    #expect(try world.write("thin1", at: block, pattern(8, 512)) == 0)
    for name in ["thin1", "thin2"] { #expect(try world.perform(.flush, name) == 0) }
    #expect(
      try world.perform(.write, "thin1", at: 2 * block, pattern(9, 512), flags: .durable) == 0)
    let durable = try #require(world.disks["data"]).durable
    #expect(try !held.isDone && world.pool().mode == .outOfDataSpace)
    world.skip(seconds: 61)
    world.finish([held])
    #expect(held.error == ENOSPC)
    #expect(try world.perform(.flush, "thin2") == 0)
    // Flushed data is there after a power cut.
    let other = try World()
    try other.makePool(meta: try #require(world.disks["meta"]).durable, data: durable)
    try other.activate(1, bytes: 16 * block)
    #expect(try other.read("thin1", at: block, count: 512) == pattern(8, 512))
    #expect(try other.read("thin1", at: 2 * block, count: 512) == pattern(9, 512))
  }

  @Test("in a read-only pool a flush succeeds, except on a device that lost writes")
  func flushWhenReadOnly() throws {
    let world = try World()
    _ = try world.makeUsedPool()
    try world.makeThin(2, bytes: 8 * block)
    #expect(try world.perform(.flush, "thin1") == 0)
    #expect(try world.write("thin1", at: 4 * block, pattern(3, block)) == 0)
    world.disks["data"]?.fails = { operation, _ in operation == .flush }
    #expect(try world.perform(.flush, "thin1") == EIO)
    world.disks["data"]?.fails = { _, _ in false }
    #expect(try world.pool().mode == .readOnly)
    #expect(try world.perform(.flush, "thin1") == EIO)
    #expect(try world.perform(.flush, "thin2") == 0)
  }

  @Test("lack of space below the data is ENOSPC for the writes that need it, and is logged once")
  func noRoomBelow() throws {
    for code in [ENOSPC, EDQUOT, EFBIG] {
      let world = try World()
      let old = try world.makeUsedPool()
      let data = try #require(world.disks["data"])
      data.failure = code
      data.fails = { operation, _ in operation == .write }
      // Whole blocks, parts of blocks, and several blocks at once.
      for (at, count) in [(block, block), (2 * block, 512), (3 * block + 512, 3 * block)] {
        let error = try world.write("thin1", at: at, pattern(4, count))
        #expect(error == code, "\(at) \(count)")
      }
      #expect(world.log.count { $0.contains("no room") } == 1)
      data.fails = { _, _ in false }
      #expect(try world.write("thin1", at: 512, pattern(5, 512)) == 0)
      #expect(try world.perform(.flush, "thin1") == 0)
      #expect(try world.write("thin1", at: block, old) == 0)
      #expect(world.log.count { $0.contains("room") } == 2)
      #expect(try world.pool().mode == .readWrite)
      let report = try world.checkedAtEnd()
      #expect(report.isClean && !report.needsCheck, "\(report.findings)")
    }
  }

  @Test("without zeroing, written zeros stay when a neighbouring sector is written")
  func zerosWithoutZeroing() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block, "1 skip_block_zeroing")
    try world.makeThin(1, bytes: 8 * block)
    // Without this promise a server writes zeros to holes too.
    #expect(world.mapper.find(.name("thin1"))?.holesStayZero == false)
    #expect(try world.write("thin1", at: 0, pattern(1, 2 * block)) == 0)
    #expect(try world.perform(.writeZeroes, "thin1", at: 0, count: 2 * block) == 0)
    #expect(try world.perform(.flush, "thin1") == 0)
    #expect(try world.write("thin1", at: 512, pattern(2, 512)) == 0)
    let expected = zeros(512) + pattern(2, 512) + zeros(2 * block - 1024)
    #expect(try world.read("thin1", at: 0, count: 2 * block) == expected)
  }

  @Test("a message fails if its commit does, and has no effect then")
  func message() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.message("create_thin 1")
    world.disks["data"]?.fails = { operation, _ in operation == .flush }
    #expect(world.refusal("create_thin 2") == EIO)
    #expect(try world.pool().mode == .readOnly)
    #expect(throws: DeviceMapperError.self) { try world.activate(2, bytes: block) }
    try world.activate(1, bytes: block)
  }

  @Test("writes are committed after a while without a flush")
  func periodicCommit() throws {
    let world = try World()
    let usual = UserspaceDeviceMapper(loop: world.loop, queue: world.queue, workers: world.workers)
    #expect(usual.commitIntervalNanoseconds == World.second)
    world.mapper.commitIntervalNanoseconds = World.second
    try world.makePool(dataBytes: 16 * block)
    try world.makeThin(1, bytes: 8 * block)
    let meta = try #require(world.disks["meta"])
    let flushes = meta.count(.flush)
    let bytes = pattern(1, 3 * block)
    #expect(try world.write("thin1", at: 512, bytes) == 0)
    world.skip(seconds: 1)
    world.loop.run(within: 600_000_000_000, until: { meta.count(.flush) >= flushes + 2 })
    let other = try World()
    let data = try #require(world.disks["data"])
    try other.makePool(meta: meta.durable, data: data.durable)
    try other.activate(1, bytes: 8 * block)
    #expect(try other.read("thin1", at: 512, count: 3 * block) == bytes)
  }

  @Test(
    "a pool that is taken down while a commit waits for the data device commits when that goes on")
  func takenDown() throws {
    let world = try World()
    world.mapper.commitIntervalNanoseconds = 1
    _ = try world.makeUsedPool()
    world.disks["data"]?.isHalted = true
    world.passes(20)
    var isDown = false
    world.loop.begin {
      world.mapper.removeAll()
      isDown = true
    }
    world.passes(20)
    #expect(!isDown)
    world.disks["data"]?.isHalted = false
    world.loop.run(within: 60_000_000_000, until: { isDown })
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test(
    "discards are passed down only where a block is not more than the data device takes at once")
  func passdown() throws {
    for (limit, isPassedDown) in [(block / 2, false), (block, true), (0, false)] {
      let world = try World()
      try world.add("meta", byteCount: 1 << 20)
      try world.add("data", byteCount: 16 * block)
      world.disks["data"]?.discardLimit = UInt64(limit)
      try world.create("pool", [world.poolLine(16 * block)])
      try world.makeThin(1, bytes: 8 * block)
      #expect(try world.pool().discards == (isPassedDown ? .passedDown : .notPassedDown))
      #expect(try world.write("thin1", at: 0, pattern(1, 2 * block)) == 0)
      #expect(try world.perform(.discard, "thin1", at: 0, count: 2 * block) == 0)
      #expect((world.disks["data"]?.count(.discard) ?? 0 > 0) == isPassedDown)
      #expect(try world.read("thin1", at: 0, count: block) == zeros(block))
      #expect(try world.pool().data.used == 0)
    }
  }

  @Test("a block that two devices released is discarded only after the commit")
  func sharedDiscard() throws {
    let world = try World()
    let old = try world.makeUsedPool()
    try world.snapshot(2, of: 1)
    try world.activate(2, bytes: 8 * block)
    #expect(try world.write("thin1", at: 0, pattern(2, 512)) == 0)
    #expect(try world.perform(.discard, "thin2", at: 0, count: block) == 0)
    #expect(world.disks["data"]?.count(.discard) == 1)
    // The power fails: data is as it is now, metadata as of the last flush.
    let other = try World()
    let meta = try #require(world.disks["meta"]).durable
    let data = try #require(world.disks["data"]).bytes
    try other.makePool(meta: meta, data: data)
    try other.activate(1, bytes: 8 * block)
    #expect(try other.read("thin1", at: 512, count: block - 512) == Array(old[512...]))
  }

  @Test("tables may name devices by number, and metadata may be on a userspace device")
  func names() throws {
    let world = try World()
    let meta = try world.add("meta", byteCount: 1 << 20)
    let data = try world.add("data", byteCount: 16 * block)
    try world.create("m", [world.line(2048, "linear", "\(meta) 0")])
    try world.create("d d", [world.line(UInt64(16 * block / 512), "linear", "\(data) 0")])
    let parameters = "/dev/dm-0 /dev/mapper/d\\x20d 128 0 0"
    try world.create("pool", [world.line(UInt64(16 * block / 512), "thin-pool", parameters)])
    try world.makeThin(1, bytes: 8 * block)
    #expect(try world.write("thin1", at: 0, pattern(1, block)) == 0)
    for name in ["m", "d d"] {
      #expect(try world.dm.info(.name(name), [])?.openCount == 1)
      #expect(throws: DeviceMapperError.self) {
        try world.dm.remove(.name(name), deferred: false, retry: false)
      }
    }
    try world.dm.remove(.name("thin1"), deferred: false, retry: false)
    try world.dm.remove(.name("pool"), deferred: false, retry: false)
    for name in ["m", "d d"] { #expect(try world.dm.info(.name(name), [])?.openCount == 0) }
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }
}
