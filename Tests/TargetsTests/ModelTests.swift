import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing
import ThinTools

private let block = 64 * 1024

/// Whether two arrays are equal; fast in debug builds too.
private func same(_ left: [UInt8], _ right: [UInt8], _ range: Range<Int>? = nil) -> Bool {
  let range = range ?? 0..<left.count
  guard left.count == right.count else { return false }
  return left.withUnsafeBytes { left in
    right.withUnsafeBytes { right in
      guard let left = left.baseAddress, let right = right.baseAddress else { return true }
      return memcmp(left + range.lowerBound, right + range.lowerBound, range.count) == 0
    }
  }
}

/// A pool with random traffic, beside plain arrays of what each volume must hold.
private final class Model {
  struct Volume {
    var bytes: [UInt8]
    /// The contents at the last flush.
    var flushed: [UInt8]
    /// Sectors changed since then.
    var changed: Set<Int> = []
    var hasOrigin: Bool

    mutating func change(_ range: Range<Int>, _ value: [UInt8], isDurable: Bool) {
      bytes.replaceSubrange(range, with: value)
      if isDurable { flushed.replaceSubrange(range, with: value) }
      for sector in range.lowerBound / 512..<(range.upperBound + 511) / 512 {
        if isDurable { changed.remove(sector) } else { changed.insert(sector) }
      }
    }

    mutating func wasFlushed() {
      flushed = bytes
      changed = []
    }
  }

  let world: World
  var random: SplitMix64
  var volumes: [Int: Volume] = [:]
  let size = 12 * block
  let origin: [UInt8]
  var nextID = 0
  var tag: UInt64 = 0
  let features: String
  let dataBytes = 48 * block

  init(seed: UInt64) throws {
    random = SplitMix64(seed: seed)
    world = try World()
    origin = pattern(Int(seed % 1000), 7 * block + 1536)
    features = ["0", "1 no_discard_passdown"].randomElement(using: &random) ?? "0"
    try world.makePool(dataBytes: dataBytes, features + "", seed: seed)
    try world.add("origin", MemoryDisk(world.loop, bytes: origin, seed: seed))
    try load(features: features)
  }

  /// Makes full pools fail writes at once: a queued write would never end.
  private func load(features: String) throws {
    let all = features == "0" ? "1 error_if_no_space" : "2 no_discard_passdown error_if_no_space"
    try world.reload("pool", [world.poolLine(dataBytes, all)])
  }

  func bytes(_ count: Int) -> [UInt8] {
    tag += 1
    var words = [UInt64](repeating: tag << 16, count: count / 8)
    for sector in 0..<count / 512 { words[sector * 64 + Int(tag % 64)] |= UInt64(sector + 1) }
    return words.withUnsafeBytes { Array($0) }
  }

  func range() -> Range<Int> {
    let sectors = size / 512
    let start = Int.random(in: 0..<sectors, using: &random)
    let most = [1, 8, 128, 512].randomElement(using: &random) ?? 1
    var lower = start * 512
    var upper = min(size, lower + 512 * Int.random(in: 1...most, using: &random))
    if Int.random(in: 0..<4, using: &random) == 0 {
      lower = lower / block * block
      upper = min(size, (upper + block - 1) / block * block)
    }
    return lower..<upper
  }

  // MARK: - Operations

  func create() throws {
    guard volumes.count < 5 else { return }
    nextID += 1
    let hasOrigin = Int.random(in: 0..<3, using: &random) == 0
    try world.message("create_thin \(nextID)")
    try world.activate(nextID, bytes: size, origin: hasOrigin ? "origin" : nil)
    let start = hasOrigin ? origin + zeros(size - origin.count) : zeros(size)
    volumes[nextID] = Volume(bytes: start, flushed: start, hasOrigin: hasOrigin)
  }

  func snapshot() throws {
    guard volumes.count < 5, let id = volumes.keys.sorted().randomElement(using: &random),
      var volume = volumes[id]
    else { return }
    nextID += 1
    try world.dm.suspend(.name("thin\(id)"), [])
    try world.message("create_snap \(nextID) \(id)")
    try world.dm.resume(.name("thin\(id)"), [], node: NodeOptions())
    try world.activate(nextID, bytes: size, origin: volume.hasOrigin ? "origin" : nil)
    volume.wasFlushed()
    volumes[id] = volume
    volumes[nextID] = volume
  }

  func delete() throws {
    guard volumes.count > 1, let id = volumes.keys.sorted().randomElement(using: &random) else {
      return
    }
    try world.dm.remove(.name("thin\(id)"), deferred: false, retry: false)
    try world.message("delete \(id)")
    volumes[id] = nil
  }

  func flush() throws {
    guard let id = volumes.keys.sorted().randomElement(using: &random) else { return }
    let outcome = try world.start(.flush, "thin\(id)")
    world.finish([outcome])
    if outcome.error == 0 { volumes[id]?.wasFlushed() }
    // A full pool treats a flush like a write to block 0, as the kernel does.
    #expect(outcome.error == 0 || outcome.error == ENOSPC)
  }

  /// A request that changes a volume.
  private struct Change {
    var id: Int
    var range: Range<Int>
    var value: [UInt8]
    var isDurable: Bool
    var isWrite: Bool
    var outcome: World.Outcome
  }

  /// Several requests at once, which do not overlap within a volume unless they read.
  func traffic() throws {
    var changes: [Change] = []
    var reads: [(id: Int, range: Range<Int>, outcome: World.Outcome)] = []
    let wasFull = try world.pool().mode == .outOfDataSpace
    let ids = volumes.keys.sorted()
    for _ in 0..<Int.random(in: 1...12, using: &random) {
      guard let id = ids.randomElement(using: &random) else { return }
      let range = range()
      let clashes =
        changes.contains { $0.id == id && $0.range.overlaps(range) }
        || reads.contains { $0.id == id && $0.range.overlaps(range) }
      if clashes { continue }
      let isDurable = Int.random(in: 0..<6, using: &random) == 0
      let flags: BlockFlags = isDurable ? .durable : []
      let name = "thin\(id)"
      switch Int.random(in: 0..<12, using: &random) {
      case 0:
        // Whole blocks only.
        let lower = (range.lowerBound + block - 1) / block * block
        let upper = range.upperBound / block * block
        guard lower < upper, let volume = volumes[id] else { continue }
        let whole = lower..<upper
        if changes.contains(where: { $0.id == id && $0.range.overlaps(whole) }) { continue }
        let start = origin + zeros(size - origin.count)
        changes.append(
          Change(
            id: id, range: whole,
            value: volume.hasOrigin ? Array(start[whole]) : zeros(whole.count),
            isDurable: false, isWrite: false,
            outcome: try world.start(
              .discard, name, at: range.lowerBound, count: range.count)))
      case 1, 2:
        let keeps = Bool.random(using: &random)
        changes.append(
          Change(
            id: id, range: range, value: zeros(range.count), isDurable: isDurable, isWrite: true,
            outcome: try world.start(
              .writeZeroes, name, at: range.lowerBound, count: range.count,
              flags: keeps ? flags.union(.keepAllocated) : flags)))
      case 3...6:
        reads.append(
          (id, range, try world.start(.read, name, at: range.lowerBound, count: range.count)))
      default:
        let value = bytes(range.count)
        changes.append(
          Change(
            id: id, range: range, value: value, isDurable: isDurable, isWrite: true,
            outcome: try world.start(.write, name, at: range.lowerBound, value, flags: flags)))
      }
    }
    if Int.random(in: 0..<4, using: &random) == 0 {
      for _ in 0..<Int.random(in: 0..<6, using: &random) { world.loop.pass() }
      let touched = changes.map { ($0.id, $0.range) }
      try crash(touched)
    }
    world.finish(changes.map(\.outcome) + reads.map(\.outcome))
    let isFull =
      try wasFull || world.pool().mode == .outOfDataSpace
      || changes.contains { $0.outcome.error == ENOSPC }
    for (id, range, outcome) in reads {
      if isFull && isBeyondOrigin(id, range) && outcome.error == EIO { continue }
      #expect(outcome.error == 0)
      let expected = volumes[id].map { Array($0.bytes[range]) } ?? []
      #expect(same(outcome.bytes, expected), "volume \(id) at \(range)")
    }
    for change in changes { try settle(change) }
  }

  /// Checks the result of a change, and applies it to the model.
  private func settle(_ change: Change) throws {
    if change.outcome.error == ENOSPC && change.isWrite {
      // The range holds old and new sectors, and nothing else.
      let now = try read(change.id, change.range)
      let old = volumes[change.id].map { Array($0.bytes[change.range]) } ?? []
      for at in stride(from: 0, to: now.count, by: 512) {
        let sector = at..<(at + 512)
        #expect(same(now, old, sector) || same(now, change.value, sector))
      }
      volumes[change.id]?.change(change.range, now, isDurable: false)
    } else {
      #expect(change.outcome.error == 0)
      volumes[change.id]?.change(change.range, change.value, isDurable: change.isDurable)
    }
  }

  func verify() throws {
    for (id, volume) in volumes.sorted(by: { $0.key < $1.key }) {
      #expect(same(try read(id, 0..<size), volume.bytes), "volume \(id)")
    }
  }

  private func isBeyondOrigin(_ id: Int, _ range: Range<Int>) -> Bool {
    volumes[id]?.hasOrigin == true && range.upperBound > origin.count
  }

  /// The contents of a volume. A full pool fails reads of unmapped blocks beyond the origin, as the
  /// kernel does; such blocks count as zeros.
  private func read(_ id: Int, _ range: Range<Int>) throws -> [UInt8] {
    guard isBeyondOrigin(id, range), try world.pool().mode == .outOfDataSpace else {
      return try world.read("thin\(id)", at: range.lowerBound, count: range.count)
    }
    var bytes: [UInt8] = []
    for sector in stride(from: range.lowerBound, to: range.upperBound, by: 512) {
      let outcome = try world.start(.read, "thin\(id)", at: sector, count: 512)
      world.finish([outcome])
      let mayFail = sector >= origin.count
      #expect(outcome.error == 0 || mayFail && outcome.error == EIO)
      bytes += outcome.error == 0 ? outcome.bytes : zeros(512)
    }
    return bytes
  }

  /// Simulates a power cut: flushed data must be there, unless it is being changed.
  func crash(_ touched: [(id: Int, range: Range<Int>)]) throws {
    let meta = try #require(world.disks["meta"]).crashed(4096, &random)
    let data = try #require(world.disks["data"]).crashed(512, &random)
    let report = try World.check(meta)
    #expect(!report.isDamaged, "\(report.findings)")
    let other = try World()
    try other.add("meta", MemoryDisk(other.loop, bytes: meta, seed: 5))
    try other.add("data", MemoryDisk(other.loop, bytes: data, seed: 6))
    try other.add("origin", MemoryDisk(other.loop, bytes: origin, seed: 7))
    try other.create("pool", [other.poolLine(dataBytes)])
    for (id, volume) in volumes.sorted(by: { $0.key < $1.key }) {
      try other.activate(id, bytes: size, origin: volume.hasOrigin ? "origin" : nil)
      let now = try other.read("thin\(id)", at: 0, count: size)
      var changed = volume.changed
      for (other, range) in touched where other == id {
        for sector in range.lowerBound / 512..<range.upperBound / 512 { changed.insert(sector) }
      }
      for sector in 0..<size / 512 where !changed.contains(sector) {
        let range = sector * 512..<(sector + 1) * 512
        guard same(now, volume.flushed, range) else {
          Issue.record("after a crash volume \(id) has lost sector \(sector)")
          break
        }
      }
    }
    other.mapper.removeAll()
  }

  func run(_ steps: Int) throws {
    try create()
    for _ in 0..<steps {
      switch Int.random(in: 0..<40, using: &random) {
      case 0, 1: try create()
      case 2, 3: try snapshot()
      case 4, 5: try delete()
      case 6...9: try flush()
      case 10: try verify()
      case 11: _ = try world.status()
      default: try traffic()
      }
    }
    try verify()
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }
}

@Suite("Random traffic on thin volumes", .serialized)
struct TargetsModelTests {
  @Test(
    "volumes hold what was written to them, and after a crash what was flushed",
    arguments: 1...(UInt64(environment("DMTHIN_SEEDS") ?? "") ?? 12))
  func model(_ seed: UInt64) throws {
    try Model(seed: seed).run(150)
  }
}
