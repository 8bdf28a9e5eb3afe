public import BlockIO
import PersistentData
import ThinFormat
public import ThinMetadata

/// Executes a trace of pool operations, one per line, with the engine:
///
///     meta N          a metadata device of N zero blocks
///     load D          activate: format or open, take in D data blocks and a larger device, commit
///     grow D          the same for an active pool; growboth M D with a larger metadata device
///     unload          commit and forget everything
///     create I | snap N O | delete I | trans X N | reserve | release    messages, with their commit
///     open I | close I
///     w1 I V          write to virtual block V of device I
///     rm I V N        discard N virtual blocks; pd the same with the data blocks discarded too
///     commit
///     dump LABEL      the whole image is asked for
public final class TraceReplayer {
  /// The metadata device; replaced by `meta`.
  public private(set) var device = MemoryDevice(byteCount: 4096)
  /// The pool while it is active.
  public private(set) var pool: PoolMetadata?
  /// The device to use instead of `device`, if given.
  private let fixed: (any BlockDevice)?
  /// The size of the cache in blocks; a small one forces early writes.
  private let cacheBlocksMax: Int

  /// A replayer in its initial state.
  public init(cacheBlocksMax: Int = 8192) {
    fixed = nil
    self.cacheBlocksMax = cacheBlocksMax
  }

  /// A replayer on a device with existing content, which `meta` and `growboth` do not change.
  public init(onto device: any BlockDevice, cacheBlocksMax: Int = 8192) {
    fixed = device
    self.cacheBlocksMax = cacheBlocksMax
  }

  /// A malformed line.
  public struct BadLine: Error, CustomStringConvertible {
    /// The error.
    public let description: String
  }

  /// Executes one line.
  /// - Parameter dump: receives label and image; the bytes that the kernel leaves undefined are not
  ///   masked.
  /// - Throws: `BadLine`, or `PoolError` for an operation that the kernel would have accepted.
  public func run(_ line: Substring, dump: (Substring, MemoryDevice) throws -> Void) throws {
    let words = line.split(separator: " ")
    guard let verb = words.first, !verb.hasPrefix("#") else { return }
    let numbers = words.dropFirst().compactMap { UInt64($0) }
    func number(_ i: Int) throws -> UInt64 {
      guard i < numbers.count else { throw BadLine(description: "'\(line)': a number is missing") }
      return numbers[i]
    }
    switch verb {
    case "meta":
      pool = nil
      guard fixed == nil else { return }
      device = MemoryDevice(byteCount: Int(try number(0)) * Limits.blockBytes)
    case "load": try load(dataBlocks: try number(0))
    case "grow": try grow(dataBlocks: try number(0))
    case "growboth":
      if fixed == nil { device.grow(byteCount: Int(try number(0)) * Limits.blockBytes) }
      try grow(dataBlocks: try number(1))
    case "unload":
      try pool?.commit()
      pool = nil
    case "dump":
      guard words.count > 1 else { throw BadLine(description: "'\(line)': a label is missing") }
      try dump(words[1], device)
    default:
      guard let pool else { throw BadLine(description: "'\(line)': no pool is active") }
      try operate(pool, verb, number)
    }
  }

  private func load(dataBlocks: UInt64) throws(PoolError) {
    let device: any BlockDevice = fixed ?? self.device
    let pool =
      try PoolMetadata.isUnformatted(device)
      ? try PoolMetadata.format(device, dataBlockSectors: 128, cacheBlocksMax: cacheBlocksMax)
      : try PoolMetadata.open(device, cacheBlocksMax: cacheBlocksMax)
    self.pool = pool
    try takeIn(pool, dataBlocks)
  }

  private func grow(dataBlocks: UInt64) throws(PoolError) {
    try pool?.commit()
    if let pool { try takeIn(pool, dataBlocks) }
  }

  private func takeIn(_ pool: PoolMetadata, _ dataBlocks: UInt64) throws(PoolError) {
    let before = (pool.dataBlockCount, pool.metadataBlockCount)
    if dataBlocks > pool.dataBlockCount { try pool.resizeData(to: dataBlocks) }
    try pool.resizeMetadata()
    if before != (pool.dataBlockCount, pool.metadataBlockCount) { try pool.commit() }
  }

  private func operate(
    _ pool: PoolMetadata, _ verb: Substring, _ number: (Int) throws -> UInt64
  ) throws {
    func thin(_ i: Int) throws -> ThinID { ThinID(try number(i)) }
    switch verb {
    case "create": try message(pool) { try pool.createThin(try thin(0)) }
    case "snap":
      try message(pool) { try pool.createSnapshot(try thin(0), origin: try thin(1)) }
    case "delete": try message(pool) { try pool.delete(try thin(0)) }
    case "trans":
      try message(pool) {
        try pool.setTransactionID(pool.superblock.transactionID, try number(1))
      }
    case "reserve": try message(pool) { try pool.reserveMetadataSnapshot() }
    case "release": try message(pool) { try pool.releaseMetadataSnapshot() }
    case "open": try pool.openDevice(try thin(0))
    case "close": try pool.closeDevice(try thin(0))
    case "w1": try pool.provision(try thin(0), VirtualBlock(try number(1)))
    case "rm":
      let first = VirtualBlock(try number(1))
      try pool.remove(try thin(0), first..<(first + (try number(2))))
    case "pd":
      let first = VirtualBlock(try number(1))
      try pool.discardPassingDown(try thin(0), first..<(first + (try number(2))))
    case "commit": try pool.commit()
    default: throw BadLine(description: "'\(verb)' is not an operation")
    }
  }

  /// After a failed message there is no commit.
  private func message(_ pool: PoolMetadata, _ body: () throws -> Void) throws {
    try body()
    try pool.commit()
  }
}
