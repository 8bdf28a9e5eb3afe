package import ThinFormat

/// The space map of metadata blocks, which counts its own blocks too. A change needs metadata
/// blocks, so changes that arise during a change are queued and made after it.
///
/// Invariants: `queue` is empty outside `adjust`. While `isBootstrapping`, blocks are allocated one
/// after the other and not counted at once.
package final class MetadataSpaceMap: DiskSpaceMap {
  private struct Change {
    var start: UInt64
    var end: UInt64
    var direction: Int
  }

  /// As in the kernel, the number of changes that fit its ring.
  private static let queueMax = 1024
  @safe @exclusivity(unchecked) private var index: [IndexEntry] = []
  private var oldIndex: [IndexEntry] = []
  private var indexChanged = false
  @safe @exclusivity(unchecked) private var queue: [Change] = []
  private var depth = 0
  private var isBootstrapping = false
  private(set) var allocatedThisTransaction: UInt64 = 0

  /// Free blocks: those of the last commit, minus those allocated in this transaction. Freed blocks
  /// are counted after the commit.
  package var freeCount: UInt64 {
    let free = old.blockCount - min(old.allocated, old.blockCount)
    return free - min(free, allocatedThisTransaction)
  }

  // MARK: - Index

  override package func indexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    guard bitmap < UInt64(index.count) else {
      throw .inconsistent("metadata bitmap \(bitmap) of \(index.count)")
    }
    return index[Int(bitmap)]
  }

  override package func setIndexEntry(
    _ bitmap: UInt64, _ entry: IndexEntry, _ tm: TransactionManager
  ) throws(PoolError) {
    guard bitmap <= UInt64(index.count) else {
      throw .inconsistent("metadata bitmap \(bitmap) of \(index.count)")
    }
    if bitmap == UInt64(index.count) { index.append(entry) } else { index[Int(bitmap)] = entry }
    indexChanged = true
  }

  override package func oldIndexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    guard bitmap < UInt64(oldIndex.count) else {
      throw .inconsistent("metadata bitmap \(bitmap) of \(oldIndex.count)")
    }
    return oldIndex[Int(bitmap)]
  }

  /// Opens the map in a superblock.
  package func open(_ root: SpaceMapRoot, _ tm: TransactionManager) throws(PoolError) {
    try requirePossible(root, blocksMax: Limits.metadataBlocksMax)
    let bytes = try unsafe tm.cache.read(root.bitmapRoot, .index)
    let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes))
    index = (0..<Int(root.bitmapCount)).map {
      IndexEntry(decoding: span, at: IndexBlock.offset(ofEntry: $0))
    }
    current = root
    old = root
    oldIndex = index
    indexChanged = false
    begin = 0
    allocatedThisTransaction = 0
    queue.removeAll()
    depth = 0
    isBootstrapping = false
  }

  /// Sets the counters of a map that is neither read nor changed.
  package func openCounters(_ root: SpaceMapRoot) {
    current = root
    old = root
  }

  /// Makes a map of `blockCount` blocks from block 1 on. The device's content does not matter.
  package func format(blockCount: UInt64, _ tm: TransactionManager) throws(PoolError) {
    current = SpaceMapRoot()
    current.blockCount = 0
    begin = 1
    limit = blockCount
    isBootstrapping = true
    current.bitmapRoot = try tm.newBlock(.index)
    current.overflowRoot = try Btree(tm, .spaceMapOverflow).empty()
    try extend(to: blockCount, tm)
    isBootstrapping = false
    try change(0, begin, by: 1, tm)
  }

  /// The number of existing blocks, while bootstrapping.
  private var limit: UInt64 = 0

  // MARK: - Counts

  package func allocate(_ tm: TransactionManager) throws(PoolError) -> UInt64 {
    if isBootstrapping {
      guard begin < limit else { throw .metadataFull }
      begin += 1
      return begin - 1
    }
    guard let block = try findCommonFree(tm) else { throw .metadataFull }
    begin = block + 1
    try change(block, block + 1, by: 1, tm)
    allocatedThisTransaction += 1
    return block
  }

  package func increment(_ start: UInt64, _ end: UInt64, _ tm: TransactionManager) throws(PoolError)
  {
    try change(start, end, by: 1, tm)
  }

  package func decrement(_ start: UInt64, _ end: UInt64, _ tm: TransactionManager) throws(PoolError)
  {
    try change(start, end, by: -1, tm)
  }

  package func decrement(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) {
    try change(block, block &+ 1, by: -1, tm)
  }

  private func change(_ start: UInt64, _ end: UInt64, by direction: Int, _ tm: TransactionManager)
    throws(PoolError)
  {
    if depth > 0 || isBootstrapping {
      guard queue.count < Self.queueMax else { throw .inconsistent("too many nested changes") }
      queue.append(Change(start: start, end: end, direction: direction))
      return
    }
    depth += 1
    defer { depth -= 1 }
    try adjust(start, end, by: direction, tm)
    try drain(tm)
  }

  private func drain(_ tm: TransactionManager) throws(PoolError) {
    var done = 0
    while done < queue.count {
      let change = queue[done]
      // Counted as queued until it is complete.
      try adjust(change.start, change.end, by: change.direction, tm)
      queue.removeFirst()
      done = 0
    }
  }

  private func queued(_ block: UInt64) -> Int {
    var net = 0
    for change in queue where change.start <= block && block < change.end {
      net += change.direction
    }
    return net
  }

  /// The exact count of a block.
  package func count(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) -> UInt32 {
    UInt32(clamping: Int64(try storedCount(block, tm)) + Int64(queued(block)))
  }

  /// Whether a block may have more than one reference. Never wrong if false.
  package func mayBeShared(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) -> Bool {
    if isBootstrapping { return false }
    let net = queued(block)
    if net > 1 { return true }
    let bits = try bits(of: block, tm)
    return bits == 3 || Int(bits) + net > 1
  }

  // MARK: - Commit and growth

  package func commit(_ tm: TransactionManager) throws(PoolError) {
    try writeIndex(tm)
    old = current
    oldIndex = index
    allocatedThisTransaction = 0
  }

  private func writeIndex(_ tm: TransactionManager) throws(PoolError) {
    guard indexChanged else { return }
    current.bitmapRoot = try tm.shadow(current.bitmapRoot, .index).block
    let bytes = try unsafe tm.cache.read(current.bitmapRoot, .index)
    for (i, entry) in index.enumerated() {
      unsafe entry.encode(into: bytes, at: IndexBlock.offset(ofEntry: i))
    }
    tm.cache.markDirty(current.bitmapRoot)
    indexChanged = false
  }

  /// Adds blocks that the device has gained. All blocks needed for this are among the new ones.
  package func grow(to blockCount: UInt64, _ tm: TransactionManager) throws(PoolError) {
    var counted = current.blockCount
    begin = counted
    limit = blockCount
    isBootstrapping = true
    defer { isBootstrapping = false }
    try extend(to: blockCount, tm)
    repeat {
      queue.append(Change(start: counted, end: begin, direction: 1))
      counted = begin
      try drain(tm)
      try writeIndex(tm)
    } while counted != begin
  }
}
