import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets

/// Clients of a pool: random concurrent requests, and messages between them. The requests and their
/// results go into a trace; data read is compared with a model.
final class PoolLoad {
  /// A pending request.
  private struct Running {
    var number: Int
    var request: ClientEvent.Request?
    var volume: Int
    var sectors: Range<Int>
    var outcome: PoolRig.Outcome
  }

  let shape: PoolShape
  let trace = Trace()
  let model: PoolModel
  let rig: PoolRig
  let origin: [UInt64]
  /// The initial content of the disks.
  let images: [[UInt8]]
  /// Whether requests may fail for other reasons than lack of space.
  var mayFail = false
  /// The number of requests that failed for other reasons.
  private(set) var failures = 0
  private var random: SplitMix64
  private var running: [Running] = []
  private var nextID = 0
  private var nextNumber = 0
  /// The devices of each volume: one volume may be active twice.
  private var names: [Int: [String]] = [:]

  /// - Parameter isForgetful: whether metadata is read again instead of cached.
  init(
    _ ground: TrialGround, _ kind: PoolCrashTrial.Kind, seed: UInt64, isForgetful: Bool = false
  ) {
    random = SplitMix64(seed: seed)
    var shape = PoolShape(kind)
    if Bool.random(using: &random) { shape.passesDiscardsDown = false }
    self.shape = shape
    origin = (0..<shape.originSectors).map { 0xaa00_0000_0000 &+ UInt64($0) }
    let unused = [UInt64](
      repeating: shape.hasHoles ? 0 : 0xeeee_eeee_eeee_eeee,
      count: shape.dataBlocks * shape.blockBytes / 8)
    images = [
      [UInt8](repeating: 0, count: shape.metadataBytes),
      unused.withUnsafeBytes { Array($0) }, Self.bytes(origin),
    ]
    var disks: [TraceDisk] = []
    for (number, image) in images.enumerated() {
      disks.append(
        TraceDisk(
          ground.loop, number: number, bytes: image, trace: number < 2 ? trace : nil,
          seed: seed &+ UInt64(number), isReadOnly: number == 2,
          hasHoles: number == 1 && shape.hasHoles))
    }
    disks[0].resize(to: shape.metadataBytesAtFirst)
    disks[1].resize(to: shape.dataBlocksAtFirst * shape.blockBytes)
    model = PoolModel(shape, origin: origin)
    rig = PoolRig(ground, disks: disks, shape)
    // A small cache writes metadata before the commit too.
    if Int.random(in: 0..<3, using: &random) == 0 { rig.mapper.metadataCacheBlocks = 8 }
    if isForgetful { rig.mapper.metadataCacheBlocks = 2 }
  }

  static func bytes(_ words: [UInt64]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: words.count * 512)
    bytes.withUnsafeMutableBytes { fill($0, words) }
    return bytes
  }

  private static func fill(
    _ bytes: UnsafeMutableRawBufferPointer, _ words: some Collection<UInt64>
  ) {
    var at = 0
    for word in words {
      for offset in stride(from: at, to: at + 512, by: 8) {
        bytes.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
      }
      at += 512
    }
  }

  private func note(_ event: ClientEvent) {
    trace.append(.client(event))
    model.apply(event)
  }

  // MARK: - Steps

  /// Makes the pool and its first volume.
  func prepare() throws(TrialFailure) {
    try rig.makePool(shape.features)
    try create()
  }

  /// Runs this many random steps.
  func run(_ steps: Int) throws(TrialFailure) {
    for _ in 0..<steps { try step() }
    try drain()
  }

  private func step() throws(TrialFailure) {
    switch Int.random(in: 0..<100, using: &random) {
    case 0..<3: try create()
    case 3..<6: try snapshot()
    case 6..<8: try delete()
    case 8..<10: _ = try rig.status()
    case 10..<12 where isGrowing: try grow()
    case 10..<15: try drain()
    default: if running.count < 8 { try request() }
    }
    for _ in 0..<Int.random(in: 0..<4, using: &random) { rig.loop.pass() }
    try collect()
  }

  /// Waits for all requests.
  func drain() throws(TrialFailure) {
    try rig.run("a request") { running.allSatisfy(\.outcome.isDone) }
    try collect()
  }

  private func pick() -> Int? { names.keys.sorted().randomElement(using: &random) }

  private func sectors() -> Range<Int> {
    let (count, block) = (model.sectorCount, shape.sectorsPerBlock)
    let lower = Int.random(in: 0..<count, using: &random)
    let most = shape.requestSectors.randomElement(using: &random) ?? 1
    let upper = min(count, lower + Int.random(in: 1...most, using: &random))
    guard Int.random(in: 0..<4, using: &random) == 0 else { return lower..<upper }
    return lower / block * block..<(upper + block - 1) / block * block
  }

  private func request() throws(TrialFailure) {
    guard let id = pick(), let name = names[id]?.randomElement(using: &random) else { return }
    var sectors = sectors()
    let choice = Int.random(in: 0..<100, using: &random)
    let isFlush = choice >= 85
    if !isFlush, running.contains(where: { $0.volume == id && $0.sectors.overlaps(sectors) }) {
      return
    }
    let isDurable = Int.random(in: 0..<5, using: &random) == 0
    nextNumber += 1
    var request: ClientEvent.Request?
    func made(_ kind: ClientEvent.Kind, _ sectors: Range<Int>) {
      let made = ClientEvent.Request(
        kind: kind, volume: id, sectors: sectors, isDurable: isDurable && !isFlush)
      request = made
      note(.begin(number: nextNumber, made))
    }
    let outcome: PoolRig.Outcome
    let flags: BlockFlags = isDurable ? .durable : []
    switch choice {
    case 0..<12: outcome = try rig.start(.read, name, sectors)
    case 12..<24:
      let block = shape.sectorsPerBlock
      let lower = (sectors.lowerBound + block - 1) / block * block
      let whole = lower..<max(lower, sectors.upperBound / block * block)
      made(.discard, whole)
      outcome = try rig.start(.discard, name, sectors, flags)
    case 24..<32:
      made(.zero, sectors)
      let keeps: BlockFlags = Bool.random(using: &random) ? .keepAllocated : []
      outcome = try rig.start(.writeZeroes, name, sectors, flags.union(keeps))
    case 32..<85:
      let first = UInt64(nextNumber) << 16
      made(.write(first: first), sectors)
      outcome = try rig.start(.write, name, sectors, flags) { buffer in
        Self.fill(buffer, (0..<sectors.count).map { first &+ UInt64($0) })
      }
    default:
      sectors = 0..<0
      made(.flush, sectors)
      outcome = try rig.start(.flush, name)
    }
    running.append(
      Running(
        number: nextNumber, request: request, volume: id, sectors: sectors, outcome: outcome))
  }

  /// Handles completed requests.
  private func collect() throws(TrialFailure) {
    let done = running.filter(\.outcome.isDone)
    running.removeAll(where: \.outcome.isDone)
    for ended in done {
      let error = ended.outcome.error
      if error != 0 && error != ENOSPC && !mayEnd(ended.volume, ended.sectors) {
        failures += 1
        if !mayFail { throw TrialFailure("a request ends with \(error)") }
      }
      if let request = ended.request {
        var isDone = error == 0
        // If metadata cannot be read or changed, discards succeed without effect.
        if case .discard = request.kind, mayFail { isDone = false }
        note(.end(number: ended.number, succeeded: isDone))
      } else if error == 0 {
        try compare(ended.volume, ended.sectors, ended.outcome)
      }
    }
  }

  /// Pools that allocate no blocks ignore the end of the origin: reads beyond it fail.
  private func mayEnd(_ id: Int, _ sectors: Range<Int>) -> Bool {
    model.volumes[id]?.hasOrigin == true && sectors.upperBound > shape.originSectors
      && (try? rig.status(noFlush: true)?.mode) != .readWrite
  }

  private func compare(_ id: Int, _ sectors: Range<Int>, _ outcome: PoolRig.Outcome)
    throws(TrialFailure)
  {
    let bytes = UnsafeRawBufferPointer(outcome.buffer.bytes)
    // An aborted transaction loses changes that were not flushed.
    let mayHaveLost = mayFail && rig.isDegraded
    for (index, sector) in sectors.enumerated() {
      let found = word(bytes, sector: index)
      let isRight = found.map {
        mayHaveLost ? model.mayHold(id, sector, $0) : model.reads(id, sector, $0)
      }
      guard isRight == true else {
        throw TrialFailure(
          "volume \(id) reads \(found.map(hex) ?? "a mixture") at sector \(sector), expected "
            + model.describe(id, sector))
      }
    }
  }

  /// Compares all volumes with the model.
  func verify() throws(TrialFailure) {
    for id in names.keys.sorted() {
      guard let name = names[id]?.first else { continue }
      let sectors = 0..<model.sectorCount
      let outcome = try rig.start(.read, name, sectors)
      try rig.run("reading") { outcome.isDone }
      guard outcome.error == 0 else {
        if mayFail || mayEnd(id, sectors) { continue }
        throw TrialFailure("volume \(id) cannot be read: \(outcome.error)")
      }
      try compare(id, sectors, outcome)
    }
  }

  // MARK: - Messages

  private func send(_ message: ClientEvent.Message, _ text: String) throws(TrialFailure) -> Bool {
    note(.beginMessage(message))
    let error = rig.message(text)
    note(.endMessage(message, succeeded: error == 0))
    guard error == 0 || mayFail else { throw TrialFailure("\(text) ends with \(error)") }
    return error == 0
  }

  private func activate(_ id: Int, hasOrigin: Bool) throws(TrialFailure) {
    for name in Int.random(in: 0..<4, using: &random) == 0 ? ["thin", "twin"] : ["thin"] {
      do throws(TrialFailure) {
        try rig.activate(id, as: "\(name)\(id)", hasOrigin: hasOrigin)
        names[id, default: []].append("\(name)\(id)")
      } catch {
        if !mayFail { throw error }
      }
    }
  }

  private func create() throws(TrialFailure) {
    guard model.volumes.count < shape.volumesMax else { return }
    nextID += 1
    let hasOrigin = Int.random(in: 0..<3, using: &random) == 0
    guard try send(.create(nextID, hasOrigin: hasOrigin), "create_thin \(nextID)") else { return }
    try activate(nextID, hasOrigin: hasOrigin)
  }

  private func snapshot() throws(TrialFailure) {
    guard model.volumes.count < shape.volumesMax, let origin = pick() else { return }
    nextID += 1
    for name in names[origin] ?? [] { try rig.suspend(name) }
    try collect()
    let isMade = try send(.snapshot(nextID, origin: origin), "create_snap \(nextID) \(origin)")
    for name in names[origin] ?? [] { try rig.resume(name) }
    guard isMade else { return }
    try activate(nextID, hasOrigin: model.volumes[origin]?.hasOrigin ?? false)
  }

  private var isGrowing: Bool {
    rig.disks[0].byteCount < images[0].count || rig.disks[1].byteCount < images[1].count
  }

  /// Enlarges one or both disks, and extends the pool while requests are pending.
  private func grow() throws(TrialFailure) {
    let choice = Int.random(in: 0..<3, using: &random)
    if choice > 0 {
      let blocks = Int.random(in: 1...6, using: &random)
      rig.disks[1].resize(to: Int(rig.disks[1].byteCount) + blocks * shape.blockBytes)
    }
    if choice < 2 {
      let blocks = Int.random(in: 1...80, using: &random)
      rig.disks[0].resize(to: Int(rig.disks[0].byteCount) + blocks * 4096)
    }
    try rig.growPool(shape.features)
    try collect()
  }

  private func delete() throws(TrialFailure) {
    guard names.count > 1, let id = pick() else { return }
    try rig.run("a request") {
      running.allSatisfy { $0.volume != id || $0.outcome.isDone }
    }
    try collect()
    for name in names[id] ?? [] { try rig.remove(name) }
    names[id] = nil
    _ = try send(.delete(id), "delete \(id)")
  }
}
