import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// A random run of operations on a pool in memory, compared with a model of dictionaries.
///
/// The engine's results are compared at once; its commits are read back by the reading tools and
/// compared as a whole. The same options give the same run.
public final class ModelRun {
  /// The options of a run.
  public struct Options: Sendable {
    /// The seed of the random numbers.
    public var seed: UInt64
    /// Blocks of the metadata device at the start; it grows if it stays full.
    public var metadataBlocks = 400
    /// Data blocks at the start.
    public var dataBlocks: UInt64 = 3000
    /// The size of the engine's cache in blocks.
    public var cacheBlocksMax = 8192
    /// The approximate number of devices.
    public var devicesMax = 12
    /// Virtual blocks of a device.
    public var virtualBlocks: UInt64 = 2000
    /// The number of commits between full comparisons; changed devices are compared each time.
    public var compareEvery = 1

    /// The default run.
    public init(seed: UInt64) { self.seed = seed }
  }

  /// A difference between engine and model.
  public struct Discrepancy: Error, CustomStringConvertible {
    /// The place and the difference.
    public let description: String
  }

  let options: Options
  let device: MemoryDevice
  var pool: PoolMetadata
  var random: SplitMix64
  var state = ModelState()
  /// The state of the last commit.
  var committed = ModelState()
  var openCounts: [ThinID: Int] = [:]
  /// Devices changed in this transaction.
  var changed: Set<ThinID> = []
  private var commitCount = 0
  /// The number of consecutive times that metadata was full.
  var fullCount = 0
  /// The numbers of operations and errors, by name.
  public internal(set) var tally: [String: Int] = [:]
  /// The number of operations.
  public internal(set) var operationCount = 0

  /// A formatted pool.
  public init(_ options: Options) throws {
    self.options = options
    random = SplitMix64(seed: options.seed)
    device = MemoryDevice(byteCount: options.metadataBlocks * Limits.blockBytes)
    pool = try PoolMetadata.format(
      device, dataBlockSectors: 128, cacheBlocksMax: options.cacheBlocksMax)
    try pool.resizeData(to: options.dataBlocks)
    state.dataBlockCount = options.dataBlocks
    try commit()
  }

  /// Performs this many operations, and compares everything at the end.
  public func run(operations: Int) throws {
    for _ in 0..<operations { try step() }
    try commit()
    try compare(everything: true)
  }

  func fail(_ what: String) -> Discrepancy {
    Discrepancy(description: "seed \(options.seed), operation \(operationCount): \(what)")
  }

  func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws(Discrepancy) {
    if !condition { throw fail(what()) }
  }

  func count(_ name: String) { tally[name, default: 0] += 1 }

  // MARK: - Transactions

  /// Performs an operation that succeeds unless metadata is full, which aborts the transaction.
  /// - Returns: whether it succeeded.
  func attempt(_ body: () throws(PoolError) -> Void) throws -> Bool {
    do throws(PoolError) {
      try body()
      return true
    } catch {
      guard error == .metadataFull else { throw fail("\(error)") }
      count("metadata full")
      try expect(pool.hasFailed, "metadata full, but the pool has not failed")
      try expectError(.failed) { () throws(PoolError) in try pool.commit() }
      try abort()
      fullCount += 1
      if fullCount > 3 {
        fullCount = 0
        try growMetadata()
      }
      return false
    }
  }

  /// Performs an operation that must be refused and leave the transaction unchanged.
  func expectError(_ expected: PoolError, _ body: () throws(PoolError) -> Void) throws {
    do throws(PoolError) {
      try body()
    } catch {
      if case .invalid = expected, case .invalid = error { return }
      try expect(error == expected, "expected error '\(expected)', found '\(error)'")
      return
    }
    throw fail("expected error '\(expected)', found none")
  }

  func commit() throws {
    guard try attempt({ () throws(PoolError) in try pool.commit() }) else { return }
    try committedNow()
  }

  /// Updates the model after a commit of the engine.
  func committedNow() throws {
    fullCount = 0
    device.keep()
    committed = state
    commitCount += 1
    count("commit")
    try compare(everything: commitCount % options.compareEvery == 0)
    changed = []
  }

  func abort() throws {
    try pool.abort()
    count("abort")
    returnToCommitted()
    openCounts = openCounts.filter { committed.devices[$0.key] != nil }
    try compare(everything: false)
  }

  private func returnToCommitted() {
    state = committed
    changed = []
  }

  /// Reopens the pool, as after a restart without a commit.
  func reopen() throws {
    pool = try PoolMetadata.open(device, cacheBlocksMax: options.cacheBlocksMax)
    count("reopen")
    returnToCommitted()
    openCounts = [:]
    try compare(everything: false)
  }

  func growMetadata() throws {
    let blocks = Int(device.byteCount) / Limits.blockBytes
    let more = Int.random(in: 1...(options.metadataBlocks / 4), using: &random)
    device.grow(byteCount: (blocks + more) * Limits.blockBytes)
    count("metadata grown")
    guard try attempt({ () throws(PoolError) in try pool.resizeMetadata() }) else { return }
    try commit()
  }
}
