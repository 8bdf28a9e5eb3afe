import DataPath
import DeviceMapper
import EventLoop
import Targets
import Testing
import ThinTools

private let block = blockBytes

/// A pool whose metadata takes 200 ms for each read, write and flush, by a clock that goes on a millisecond
/// at a time when nothing more comes of the last one; a pool beside it; and clients of both.
private final class SlowWorld {
  static let delay = 200
  let world: World
  private(set) var now = 0
  private var measured: [(outcome: World.Outcome, begun: Int, name: String)] = []
  /// How long requests took, in milliseconds, by what they are called.
  private(set) var latencies: [String: [Int]] = [:]

  init(_ cacheBlocks: Int = 8192) throws {
    world = try World()
    try world.add("m", byteCount: 8 << 20)
    try world.add("data", byteCount: 2048 * block)
    try makeDelay(0)
    try makePool()
    world.mapper.metadataCacheBlocks = cacheBlocks
  }

  private func makeDelay(_ milliseconds: Int) throws {
    try world.create(
      "meta", [world.line(16_384, "delay", "\(world.path("m")) 0 \(milliseconds)")])
  }

  private func makePool() throws {
    try world.create(
      "pool",
      [
        world.line(
          UInt64(2048 * block / 512), "thin-pool", "meta \(world.path("data")) 128 0")
      ])
  }

  /// Takes the pool down, and brings it up again on metadata that is slow: nothing of it is in memory.
  func reopen(_ ids: [Int], bytes: Int) throws {
    world.mapper.removeAll()
    try makeDelay(Self.delay)
    var isUp = false
    world.loop.begin { [self] in
      world.mapper.create(
        DeviceCreation(
          name: "pool",
          table: [
            world.line(
              UInt64(2048 * block / 512), "thin-pool", "meta \(world.path("data")) 128 0")
          ])
      ) { _ in isUp = true }
    }
    try wait { isUp }
    for id in ids {
      var isThere = false
      world.mapper.create(
        DeviceCreation(
          name: "thin\(id)", table: [world.line(UInt64(bytes / 512), "thin", "pool \(id)")])
      ) { _ in isThere = true }
      try wait { isThere }
    }
  }

  /// Begins a request whose time counts.
  @discardableResult
  func start(
    _ name: String, _ operation: BlockOperation, _ device: String, at offset: Int = 0,
    count: Int = 0, _ bytes: [UInt8] = [], flags: BlockFlags = []
  ) throws -> World.Outcome {
    let outcome = try world.start(
      operation, device, at: offset, count: count, bytes, flags: flags)
    measured.append((outcome, now, name))
    return outcome
  }

  /// A millisecond goes by.
  func step() {
    for _ in 0..<20 { world.loop.pass() }
    measured.removeAll {
      guard $0.outcome.isDone else { return false }
      latencies[$0.name, default: []].append(now - $0.begun)
      return true
    }
    now += 1
    world.loop.skip(1_000_000)
  }

  func wait(
    _ most: Int = 100_000, beside body: () throws -> Void = {}, until isDone: () -> Bool
  ) throws {
    for _ in 0..<most where !isDone() {
      try body()
      step()
    }
    try #require(isDone())
  }

  func percentile99(_ name: String) -> Int {
    let all = (latencies[name] ?? []).sorted()
    return all.isEmpty ? .max : all[min(all.count - 1, all.count * 99 / 100)]
  }
}

@Suite("Clients of a pool whose metadata is slow")
struct SlowMetadataTests {
  /// A pool with thin device 1 of 1,024 blocks, mapped in no order, and 2, a snapshot of it; its first 32
  /// blocks have been looked up.
  private func slowWorld() throws -> SlowWorld {
    let slow = try SlowWorld()
    let world = slow.world
    try world.makeThin(1, bytes: 1024 * block)
    let writes = try (0..<1024).map {
      try world.start(.write, "thin1", at: $0 * 389 % 1024 * block, pattern($0, 512))
    }
    world.finish(writes)
    try world.snapshot(2, of: 1)
    try slow.reopen([1, 2], bytes: 1024 * block)
    for number in 0..<32 {
      try slow.start("first", .read, "thin1", at: number * block, count: 512)
    }
    try slow.wait { slow.latencies["first"]?.count == 32 }
    return slow
  }

  /// Reads blocks that are known while something is under way, each millisecond one.
  private func clients(_ slow: SlowWorld) throws {
    try slow.start("known", .read, "thin1", at: slow.now % 32 * block, count: 512)
    try slow.start("other", .read, "other", at: slow.now % 8 * block, count: 512)
  }

  @Test("new blocks of a write follow each other, whichever of them had been looked up")
  func orderOfNewBlocks() throws {
    let slow = try SlowWorld()
    let world = slow.world
    try world.makeThin(1, bytes: 16 * block)
    try slow.reopen([1], bytes: 16 * block)
    try slow.start("read", .read, "thin1", at: 2 * block, count: 512)
    try slow.wait { slow.latencies["read"]?.count == 1 }
    // Allocating the first block has to wait for the space map, and the look-up of the second for that.
    let bytes = pattern(1, 3 * block)
    let write = try slow.start("write", .write, "thin1", bytes)
    try slow.wait { write.isDone }
    #expect(write.error == 0)
    let isInOrder = world.disks["data"].map { Array($0.bytes[0..<(3 * block)]) } == bytes
    #expect(isInOrder)
  }

  @Test(
    "look-ups, commits, new blocks, snapshots, deletion, discards and growth do not delay other requests"
  )
  func othersGoOn() throws {
    let slow = try slowWorld()
    let world = slow.world
    try world.add("m2", byteCount: 1 << 20)
    try world.add("d2", byteCount: 64 * block)
    try world.create(
      "pool2",
      [
        world.line(
          UInt64(64 * block / 512), "thin-pool", "\(world.path("m2")) \(world.path("d2")) 128 0")
      ])
    _ = try world.dm.message(.name("pool2"), sector: 0, "create_thin 1")
    try world.create("other", [world.line(UInt64(8 * block / 512), "thin", "pool2 1")])
    #expect(try world.write("other", at: 0, pattern(1, 8 * block)) == 0)

    // Others: look-ups of everything, copies of shared blocks, flushes.
    var others: [World.Outcome] = []
    for number in 32..<64 {
      others.append(
        try slow.start("cold", .read, "thin2", at: number * 31 % 1024 * block, count: 512))
      others.append(
        try slow.start("break", .write, "thin2", at: number * block, pattern(2, 512)))
    }
    others.append(try slow.start("flush", .flush, "thin2"))
    others.append(
      try slow.start("discard", .discard, "thin2", at: 600 * block, count: 100 * block))
    try slow.wait(beside: { try clients(slow) }) { others.allSatisfy(\.isDone) }
    #expect(others.allSatisfy { $0.error == 0 })
    let flush = try slow.start("flush", .flush, "thin2")
    try slow.wait(beside: { try clients(slow) }) { flush.isDone }

    // Commands.
    for message in ["create_thin 7", "create_snap 8 7", "delete 7", "reserve_metadata_snap"] {
      var isDone = false
      world.loop.begin {
        do {
          try world.message(message)
        } catch {
          Issue.record("\(message): \(error)")
        }
        isDone = true
      }
      try slow.wait(beside: { try clients(slow) }) { isDone }
    }
    var status: String?
    world.loop.begin { status = try? world.status("thin2") }
    try slow.wait(beside: { try clients(slow) }) { status != nil }
    #expect(status?.hasPrefix("\(924 * 128) ") == true, "\(status ?? "")")

    #expect(slow.latencies["known"]?.count ?? 0 > 1000)
    #expect(slow.percentile99("known") < 5)
    #expect(slow.percentile99("other") < 1)
    #expect(slow.latencies["known"]?.max() ?? 0 < 5)
    slow.step()
    world.loop.begin { world.mapper.removeAll() }
    try slow.wait { world.mapper.list().isEmpty }
    for _ in 0..<2000 { slow.step() }
    let report = try World.check(try #require(world.disks["m"]).bytes)
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("look-ups come between the steps of discards that keep the metadata without a gap")
  func betweenDiscards() throws {
    let slow = try SlowWorld(8)
    let world = slow.world
    try world.makeThin(1, bytes: 1024 * block)
    try world.makeThin(2, bytes: 16 * block)
    let writes = try (0..<1024).map {
      try world.start(.write, "thin1", at: $0 * 389 % 1024 * block, pattern($0, 512))
    }
    world.finish(writes)
    for number in 0..<16 {
      #expect(try world.write("thin2", at: number * block, pattern(number, 512)) == 0)
    }
    try slow.reopen([1, 2], bytes: 1024 * block)
    let discards = try (0..<256).map {
      try slow.start("discard", .discard, "thin1", at: 4 * $0 * block, count: block)
    }
    for number in 0..<16 {
      let read = try slow.start("read", .read, "thin2", at: number * block, count: 512)
      try slow.wait { read.isDone }
      #expect(read.bytes == pattern(number, 512))
    }
    #expect(discards.contains { !$0.isDone })
    // Each waits for a block or two of its own, and for one change of the discards.
    #expect(slow.latencies["read"]?.max() ?? .max <= 12 * SlowWorld.delay)
    try slow.wait { discards.allSatisfy(\.isDone) }
  }

  @Test("a discard that is passed down while the rest of it waits for metadata ends once")
  func passedDownMeanwhile() throws {
    // After each run, what is looked up for the next one has to be read again.
    let slow = try SlowWorld(2)
    let world = slow.world
    try world.makeThin(1, bytes: 1024 * block)
    for number in 0..<3 {
      #expect(try world.write("thin1", at: 20 * number * block, pattern(number, 512)) == 0)
    }
    try slow.reopen([1], bytes: 1024 * block)
    let discard = try slow.start("discard", .discard, "thin1", at: 0, count: 1024 * block)
    try slow.wait { discard.isDone }
    #expect(discard.error == 0)
    // What ends twice is in the loop's queue for ever, and nothing else ends.
    #expect(try world.write("thin1", at: 0, pattern(0, 512)) == 0)
  }

  @Test("look-ups that miss are read together: 32 take no longer than one takes for each level")
  func together() throws {
    let slow = try slowWorld()
    for number in 0..<32 {
      try slow.start("cold", .read, "thin2", at: number * 32 * block, count: 512)
    }
    try slow.wait { slow.latencies["cold"]?.count == 32 }
    // The device's root is known by then, or is one more.
    #expect(slow.latencies["cold"]?.max() ?? 0 <= 3 * (SlowWorld.delay + 5))
  }

  @Test("with next to no memory for metadata each look-up still comes to its end")
  func noMemory() throws {
    let slow = try SlowWorld(2)
    let world = slow.world
    try world.makeThin(1, bytes: 1024 * block)
    for at in stride(from: 0, to: 1024, by: 32) {
      #expect(try world.write("thin1", at: at * block, pattern(at, 512)) == 0)
    }
    let reads = try (0..<128).map { number in
      try world.start(.read, "thin1", at: number * 8 * block, count: 512)
    }
    world.finish(reads)
    for (number, read) in reads.enumerated() {
      #expect(read.bytes == (number % 4 == 0 ? pattern(number * 8, 512) : zeros(512)))
    }
  }
}
