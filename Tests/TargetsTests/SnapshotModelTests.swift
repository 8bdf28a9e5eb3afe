import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing

// The model: each sector of a device has a list of values: the last one that a flush covers, and all that
// were written since. It reads as the last of them, and after a power cut as any. What a snapshot has not
// written itself is what the origin had when the snapshot was made.

private struct Sectors {
  var values: [[UInt64]]

  init(_ values: [UInt64]) { self.values = values.map { [$0] } }

  var current: [UInt64] { values.map { $0[$0.count - 1] } }

  mutating func write(_ range: Range<Int>, _ value: UInt64) {
    for sector in range { values[sector].append(value) }
  }

  mutating func wasFlushed() {
    for i in values.indices { values[i] = [values[i][values[i].count - 1]] }
  }
}

/// Bytes in which each sector repeats its value.
private func bytes(_ values: some Sequence<UInt64>) -> [UInt8] {
  var words: [UInt64] = []
  for value in values { words += [UInt64](repeating: value, count: 64) }
  return words.withUnsafeBytes { Array($0) }
}

/// The value of each sector; a sector with several is a tear.
private func values(_ bytes: [UInt8]) -> [UInt64] {
  bytes.withUnsafeBytes { buffer in
    stride(from: 0, to: buffer.count, by: 512).map { at in
      let first = buffer.loadUnaligned(fromByteOffset: at, as: UInt64.self)
      for word in stride(from: at, to: at + 512, by: 8)
      where buffer.loadUnaligned(fromByteOffset: word, as: UInt64.self) != first {
        return .max
      }
      return first
    }
  }
}

/// An origin with snapshots under random traffic.
private final class SnapshotModel {
  struct Snapshot {
    var store: String
    var chunk: Int
    var cowSectors: Int
  }

  private(set) var world: World
  var random: SplitMix64
  let seed: UInt64
  let sectorCount: Int
  var origin: Sectors
  var snapshots: [String: Sectors] = [:]
  var shapes: [String: Snapshot] = [:]
  var merging: String?
  private var made = 0
  private var lastValue: UInt64 = 1000

  init(seed: UInt64) throws {
    self.seed = seed
    random = SplitMix64(seed: seed)
    sectorCount = [160, 157, 256].randomElement(using: &random) ?? 160
    world = try World()
    let first = (0..<sectorCount).map { UInt64($0 + 1) }
    origin = Sectors(first)
    try world.add("origin", MemoryDisk(world.loop, bytes: bytes(first), seed: seed))
    try world.create("o", [originLine()])
  }

  private func originLine() -> TableLine {
    world.line(UInt64(sectorCount), "snapshot-origin", world.path("origin"))
  }

  private func line(_ name: String, merge: Bool = false) -> TableLine {
    let shape = shapes[name] ?? Snapshot(store: "P", chunk: 8, cowSectors: 0)
    return world.line(
      UInt64(sectorCount), merge ? "snapshot-merge" : "snapshot",
      "\(world.path("origin")) \(world.path("cow-\(name)")) \(shape.store) \(shape.chunk)")
  }

  func chance(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &random) == 0 }

  // MARK: - Devices

  func makeSnapshot(persistent: Bool = false) throws {
    guard snapshots.count < 3, merging == nil else { return }
    let name = "s\(made)"
    made += 1
    let chunk = [1, 2, 8, 16, 32].randomElement(using: &random) ?? 8
    let store = persistent ? "P" : ["P", "PO", "N"].randomElement(using: &random) ?? "P"
    // Room for all chunks and their records.
    let chunks = (sectorCount + chunk - 1) / chunk
    let areas = chunks / (chunk * 32) + 2
    let shape = Snapshot(store: store, chunk: chunk, cowSectors: (chunks + areas + 1) * chunk)
    shapes[name] = shape
    try world.add(
      "cow-\(name)",
      MemoryDisk(world.loop, byteCount: shape.cowSectors * 512, seed: seed &+ UInt64(made)))
    try world.dm.suspend(.name("o"), [])
    try world.create(name, [line(name)])
    try world.resume("o")
    // What the origin has not flushed can be lost for its snapshot too.
    snapshots[name] = origin
  }

  func removeSnapshot() throws {
    guard merging == nil, let name = snapshots.keys.sorted().randomElement(using: &random)
    else { return }
    try world.dm.suspend(.name("o"), [])
    try world.dm.remove(.name(name), deferred: false, retry: false)
    try world.resume("o")
    snapshots[name] = nil
  }

  /// Has a snapshot read its store again.
  func reopenSnapshot() throws {
    let names = snapshots.keys.sorted().filter { shapes[$0]?.store != "N" && $0 != merging }
    guard let name = names.randomElement(using: &random) else { return }
    try world.dm.suspend(.name("o"), [])
    if chance(2) {
      try world.dm.remove(.name(name), deferred: false, retry: false)
      try world.create(name, [line(name)])
    } else {
      try world.reload(name, [line(name)])
    }
    try world.resume("o")
  }

  /// Has the origin's device take over a snapshot, to merge it.
  func beginMerge() throws {
    let names = snapshots.keys.sorted().filter { shapes[$0]?.store != "N" }
    guard merging == nil, let name = names.randomElement(using: &random) else { return }
    try world.dm.load(.name("o"), [line(name, merge: true)], readOnly: false)
    try world.dm.suspend(.name("o"), [])
    try world.dm.suspend(.name(name), [])
    try world.resume("o")
    try world.dm.remove(.name(name), deferred: false, retry: false)
    if let sectors = snapshots.removeValue(forKey: name) { origin = sectors }
    merging = name
  }

  func endMerge() throws {
    guard let name = merging else { return }
    world.loop.run(within: 60 * World.second) {
      guard case .working(let usage, let metadata)? = SnapshotStatus((try? world.status("o")) ?? "")
      else { return true }
      return usage.used == metadata
    }
    let status = try #require(SnapshotStatus(try world.status("o")))
    if case .working(let usage, let metadata) = status { #expect(usage.used == metadata) }
    try world.reload("o", [originLine()])
    merging = nil
    #expect(values(try #require(world.disks["origin"]).bytes) == origin.current, "merged \(name)")
  }

  // MARK: - I/O

  /// Several requests at the same time, of which no two write to the same sectors of a device, and none
  /// reads what another one writes there. A snapshot is read while its origin is written.
  /// - Parameter cutAfter: the passes of the loop after which the power is cut.
  func traffic(_ count: Int, cutAfter: Int? = nil) throws {
    var outcomes: [World.Outcome] = []
    var reads: [(World.Outcome, [UInt64], String)] = []
    var flushes: [(World.Outcome, String)] = []
    var busy: [String: Set<Int>] = [:]
    for _ in 0..<count {
      let name = (["o"] + snapshots.keys.sorted()).randomElement(using: &random) ?? "o"
      let first = Int.random(in: 0..<sectorCount, using: &random)
      let most = [1, 4, 8, 40].randomElement(using: &random) ?? 1
      let range = first..<min(sectorCount, first + Int.random(in: 1...most, using: &random))
      guard busy[name, default: []].isDisjoint(with: range) else { continue }
      busy[name, default: []].formUnion(range)
      let sectors = name == "o" ? origin : snapshots[name] ?? origin
      switch Int.random(in: 0..<8, using: &random) {
      case 0..<4:
        lastValue += 1
        let data = bytes(repeatElement(lastValue, count: range.count))
        outcomes.append(
          try world.start(
            .write, name, at: range.lowerBound * 512, data, flags: chance(4) ? .durable : []))
        write(name, range, lastValue)
      case 4 where chance(3):
        outcomes.append(
          try world.start(
            .writeZeroes, name, at: range.lowerBound * 512, count: range.count * 512))
        write(name, range, 0)
      case 5 where chance(4):
        // It covers what had finished before.
        world.finish(outcomes)
        flushes.append((try world.start(.flush, name), name))
      default:
        let outcome = try world.start(
          .read, name, at: range.lowerBound * 512, count: range.count * 512)
        reads.append((outcome, Array(sectors.current[range]), name))
      }
    }
    if let cutAfter {
      for _ in 0..<cutAfter { world.loop.pass() }
      let images = world.disks.mapValues { $0.crashed(512, &random) }
      world.finish(outcomes + reads.map(\.0) + flushes.map(\.0))
      return try restart(images)
    }
    world.finish(outcomes + reads.map(\.0) + flushes.map(\.0))
    for outcome in outcomes { #expect(outcome.error == 0) }
    for (outcome, expected, name) in reads {
      #expect(outcome.error == 0)
      #expect(values(outcome.bytes) == expected, "\(name) reads wrong, seed \(seed)")
    }
  }

  private func write(_ name: String, _ range: Range<Int>, _ value: UInt64) {
    if name == "o" { origin.write(range, value) } else { snapshots[name]?.write(range, value) }
  }

  func flushAll() throws {
    for name in ["o"] + snapshots.keys.sorted() { #expect(try world.perform(.flush, name) == 0) }
    origin.wasFlushed()
    for name in snapshots.keys { snapshots[name]?.wasFlushed() }
  }

  func compare() throws {
    for (name, sectors) in [("o", origin)] + snapshots.sorted(by: { $0.key < $1.key }) {
      let read = values(try world.read(name, at: 0, count: sectorCount * 512))
      #expect(read == sectors.current, "\(name), seed \(seed)")
    }
  }

  // MARK: - Power cuts

  /// A new world with what the disks can hold after a power cut: every sector has one of its values.
  private func restart(_ images: [String: [UInt8]]) throws {
    let next = try World()
    for (name, image) in images {
      try next.add(name, MemoryDisk(next.loop, bytes: image, seed: seed &+ 5))
    }
    // What is not on any disk is gone.
    for name in snapshots.keys where shapes[name]?.store == "N" { snapshots[name] = nil }
    world = next
    // A merge goes on at once: those that have to keep what it overwrites come first.
    for name in snapshots.keys.sorted() { try world.create(name, [line(name)]) }
    try world.create("o", [merging.map { line($0, merge: true) } ?? originLine()])
    origin = try survivors("o", origin)
    for (name, sectors) in snapshots { snapshots[name] = try survivors(name, sectors) }
  }

  private func survivors(_ name: String, _ sectors: Sectors) throws -> Sectors {
    let status = try world.status(name)
    #expect(status != "Invalid", "\(name), seed \(seed)")
    let read = values(try world.read(name, at: 0, count: sectorCount * 512))
    let wrong = read.indices.filter { !sectors.values[$0].contains(read[$0]) }
    #expect(
      wrong.isEmpty,
      "\(name), seed \(seed): \(wrong.map { "\($0) has \(read[$0]), not \(sectors.values[$0])" })"
    )
    return Sectors(read)
  }

  func step() throws {
    switch Int.random(in: 0..<20, using: &random) {
    case 0..<2: try makeSnapshot()
    case 2: try removeSnapshot()
    case 3: try reopenSnapshot()
    case 4: try beginMerge()
    case 5: try endMerge()
    case 6: try flushAll()
    case 7:
      try world.dm.suspend(.name("o"), [])
      try world.resume("o")
    case 8: try compare()
    default: try traffic(Int.random(in: 1...12, using: &random))
    }
  }
}

@Suite struct SnapshotModelTests {
  @Test(
    "an origin and its snapshots hold what a model says, under random traffic",
    arguments: snapshotSeeds(40))
  func model(_ seed: UInt64) throws {
    let model = try SnapshotModel(seed: seed)
    try model.makeSnapshot()
    for _ in 0..<60 { try model.step() }
    try model.endMerge()
    try model.compare()
  }

  @Test(
    "after a power cut at any time every snapshot is valid and has what was flushed",
    arguments: snapshotSeeds(60))
  func powerCut(_ seed: UInt64) throws {
    let model = try SnapshotModel(seed: seed &+ 1000)
    try model.makeSnapshot(persistent: true)
    for _ in 0..<4 {
      for _ in 0..<8 { try model.step() }
      try model.traffic(12, cutAfter: Int.random(in: 0..<40, using: &model.random))
    }
    try model.endMerge()
    try model.compare()
  }
}
