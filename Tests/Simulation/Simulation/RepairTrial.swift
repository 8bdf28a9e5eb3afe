public import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata
public import ThinTools

/// A pool with some of its blocks lost, and what a repair makes of it.
///
/// What the pool maps is known, so that every mapping of a repaired pool is right or wrong, and what could
/// have been saved is known as well: everything whose leaf is not lost.
public struct RepairTrial {
  /// What is lost.
  public enum Kind: String, CaseIterable, Sendable {
    case leaf
    case internalNode = "internal node"
    case deviceTree = "tree of devices"
    case details
    case superblock
    case spaceMap = "space map"
    case several
  }

  /// How a repair fared.
  public struct Score: Equatable, Sendable {
    /// Mappings of the pool whose leaf is intact.
    public var intact = 0
    /// Those of them that are in the result.
    public var saved = 0
    /// Mappings in the result that are the pool's.
    public var right = 0
    /// Those that are not.
    public var wrong = 0
    /// Those of them that the report calls doubtful.
    public var doubtfulWrong = 0
    /// Mappings that the report calls doubtful.
    public var doubtful = 0

    /// Whether everything was saved that could be, nothing is wrong, and nothing is called doubtful.
    public var isWhole: Bool { saved == intact && wrong == 0 && doubtful == 0 }

    /// No score.
    public init() {}

    /// Adds up.
    public static func += (a: inout Score, b: Score) {
      a.intact += b.intact
      a.saved += b.saved
      a.right += b.right
      a.wrong += b.wrong
      a.doubtful += b.doubtful
      a.doubtfulWrong += b.doubtfulWrong
    }
  }

  /// What is lost.
  public let kind: Kind
  /// What was done, for reports.
  public let damage: String
  /// The metadata device.
  public let device: MemoryDevice
  /// Whether the superblock was called an old one before anything was lost, which it never is.
  public private(set) var isCalledOld = false
  /// Data blocks are of so many sectors.
  public static var dataBlockSectors: UInt32 { 128 }

  /// Data block by virtual block by device.
  private var truth: [UInt64: [UInt64: UInt64]] = [:]
  /// Virtual blocks whose leaf is intact, by device.
  private var intact: [UInt64: Set<UInt64>] = [:]

  /// The trial of a seed.
  /// - Throws: what the engine throws, which would be a fault of one of the two.
  public init(seed: UInt64) throws {
    var random = SplitMix64(seed: seed)
    device = try Self.pool(seed, &random)
    let catalogue = try BlockCatalogue(device)
    let kinds = Kind.allCases
    let chosen = kinds[Int(random.next() % UInt64(kinds.count))]
    var blocks: Set<UInt64> = []
    var names: [String] = []
    let count = chosen == .several ? Int.random(in: 2...10, using: &random) : 1
    for _ in 0..<count {
      let one =
        chosen == .several
        ? kinds[Int(random.next() % UInt64(kinds.count - 1))] : chosen
      guard let block = Self.candidates(one, catalogue).randomElement(using: &random),
        blocks.insert(block).inserted
      else { continue }
      names.append("\(Self.lose(block, device, &random)) \(one.rawValue) at block \(block)")
    }
    kind = chosen
    damage = names.joined(separator: ", ")
    try readTruth(lost: blocks)
  }

  private static func pool(_ seed: UInt64, _ random: inout SplitMix64) throws -> MemoryDevice {
    var kind = PoolHistory.Kind(
      "repaired", metadataBlocks: 400...2500, commits: 4...40, operations: 1...40,
      window: 300...4000)
    kind.run = .random(in: 1...60, using: &random)
    kind.snapshots = .random(in: 0...80, using: &random)
    kind.deletions = .random(in: 0...40, using: &random)
    kind.creations = .random(in: 0...60, using: &random)
    kind.discards = .random(in: 0...250, using: &random)
    kind.activations = 60
    kind.metadataSnapshots = Bool.random(using: &random) ? 100 : 0
    switch Int.random(in: 0..<10, using: &random) {
    case 0:
      // Three levels.
      kind.window = 20_000...40_000
      kind.run = 1500
      kind.metadataBlocks = 2000...4000
    case 1:
      // Trees of devices of two levels.
      kind.window = 4...40
      kind.run = 2
      kind.creations = 600
      kind.snapshots = 200
      kind.operations = 20...60
      kind.metadataBlocks = 3000...4000
    default: break
    }
    return try PoolHistory(kind, seed: seed).device
  }

  private static func candidates(_ kind: Kind, _ catalogue: BlockCatalogue) -> [UInt64] {
    func all(_ roles: [BlockCatalogue.Role]) -> [UInt64] {
      roles.flatMap { catalogue.blocks[$0] ?? [] }
    }
    func nodes(_ kind: TreeKind) -> [UInt64] {
      all([.node(kind, isLeaf: true), .node(kind, isLeaf: false)])
    }
    return switch kind {
    case .leaf: all([.node(.mappings, isLeaf: true)])
    case .internalNode: all([.node(.mappings, isLeaf: false)])
    case .deviceTree: nodes(.devices)
    case .details: nodes(.details)
    case .superblock: [0]
    case .spaceMap:
      all([.dataBitmap, .metadataBitmap, .index]) + nodes(.spaceMapIndex) + nodes(.spaceMapOverflow)
    case .several: []
    }
  }

  /// Loses a block, in one of the ways in which that happens.
  private static func lose(_ block: UInt64, _ device: MemoryDevice, _ random: inout SplitMix64)
    -> String
  {
    let bytes = device.edit(block)
    switch Int.random(in: 0..<3, using: &random) {
    case 0:
      bytes.initializeMemory(as: UInt8.self, repeating: 0)
      return "zeroed"
    case 1:
      let bit = Int.random(in: 0..<(bytes.count * 8), using: &random)
      bytes[bit / 8] ^= 1 << UInt8(bit % 8)
      return "flipped"
    default:
      if Bool.random(using: &random) {
        for i in 0..<bytes.count { bytes[i] = UInt8.random(in: 0...255, using: &random) }
      } else {
        let other = UInt64.random(in: 0..<(device.byteCount / 4096), using: &random)
        let source = Array(device.peek(other == block ? 0 : other))
        source.withUnsafeBytes { bytes.copyMemory(from: $0) }
        // The same block would be no loss.
        bytes[100] ^= 1
      }
      return "overwritten"
    }
  }

  private mutating func readTruth(lost: Set<UInt64>) throws {
    var kept: [UInt64: [UInt8]] = [:]
    for block in lost { kept[block] = Array(device.peek(block)) }
    device.revert()
    let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    isCalledOld = report.newerGeneration?.age.isNewer == true
    let view = try MetadataView(device, source: .current)
    for (id, root) in try view.deviceRoots() {
      var mappings: [UInt64: UInt64] = [:]
      var sound: Set<UInt64> = []
      try LeafSequence(view.reader, stream: BlockStream(device)).forEach(root: root.rawValue) {
        leaf throws(TreeFault) in
        try? view.reader.withNode(leaf, of: .mappings) { node in
          for i in 0..<node.entryCount {
            mappings[node.key(i)] = Mapping(rawValue: node.value64(i)).dataBlock
            if !lost.contains(leaf) { sound.insert(node.key(i)) }
          }
        }
      }
      truth[id.rawValue] = mappings
      intact[id.rawValue] = sound
    }
    for (block, bytes) in kept {
      bytes.withUnsafeBytes { device.edit(block).copyMemory(from: $0) }
    }
  }

  /// Repairs the pool as `thin_repair` does, and judges the result; nil where it gave up.
  public func run() -> (score: Score, report: RepairReport)? {
    let output = MemoryDevice(byteCount: Int(device.byteCount))
    var options = RepairOptions()
    options.salvage.overrides.dataBlockSectors = Self.dataBlockSectors
    guard let result = try? ThinRepair.run(device, to: output, options: options),
      let report = try? ThinCheck.run(output, options: CheckOptions(), progress: Progress()),
      !report.isDamaged
    else { return nil }
    return (score(output, result.report), result.report)
  }

  /// Judges a repaired pool.
  /// - Parameter report: what was said of it; nil where nothing was.
  public func score(_ output: any BlockDevice, _ report: RepairReport? = nil) -> Score {
    var score = Score()
    score.intact = intact.values.reduce(0) { $0 + $1.count }
    guard let view = try? MetadataView(output, source: .current),
      let roots = try? view.deviceRoots()
    else { return score }
    for (thin, root) in roots {
      let id = thin.rawValue
      let ranges =
        report?.devices.first { $0.id == thin }?.ranges.filter { $0.kind == .doubtful } ?? []
      try? view.forEachRun(of: root) { run in
        for i in 0..<run.length {
          let block = run.virtualBlock.rawValue + i
          let isDoubtful = ranges.contains {
            $0.begin.rawValue <= block && block < $0.end?.rawValue ?? .max
          }
          if isDoubtful { score.doubtful += 1 }
          if truth[id]?[block] == run.dataBlock.rawValue + i {
            score.right += 1
            if intact[id]?.contains(block) == true { score.saved += 1 }
          } else {
            score.wrong += 1
            if isDoubtful { score.doubtfulWrong += 1 }
          }
        }
      }
    }
    return score
  }

  /// The device's contents.
  public var bytes: [UInt8] {
    (0..<(device.byteCount / UInt64(Limits.blockBytes))).flatMap { Array(device.peek($0)) }
  }
}
