public import BlockIO
public import PersistentData
public import ThinFormat

/// A pool's metadata, open for reading and writing. Performs all operations of the kernel's
/// thin-pool target on it, with the same blocks in the same places as the result.
///
/// All changes up to `commit` are one transaction; `abort` goes back to the last commit. It has one
/// owner, which uses it from one thread. Memory: the cache's limit, and 64 bytes per device used.
///
/// Invariants: `superblock` has the roots of the running transaction; the device holds the last
/// commit. After a failure `hasFailed` is set, and nothing more is written until `abort`.
public final class PoolMetadata {
  /// The state of a device that is open or was changed (kernel: `dm_thin_device`).
  struct Record {
    var details: DeviceDetails
    /// Later records have larger numbers. Details are written latest first, as in the kernel.
    var number: UInt64
    var openCount = 0
    /// Whether it was changed since the last commit or abort.
    var isChanged = false
  }

  /// The metadata device.
  public let device: any BlockDevice
  let cache: BlockCache
  let tm: TransactionManager
  let dataMap: DataSpaceMap
  private let superblockBuffer = AlignedBuffer(count: Limits.blockBytes)
  /// Counters and roots of the running transaction.
  @safe @exclusivity(unchecked) public internal(set) var superblock = Superblock()
  /// Whether an operation failed halfway, so that only `abort` is possible.
  @safe @exclusivity(unchecked) public internal(set) var hasFailed = false
  /// Records by device id.
  @safe @exclusivity(unchecked) var records: [ThinID: Record] = [:]
  var recordsMade: UInt64 = 0
  private var isInService = false
  /// Whether something is being changed, so that nothing can be looked up beside it.
  public var isChanging: Bool { isBeingChanged }
  @safe @exclusivity(unchecked) private var isBeingChanged = false
  /// Told when that is over.
  @safe @exclusivity(unchecked) public var hasChangedAll: () -> Void = {}
  /// Whether it is open for look-ups alone.
  public let isForReading: Bool

  /// Called before every commit writes, to make the data device durable.
  public var beforeCommit: () throws(PoolError) -> Void = {}

  private init(_ device: any BlockDevice, cacheBlocksMax: Int, isForReading: Bool = false) {
    self.device = device
    self.isForReading = isForReading
    cache = BlockCache(device, blocksMax: cacheBlocksMax)
    tm = TransactionManager(cache, MetadataSpaceMap())
    dataMap = DataSpaceMap()
  }

  // MARK: - Open and format

  /// Opens formatted metadata.
  /// - Parameter cacheBlocksMax: blocks of 4 KiB kept between operations.
  /// - Throws: `PoolError.block` for a superblock that is damaged or of an unknown kind, and
  ///   `.invalid` for features that forbid writing.
  public static func open(_ device: any BlockDevice, cacheBlocksMax: Int = 8192)
    throws(PoolError) -> PoolMetadata
  {
    let pool = PoolMetadata(device, cacheBlocksMax: cacheBlocksMax)
    try pool.readSuperblock()
    return pool
  }

  /// Opens metadata for look-ups even if it is damaged: only the superblock, the device tree on the
  /// way to a device, and the mapping tree on the way to a block are needed. Space maps are not
  /// read, device details only on request. Every change is refused.
  /// - Throws: `PoolError.block` for a superblock that is damaged or of an unknown kind.
  public static func openForReading(_ device: any BlockDevice, cacheBlocksMax: Int = 8192)
    throws(PoolError) -> PoolMetadata
  {
    let pool = PoolMetadata(device, cacheBlocksMax: cacheBlocksMax, isForReading: true)
    try pool.readSuperblock()
    return pool
  }

  /// Makes metadata for an empty pool without data blocks; `resizeData` adds some. Block 0 must be
  /// zero; other content of the device is ignored.
  /// - Parameter dataBlockSectors: 128 to 2,097,152, a multiple of 128.
  public static func format(
    _ device: any BlockDevice, dataBlockSectors: UInt32, cacheBlocksMax: Int = 8192
  ) throws(PoolError) -> PoolMetadata {
    guard Limits.isDataBlockSize(dataBlockSectors) else {
      throw .invalid(
        "data block size of \(dataBlockSectors) sectors: expected a multiple of 128 from 128 to "
          + "2097152")
    }
    guard try isUnformatted(device) else {
      throw .invalid("\(device.path) is not empty: its first block is not zero")
    }
    let pool = PoolMetadata(device, cacheBlocksMax: cacheBlocksMax)
    let blocks = pool.cache.blockCount
    try pool.tm.spaceMap.format(blockCount: blocks, pool.tm)
    try pool.dataMap.format(pool.tm)
    pool.superblock.mappingRoot = try pool.deviceTree.empty()
    pool.superblock.detailsRoot = try pool.detailsTree.empty()
    pool.superblock.dataBlockSectors = dataBlockSectors
    pool.superblock.metadataBlockCount = blocks
    pool.isInService = true
    try pool.writeCommit()
    return pool
  }

  /// Whether the first block is all zero, by which the kernel recognises a device to format.
  public static func isUnformatted(_ device: any BlockDevice) throws(PoolError) -> Bool {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    do throws(BlockIOError) { try unsafe device.read(into: buffer.bytes, at: 0) } catch {
      throw .io(error)
    }
    return unsafe buffer.bytes.isAllZero
  }

  private func readSuperblock() throws(PoolError) {
    do throws(BlockIOError) {
      try unsafe device.read(into: superblockBuffer.bytes, at: 0)
    } catch {
      throw .io(error)
    }
    do throws(FormatError) {
      superblock = try unsafe Superblock(
        validating: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(superblockBuffer.bytes)),
        number: 0)
    } catch {
      throw .block(0, .format(error))
    }
    if isForReading {
      tm.spaceMap.openCounters(superblock.metadataSpaceMap)
      dataMap.openCounters(superblock.dataSpaceMap)
      return
    }
    guard superblock.compatReadOnlyFlags == 0 else {
      throw .invalid("unknown features forbid writing to this metadata")
    }
    try tm.spaceMap.open(superblock.metadataSpaceMap, tm)
    try dataMap.open(superblock.dataSpaceMap)
  }

  // MARK: - Trees

  /// The tree of devices, for operations on devices.
  var deviceTree: Btree { Btree(tm, .devices, .deviceTrees(dataMap)) }
  /// The tree of devices, on the way to mappings.
  var deviceTreePassedThrough: Btree { Btree(tm, .devices, .passedThrough) }
  var mappingTree: Btree { Btree(tm, .mappings, .dataBlocks(dataMap)) }
  var detailsTree: Btree { Btree(tm, .details) }

  // MARK: - Transactions

  /// Runs an operation that makes changes. If it fails halfway, the transaction must not be
  /// committed.
  func changing<R>(_ body: () throws(PoolError) -> R) throws(PoolError) -> R {
    guard !hasFailed else { throw .failed }
    guard !isForReading else { throw .invalid("the metadata is open for reading only") }
    isInService = true
    let isPart = isBeingChanged
    isBeingChanged = true
    defer { if !isPart { endChange() } }
    do throws(PoolError) {
      let result = try body()
      try cache.trim()
      return result
    } catch {
      switch error {
      // Thrown before anything was changed.
      case .exists, .busy, .invalid, .dataFull: break
      default: hasFailed = true
      }
      throw error
    }
  }

  private func endChange() {
    isBeingChanged = false
    hasChangedAll()
  }

  /// Runs something that only looks, and keeps the cache's limit. Making room may write.
  func looking<R>(_ body: () throws(PoolError) -> R) throws(PoolError) -> R {
    let result = try body()
    guard !hasFailed, !cache.isInMemoryOnly else { return result }
    do throws(PoolError) {
      try cache.trim()
    } catch {
      hasFailed = true
      throw error
    }
    return result
  }

  /// Makes the running transaction durable: writes everything but the superblock, flushes, writes
  /// the superblock, and flushes. Writes nothing if there were no changes since the metadata was
  /// opened.
  public func commit() throws(PoolError) {
    guard !hasFailed else { throw .failed }
    guard isInService else { return }
    isBeingChanged = true
    defer { if isBeingChanged { endChange() } }
    do throws(PoolError) {
      try beforeCommit()
      let changed = records.filter { $0.value.isChanged }
      for (id, record) in changed.sorted(by: { $0.value.number > $1.value.number }) {
        superblock.detailsRoot = try unsafe detailsTree.insert(
          root: superblock.detailsRoot, key: id.rawValue
        ) {
          unsafe record.details.encode(
            into: UnsafeMutableRawBufferPointer(start: $0, count: DeviceDetails.byteCount), at: 0)
        }.root
      }
      try writeCommit()
      for id in changed.keys {
        // What is closed is forgotten once it was written.
        records[id]?.isChanged = false
        if records[id]?.openCount == 0 { records[id] = nil }
      }
    } catch {
      hasFailed = true
      throw error
    }
  }

  private func writeCommit() throws(PoolError) {
    try dataMap.commit(tm)
    try tm.spaceMap.commit(tm)
    superblock.dataSpaceMap = dataMap.current
    superblock.metadataSpaceMap = tm.spaceMap.current
    // All is changed, and not yet written.
    endChange()
    try cache.flush()
    unsafe superblock.encode(into: superblockBuffer.bytes)
    unsafe BlockHeader.seal(superblockBuffer.bytes, number: 0, kind: .superblock)
    do throws(BlockIOError) {
      try unsafe device.write(UnsafeRawBufferPointer(superblockBuffer.bytes), at: 0)
      try device.flush()
    } catch {
      throw .io(error)
    }
    cache.forget(0)
    tm.forgetShadows()
    try cache.trim()
  }

  /// Goes back to the last commit. Open devices stay open, except those that the commit does not
  /// have.
  public func abort() throws(PoolError) {
    isBeingChanged = true
    defer { endChange() }
    cache.drop()
    tm.forgetShadows()
    hasFailed = true
    try readSuperblock()
    for (id, record) in records where record.isChanged {
      // The device was made since the last commit.
      guard let details = try readDetails(id) else {
        records[id] = nil
        continue
      }
      records[id]?.details = details
      records[id]?.isChanged = false
    }
    hasFailed = false
  }

  // MARK: - In memory alone

  /// Calls `body`, which looks something up, with what is in memory alone: nothing is read, and nothing
  /// is thrown out. Not while something is being changed.
  /// - Throws: also `.absent`; `absent` has to be read then.
  public func inMemory<R>(_ body: () throws(PoolError) -> R) throws(PoolError) -> R {
    cache.isInMemoryOnly = true
    defer { cache.isInMemoryOnly = false }
    return try body()
  }

  /// What was not in memory.
  public var absent: (block: MetadataBlock, kind: BlockKind) {
    (MetadataBlock(cache.absent.block), cache.absent.kind)
  }

  /// Notes that the caller reads `absent`, while other things happen here; `endReading` follows.
  public func beginReading(_ block: MetadataBlock) { cache.beginReading(block.rawValue) }

  /// Takes in what was read, unless the block came here or was changed meanwhile. Nil: it could not be read.
  /// - Throws: where the contents are not those of such a block.
  public func endReading(
    _ block: MetadataBlock, _ kind: BlockKind, _ bytes: UnsafeMutableRawBufferPointer?
  )
    throws(PoolError)
  { try unsafe cache.endReading(block.rawValue, kind, bytes) }

  /// Whether more is in memory than is kept between operations.
  public var isOverLimit: Bool { cache.isOverLimit }

  /// Brings that down. Making room may write.
  public func trim() throws(PoolError) { try looking {} }

  func readDetails(_ id: ThinID) throws(PoolError) -> DeviceDetails? {
    try unsafe detailsTree.lookup(root: superblock.detailsRoot, key: id.rawValue) {
      unsafe DeviceDetails(
        decoding: RawSpan(
          _unsafeBytes: UnsafeRawBufferPointer(start: $0, count: DeviceDetails.byteCount)))
    }
  }
}
