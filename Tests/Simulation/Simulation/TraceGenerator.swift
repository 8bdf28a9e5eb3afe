import ThinFormat
import ThinMetadata

/// Makes traces of pool operations that the kernel accepts, each from a seed alone. The possible
/// operations follow from the existing devices; the space left is known from the engine, which
/// executes the trace as it is made.
public final class TraceGenerator {
  /// The subject of a trace.
  public enum Kind: String, CaseIterable, Sendable {
    /// A bit of everything.
    case small
    /// So few blocks that both allocators wrap around.
    case wrapping
    /// Thousands of writes.
    case large
    /// Hundreds of devices.
    case devices
    /// Trees of three levels.
    case deep

    fileprivate static func drawn(_ random: inout SplitMix64) -> Kind {
      switch random.next() % 100 {
      case 0..<64: .small
      case 64..<84: .wrapping
      case 84..<94: .large
      case 94..<98: .devices
      default: .deep
      }
    }
  }

  /// How discards are handled; one way per trace, because it is a feature of the pool.
  private enum Discards: String {
    case unmap = "rm"
    case passDown = "pd"
  }

  private struct Device {
    var isOpen = false
    /// The next block of ascending writes.
    var cursor: UInt64 = 0
  }

  private var random: SplitMix64
  private let kind: Kind
  private let discards: Discards?
  private let replayer = TraceReplayer()
  private var lines: [String] = []

  // The model. Ids are kept in the order of creation, so that a seed always gives the same trace.
  private var ids: [UInt64] = []
  private var devices: [UInt64: Device] = [:]
  private var holdsSnapshot = false
  private var transactionID: UInt64 = 0
  private var metadataBlocks: UInt64
  private var dataBlocks: UInt64
  private var mayResize: Bool
  private var hasDumps = true
  /// The virtual blocks of most operations.
  private let window: UInt64
  private var dumps = 0

  /// Data blocks that the running transaction may still allocate; those it frees do not count.
  private var available: UInt64 = 0
  private var writesSinceCommit: UInt64 = 0

  /// The number of virtual blocks of every device in traces.
  public static let virtualBlocks: UInt64 = 1 << 28

  private init(seed: UInt64, kind: Kind?, discards: Discards? = nil) {
    var random = SplitMix64(seed: seed)
    let drawn = Kind.drawn(&random)
    self.kind = kind ?? drawn
    let choices: [Discards?] = [.unmap, .passDown, nil]
    self.discards = discards ?? choices[Int.random(in: 0..<3, using: &random)]
    let windows: [UInt64]
    switch self.kind {
    case .small:
      metadataBlocks = .random(in: 512...3000, using: &random)
      dataBlocks = .random(in: 300...40_000, using: &random)
      windows = [200, 1000, 20_000, Self.virtualBlocks]
    case .wrapping:
      metadataBlocks = .random(in: 400...700, using: &random)
      dataBlocks = .random(in: 150...900, using: &random)
      windows = [150, 600, 3000]
    case .large:
      metadataBlocks = .random(in: 2000...18_000, using: &random)
      dataBlocks = .random(in: 5000...1_200_000, using: &random)
      windows = [4000, 30_000, Self.virtualBlocks]
    case .devices:
      metadataBlocks = .random(in: 2500...6000, using: &random)
      dataBlocks = .random(in: 1000...20_000, using: &random)
      windows = [300, 3000]
    case .deep:
      metadataBlocks = .random(in: 4000...20_000, using: &random)
      dataBlocks = .random(in: 90_000...200_000, using: &random)
      windows = [150_000, Self.virtualBlocks]
    }
    window = windows.randomElement(using: &random) ?? 1000
    // The device to which discards are passed needs 256 bytes of memory for each block.
    if self.discards == .passDown { dataBlocks = min(dataBlocks, 200_000) }
    // Newly added blocks would be used first, instead of wrapping around.
    mayResize = self.kind != .wrapping || Int.random(in: 0..<4, using: &random) == 0
    self.random = random
  }

  /// The trace of a seed.
  /// - Parameter kind: the kind to use; nil lets the seed choose.
  /// - Throws: errors of the engine, which mean a fault of the engine or the generator.
  public static func trace(seed: UInt64, kind: Kind? = nil) throws -> [String] {
    let generator = TraceGenerator(seed: seed, kind: kind)
    try generator.run()
    return generator.lines
  }

  /// The life of one pool in parts, each of which activates the pool and leaves it inactive,
  /// without resizes and dumps. The first line is `meta`, with the given number of blocks.
  public static func turns(seed: UInt64, count: Int, metadataBlocks: UInt64) throws -> [[String]] {
    let generator = TraceGenerator(seed: seed, kind: .small, discards: .unmap)
    generator.metadataBlocks = metadataBlocks
    generator.dataBlocks = .random(in: 2000...6000, using: &generator.random)
    generator.mayResize = false
    generator.hasDumps = false
    return try (0..<count).map { turn in
      generator.lines = []
      if turn == 0 { try generator.emit("meta \(generator.metadataBlocks)") }
      try generator.load()
      for _ in 0..<Int.random(in: 5...15, using: &generator.random) { try generator.step() }
      try generator.unload()
      return generator.lines
    }
  }

  private func below(_ n: UInt64) -> UInt64 { .random(in: 0..<max(1, n), using: &random) }
  private func chance(_ percent: UInt64) -> Bool { below(100) < percent }

  private func emit(_ line: String) throws {
    lines.append(line)
    try replayer.run(line[...]) { _, _ in }
  }

  /// Updates the model after an operation that ends the transaction.
  private func committed() {
    available = replayer.pool?.freeDataBlocks ?? 0
    writesSinceCommit = 0
  }

  private func commit() throws {
    try emit("commit")
    committed()
  }

  private func message(_ line: String) throws {
    try emit(line)
    committed()
  }

  // MARK: - Space

  /// Whether enough metadata is free for a few operations, besides the kernel's reserve.
  private var hasMetadata: Bool {
    (replayer.pool?.freeMetadataBlocks ?? 0) > min(4096, metadataBlocks / 10) + 90
  }

  /// Ensures space, by ending the transaction if necessary.
  private func hasSpace() throws -> Bool {
    if available > 2 && hasMetadata { return true }
    try commit()
    return available > 2 && hasMetadata
  }

  /// Frees some space.
  private func makeSpace() throws {
    if holdsSnapshot {
      try message("release")
      holdsSnapshot = false
    } else if mayResize && chance(20) {
      try resize()
    } else if let id = ids.randomElement(using: &random),
      ids.count > 1 || !hasMetadata || discards == nil
    {
      try close(id)
      try delete(id)
    } else if discards != nil, let id = try opened() {
      try discard(id, 0, min(50_000, 1 + below(window)))
    }
    try commit()
  }

  // MARK: - Steps of a trace

  private func run() throws {
    try emit("meta \(metadataBlocks)")
    try load()
    if chance(30) { try dump() }
    try create()
    let steps: UInt64
    switch kind {
    case .small: steps = 15 + below(50)
    case .wrapping: steps = 150 + below(200)
    case .large: steps = 60 + below(60)
    case .devices:
      steps = 50
      for _ in 0..<(300 + below(500)) where try hasSpace() {
        if chance(60) { try create() } else { try snapshot() }
      }
    case .deep:
      try fill()
      steps = 40
    }
    for _ in 0..<steps { try step() }
    if kind == .devices {
      while ids.count > Int(20 + below(20)), let id = ids.randomElement(using: &random) {
        if chance(2) {
          try commit()
          try dump()
        }
        try close(id)
        try delete(id)
      }
      for _ in 0..<steps { try step() }
    }
    try commit()
    try dump()
    try unload()
    try dump()
  }

  private func load() throws {
    try emit("load \(dataBlocks)")
    committed()
  }

  private func unload() throws {
    for id in ids { try close(id) }
    try emit("unload")
  }

  private func dump() throws {
    try emit("dump d\(dumps)")
    dumps += 1
  }

  private func step() throws {
    guard try hasSpace() else { return try makeSpace() }
    switch below(100) {
    case 0..<6: try create()
    case 6..<18: try snapshot()
    case 18..<23:
      guard ids.count > 2, let id = ids.randomElement(using: &random) else { break }
      try close(id)
      try delete(id)
    case 23..<26:
      if let id = ids.randomElement(using: &random) { try close(id) }
    case 26..<70:
      if let id = try opened() { try write(id) }
    case 70..<82:
      guard discards != nil, let id = try opened() else { break }
      // Mostly small, because the kernel takes a long time to pass down a large one.
      let length = chance(80) ? 1 + below(60) : 1 + below(discards == .passDown ? 5000 : 50_000)
      try discard(id, position(), length)
    case 82..<86: try commit()
    case 86..<88:
      let new = chance(50) ? transactionID + 1 : below(.max)
      try message("trans \(transactionID) \(new)")
      transactionID = new
    case 88..<92:
      try message(holdsSnapshot ? "release" : "reserve")
      holdsSnapshot.toggle()
    case 92..<94: if mayResize { try resize() }
    case 94..<97:
      // Allocation restarts at block 0.
      guard kind != .wrapping || chance(15) else { return try commit() }
      try unload()
      if hasDumps && chance(40) { try dump() }
      try load()
    default:
      guard hasDumps else { break }
      try commit()
      try dump()
    }
  }

  private func create() throws {
    let id = try newID()
    try message("create \(id)")
    ids.append(id)
    devices[id] = Device()
  }

  private func newID() throws -> UInt64 {
    while true {
      let id = chance(70) && ids.count < 25 ? below(40) : below(chance(50) ? 1000 : 1 << 24)
      if devices[id] == nil { return id }
    }
  }

  private func snapshot() throws {
    guard let origin = ids.randomElement(using: &random) else { return try create() }
    let id = try newID()
    try message("snap \(id) \(origin)")
    ids.append(id)
    devices[id] = Device(cursor: devices[origin]?.cursor ?? 0)
  }

  private func delete(_ id: UInt64) throws {
    try message("delete \(id)")
    ids.removeAll { $0 == id }
    devices[id] = nil
  }

  private func close(_ id: UInt64) throws {
    guard devices[id]?.isOpen == true else { return }
    try emit("close \(id)")
    devices[id]?.isOpen = false
  }

  /// An open device; opens one if necessary.
  private func opened() throws -> UInt64? {
    guard let id = ids.randomElement(using: &random) else { return nil }
    if devices[id]?.isOpen == false {
      try emit("open \(id)")
      devices[id]?.isOpen = true
    }
    return id
  }

  private func resize() throws {
    let data = dataBlocks + (chance(80) ? 1 + below(300) : 1 + below(40_000))
    if chance(50) {
      // At least 64 blocks, because the kernel cannot always add only a few.
      metadataBlocks += 64 + below(chance(80) || kind == .wrapping ? 400 : 17_000)
      dataBlocks = chance(50) ? data : dataBlocks
      try emit("growboth \(metadataBlocks) \(dataBlocks)")
    } else {
      dataBlocks = data
      try emit("grow \(dataBlocks)")
    }
    committed()
  }

  // MARK: - Reads, writes, discards

  /// The most writes of a transaction, so few that they take the kernel a fraction of a second.
  private var writesMax: UInt64 { kind == .deep ? 1000 : 200 }

  private func position() -> UInt64 { below(window) }

  /// Writes one block, if there is space.
  private func write(_ id: UInt64, _ block: UInt64) throws -> Bool {
    if writesSinceCommit >= writesMax { try commit() }
    guard try hasSpace() else { return false }
    try emit("w1 \(id) \(block)")
    available -= 1
    writesSinceCommit += 1
    return true
  }

  private func write(_ id: UInt64) throws {
    let longest: UInt64 = kind == .small ? 120 : kind == .wrapping ? 100 : 600
    let count = chance(40) ? 1 + below(6) : 1 + below(longest)
    try write(id, count: count)
    if chance(60) { try commit() }
  }

  private func write(_ id: UInt64, count: UInt64) throws {
    let pattern = below(6)
    var block = pattern == 0 ? devices[id]?.cursor ?? 0 : position()
    let stride = 2 + below(chance(70) ? 5 : 1000)
    for _ in 0..<count {
      guard try write(id, block) else { return }
      switch pattern {
      case 0, 1: block += 1
      case 2: block = block == 0 ? position() : block - 1
      case 3: block += stride
      default: block = position()
      }
      block %= Self.virtualBlocks
    }
    if pattern == 0 { devices[id]?.cursor = block }
  }

  /// Writes enough mappings for a third level.
  private func fill() throws {
    guard let id = try opened() else { return }
    var left = Int64(45_000 + below(15_000))
    while left > 0, try hasSpace() {
      let count = 500 + below(8000)
      try write(id, count: count)
      left -= Int64(count)
    }
    try commit()
  }

  private func discard(_ id: UInt64, _ first: UInt64, _ count: UInt64) throws {
    guard let discards, first < Self.virtualBlocks else { return }
    if discards == .passDown {
      // A write that certainly changes something, with its own commit: then the kernel has a second
      // before it commits by itself, which must not happen halfway through the discard.
      try commit()
      var block = position()
      while try replayer.pool?.lookup(ThinID(id), VirtualBlock(block)) != nil {
        block = (block + 1 + below(window)) % Self.virtualBlocks
      }
      guard try write(id, block) else { return }
      try commit()
    }
    try emit("\(discards.rawValue) \(id) \(first) \(min(count, Self.virtualBlocks - first))")
    if chance(50) { try commit() }
  }
}
