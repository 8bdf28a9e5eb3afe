import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// A random run of operations on a pool in memory, compared with a model of dictionaries.
///
/// Whatever the engine answers is compared at once; what it commits is read back by the reading
/// tools and compared as a whole. The same options give the same run.
public final class ModelRun {
  /// What kind of run.
  public struct Options: Sendable {
    /// Where the random numbers start.
    public var seed: UInt64
    /// Blocks of the metadata device at the start; it grows when it stays full.
    public var metadataBlocks = 400
    /// Data blocks at the start.
    public var dataBlocks: UInt64 = 3000
    /// Blocks that the engine's cache keeps.
    public var cacheBlocksMax = 8192
    /// Devices that the run keeps about as many of.
    public var devicesMax = 12
    /// Virtual blocks of a device.
    public var virtualBlocks: UInt64 = 2000
    /// Commits from one comparison of everything to the next; devices that were changed are
    /// compared each time.
    public var compareEvery = 1

    /// The usual run.
    public init(seed: UInt64) { self.seed = seed }
  }

  /// Engine and model disagree.
  public struct Discrepancy: Error, CustomStringConvertible {
    /// Where and about what.
    public let description: String
  }

  let options: Options
  let device: MemoryDevice
  var pool: PoolMetadata
  var random: SplitMix64
  var state = ModelState()
  /// The state of the last commit.
  var committed = ModelState()
  var openCounts: [UInt64: Int] = [:]
  /// Devices changed in this transaction.
  var changed: Set<UInt64> = []
  private var commitCount = 0
  /// Times in a row that metadata was full.
  var fullCount = 0
  /// Operations done and errors met, by name.
  public internal(set) var tally: [String: Int] = [:]
  /// Operations done.
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

  /// Does so many operations, and compares everything at the end.
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

  /// Does something that succeeds unless metadata is full, which aborts the transaction.
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

  /// Something that has to be refused, the transaction left as it is.
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

  /// After the engine has committed.
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

  /// As after a restart without a commit.
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
