import PersistentData
public import ThinFormat
import ThinMetadata

/// The life of a pool, made from a seed by the engine, which places metadata as the kernel does:
/// the earlier generations on the metadata device are those that the kernel would leave.
public struct PoolHistory {
  /// The properties of such a life.
  public struct Kind: Sendable {
    /// The name in statistics.
    public var name: String
    /// Blocks of the metadata device: few, so that the allocator wraps around, or many.
    public var metadataBlocks: ClosedRange<Int>
    /// The number of commits.
    public var commits: ClosedRange<Int>
    /// Operations of a transaction.
    public var operations: ClosedRange<Int>
    /// The most virtual blocks in use per device.
    public var window: ClosedRange<UInt64>
    /// The most blocks of a write or discard.
    public var run: UInt64 = 4
    /// Discards per 1000 operations. The rest of the 1000 are writes.
    public var discards = 0
    /// New empty devices per 1000 operations.
    public var creations = 0
    /// Snapshots per 1000 operations.
    public var snapshots = 0
    /// Deletions of a device per 1000 operations.
    public var deletions = 0
    /// New activations per 1000 commits.
    public var activations = 0
    /// Metadata snapshots made or released per 1000 commits.
    public var metadataSnapshots = 0
    /// The size to which the metadata device grows before the last ten commits; nil if it does not.
    public var grownBlocks: Int?

    /// A kind with only writes.
    public init(
      _ name: String, metadataBlocks: ClosedRange<Int>, commits: ClosedRange<Int>,
      operations: ClosedRange<Int>, window: ClosedRange<UInt64>
    ) {
      self.name = name
      self.metadataBlocks = metadataBlocks
      self.commits = commits
      self.operations = operations
      self.window = window
    }
  }

  /// The metadata device after the last commit.
  public let device: MemoryDevice
  /// The superblock after each commit.
  public private(set) var superblocks: [Superblock] = []
  private let kind: Kind
  private var random: SplitMix64
  private var pool: PoolMetadata
  private var ids: [ThinID] = []
  private let window: UInt64

  /// The history made from a seed.
  /// - Throws: errors of the engine, which mean a fault of the engine or the generator.
  public init(_ kind: Kind, seed: UInt64) throws {
    self.kind = kind
    random = SplitMix64(seed: seed)
    device = MemoryDevice(byteCount: 4096 * .random(in: kind.metadataBlocks, using: &random))
    window = .random(in: kind.window, using: &random)
    pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: 8 * window + 100)
    try create()
    let count = Int.random(in: kind.commits, using: &random)
    for i in 0..<count {
      if i == count - 10, let blocks = kind.grownBlocks {
        device.grow(byteCount: 4096 * blocks)
        try pool.resizeMetadata()
      }
      for _ in 0..<Int.random(in: kind.operations, using: &random) {
        guard pool.freeMetadataBlocks > 60 else { break }
        try operate()
      }
      try commit()
      if pool.freeMetadataBlocks < 100 || pool.freeDataBlocks < 2 * kind.run {
        try makeSpace()
        try commit()
        if pool.freeMetadataBlocks < 100 || pool.freeDataBlocks < 2 * kind.run { break }
      }
      if kind.metadataSnapshots > 0, chance(kind.metadataSnapshots) { try holdOrRelease() }
      if chance(kind.activations) { pool = try PoolMetadata.open(device) }
    }
    device.keep()
  }

  /// Writes the superblock of an earlier commit; `device.revert()` reverts that.
  public func putBack(_ superblock: Superblock) {
    let block = device.edit(0)
    superblock.encode(into: block)
    BlockHeader.seal(block, number: 0, kind: .superblock)
  }

  private mutating func below(_ n: UInt64) -> UInt64 { .random(in: 0..<max(1, n), using: &random) }
  private mutating func chance(_ perMille: Int) -> Bool { below(1000) < UInt64(perMille) }

  private mutating func commit() throws {
    try pool.commit()
    superblocks.append(pool.superblock)
  }

  private mutating func holdOrRelease() throws {
    if pool.superblock.metadataSnapshot == 0 {
      try pool.reserveMetadataSnapshot()
    } else {
      try pool.releaseMetadataSnapshot()
    }
    try commit()
  }

  private mutating func create() throws {
    let id = ThinID(below(1000))
    guard !ids.contains(id) else { return }
    try pool.createThin(id)
    ids.append(id)
  }

  private mutating func delete() throws {
    guard ids.count > 1 else { return }
    try pool.delete(ids.remove(at: Int(below(UInt64(ids.count)))))
  }

  /// Deletes a device, or the mappings of the only one.
  private mutating func makeSpace() throws {
    if ids.count > 1 {
      try delete()
    } else if let id = ids.first {
      try pool.remove(id, 0..<VirtualBlock(window))
    }
  }

  private mutating func operate() throws {
    var draw = Int(below(1000))
    func isNext(_ share: Int) -> Bool {
      draw -= share
      return draw < 0
    }
    guard let id = ids.randomElement(using: &random) else { return }
    if isNext(kind.discards) {
      let first = VirtualBlock(below(window))
      try pool.remove(id, first..<(first + (1 + below(kind.run))))
    } else if isNext(kind.creations) {
      try create()
    } else if isNext(kind.snapshots) {
      let new = ThinID(below(1000))
      guard !ids.contains(new) else { return }
      try pool.createSnapshot(new, origin: id)
      ids.append(new)
    } else if isNext(kind.deletions) {
      try delete()
    } else {
      let first = VirtualBlock(below(window))
      for block in first..<(first + (1 + below(kind.run))) {
        guard pool.freeDataBlocks > 0, pool.freeMetadataBlocks > 40 else { return }
        do throws(PoolError) { try pool.provision(id, block) } catch .dataFull { return }
      }
    }
  }
}
