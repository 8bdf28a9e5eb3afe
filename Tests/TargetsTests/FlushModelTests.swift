import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing

// The model: each sector has a list of writes, in the order in which they were submitted, and never two of
// them in flight. A flush covers the last write that had finished when it was submitted. After a power cut a
// sector holds that write or a later one.

private let sectorCount = 128

/// A device of one target over disks that lose everything since their last flush.
private final class FlushModel {
  struct Sector {
    var stamps: [UInt64] = [0]
    /// The last write that has finished.
    var finished = 0
    /// The write that an acknowledged flush covers.
    var covered = 0
    var isBusy = false
  }

  let world: World
  let table: (World) throws -> [TableLine]
  var sectors = [Sector](repeating: Sector(), count: sectorCount)
  var writes: [(outcome: World.Outcome, range: Range<Int>, places: [Int], isDurable: Bool)] = []
  var flushes: [(outcome: World.Outcome, covers: [Int])] = []
  var lastStamp: UInt64 = 0

  init(_ table: @escaping (World) throws -> [TableLine], seed: UInt64) throws {
    self.table = table
    world = try World()
    for name in ["a", "b"] { try world.add(name, byteCount: sectorCount * 512, seed: seed) }
    try world.create("d", try table(world))
  }

  func write(_ range: Range<Int>, isDurable: Bool) throws {
    guard range.allSatisfy({ !sectors[$0].isBusy }) else { return }
    lastStamp += 1
    var places: [Int] = []
    for sector in range {
      places.append(sectors[sector].stamps.count)
      sectors[sector].stamps.append(lastStamp)
      sectors[sector].isBusy = true
    }
    let stamp = lastStamp
    let bytes = [UInt64](repeating: stamp, count: range.count * 64)
      .withUnsafeBytes { Array($0) }
    let outcome = try world.start(
      .write, "d", at: range.lowerBound * 512, bytes, flags: isDurable ? .durable : [])
    writes.append((outcome, range, places, isDurable))
  }

  func flush() throws {
    // What has finished now, before the flush is submitted.
    settle()
    flushes.append((try world.start(.flush, "d"), sectors.map(\.finished)))
  }

  /// Takes note of what has finished. Returns whether a flush has.
  @discardableResult
  func settle() -> Bool {
    for write in writes where write.outcome.isDone {
      #expect(write.outcome.error == 0)
      for (sector, place) in zip(write.range, write.places) {
        sectors[sector].finished = place
        if write.isDurable { sectors[sector].covered = place }
        sectors[sector].isBusy = false
      }
    }
    writes.removeAll { $0.outcome.isDone }
    let done = flushes.filter { $0.outcome.isDone }
    for flush in done {
      #expect(flush.outcome.error == 0)
      for sector in sectors.indices {
        sectors[sector].covered = max(sectors[sector].covered, flush.covers[sector])
      }
    }
    flushes.removeAll { $0.outcome.isDone }
    return !done.isEmpty
  }

  /// Cuts the power, and returns the sectors that are older than the model allows.
  func lost() throws -> [Int] {
    let after = try World()
    for name in ["a", "b"] {
      let disk = try #require(world.disks[name])
      try after.add(name, MemoryDisk(after.loop, bytes: disk.durable, seed: 1))
    }
    try after.create("d", try table(after))
    let bytes = try after.read("d", at: 0, count: sectorCount * 512)
    return sectors.indices.filter { index in
      let stamp = bytes.withUnsafeBytes {
        $0.loadUnaligned(fromByteOffset: index * 512, as: UInt64.self)
      }
      return !sectors[index].stamps[sectors[index].covered...].contains(stamp)
    }
  }
}

@Suite("What a flush covers")
struct FlushModelTests {
  private static let tables: [String: @Sendable (World) throws -> [TableLine]] = [
    "linear": { world in
      [
        world.line(64, "linear", "\(world.path("a")) 8"),
        world.line(64, "linear", "\(world.path("b")) 0", start: 64),
      ]
    },
    "striped": { world in
      [world.line(128, "striped", "2 8 \(world.path("a")) 0 \(world.path("b")) 16")]
    },
    "delay": { world in
      [world.line(128, "delay", "\(world.path("a")) 0 0 \(world.path("a")) 0 3")]
    },
    "flakey": { world in [world.line(128, "flakey", "\(world.path("b")) 0 60 0")] },
  ]

  @Test(
    "Writes that finished before a flush survive a power cut after it, over every target",
    arguments: ["linear", "striped", "delay", "flakey"], [1, 2, 3] as [UInt64])
  func covered(target: String, seed: UInt64) throws {
    let table = try #require(Self.tables[target])
    let model = try FlushModel(table, seed: seed)
    var random = SplitMix64(seed: seed)
    var cuts = 0
    for _ in 0..<400 {
      switch Int.random(in: 0..<8, using: &random) {
      case 0: try model.flush()
      case 1..<5:
        let start = Int.random(in: 0..<sectorCount, using: &random)
        let count = Int.random(in: 1...12, using: &random)
        try model.write(
          start..<min(start + count, sectorCount), isDurable: Bool.random(using: &random))
      default: model.world.loop.pass()
      }
      if target == "delay" { model.world.loop.skip(1_000_000) }
      guard model.settle(), cuts < 12 else { continue }
      cuts += 1
      let lost = try model.lost()
      #expect(lost.isEmpty, "\(target), seed \(seed): sectors \(lost)")
    }
    #expect(cuts == 12)
    model.world.loop.skip(1_000_000_000)
    model.world.finish(model.writes.map(\.outcome) + model.flushes.map(\.outcome))
  }

  @Test("A flush does not wait for a write in flight, and does not promise it")
  func inFlight() throws {
    let model = try FlushModel(try #require(Self.tables["linear"]), seed: 1)
    let disk = try #require(model.world.disks["a"])
    disk.halted = [.write]
    try model.write(0..<8, isDurable: false)
    try model.flush()
    model.world.finish(model.flushes.map(\.outcome))
    #expect(model.settle())
    #expect(model.writes.count == 1)
    #expect(disk.durable.allSatisfy { $0 == 0 })
    #expect(try model.lost().isEmpty)
    disk.halted = []
    model.world.finish(model.writes.map(\.outcome))
  }

  @Test("A flush of several disks fails if that of one of them does")
  func failure() throws {
    let model = try FlushModel(try #require(Self.tables["striped"]), seed: 1)
    model.world.disks["b"]?.fails = { operation, number in operation == .flush && number == 0 }
    #expect(try model.world.perform(.flush, "d") == EIO)
    #expect(try model.world.perform(.flush, "d") == 0)
  }
}
