package import ThinFormat

/// The space map of data blocks. Its index is a tree with a cache of 64 entries before it; the
/// order in which they are written is part of the format's deterministic behaviour.
package final class DataSpaceMap: DiskSpaceMap {
  private struct Cached {
    var bitmap: UInt64
    var entry: IndexEntry
    var isDirty: Bool
  }

  @safe @exclusivity(unchecked) private var cached = [Cached?](repeating: nil, count: 64)
  @safe @exclusivity(unchecked) private var oldCached = [Cached?](repeating: nil, count: 64)
  /// Blocks allocated minus blocks freed in this transaction.
  private(set) var netAllocated: Int64 = 0
  @safe @exclusivity(unchecked) private var withheld = WithheldBlocks()

  /// Blocks free at the last commit, minus those allocated since and those withheld, plus those
  /// freed.
  package var freeCount: UInt64 {
    UInt64(
      clamping: Int64(clamping: old.blockCount) - Int64(clamping: old.allocated) - netAllocated
        - Int64(withheld.freeCount))
  }

  private func slot(_ bitmap: UInt64) -> Int { Int(truncatingIfNeeded: bitmap &* 59) & 63 }

  private func tree(_ tm: TransactionManager) -> Btree { Btree(tm, .spaceMapIndex) }

  private func load(_ bitmap: UInt64, root: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    let entry = try unsafe tree(tm).lookup(root: root, key: bitmap) {
      unsafe IndexEntry(
        decoding: RawSpan(
          _unsafeBytes: UnsafeRawBufferPointer(start: $0, count: IndexEntry.byteCount)))
    }
    guard let entry else { throw .inconsistent("data bitmap \(bitmap) has no index entry") }
    return entry
  }

  override package func indexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    let slot = slot(bitmap)
    if let known = cached[slot], known.bitmap == bitmap { return known.entry }
    try writeBack(slot, tm)
    let entry = try load(bitmap, root: current.bitmapRoot, tm)
    cached[slot] = Cached(bitmap: bitmap, entry: entry, isDirty: false)
    return entry
  }

  override package func setIndexEntry(
    _ bitmap: UInt64, _ entry: IndexEntry, _ tm: TransactionManager
  ) throws(PoolError) {
    let slot = slot(bitmap)
    if let known = cached[slot], known.bitmap != bitmap { try writeBack(slot, tm) }
    cached[slot] = Cached(bitmap: bitmap, entry: entry, isDirty: true)
  }

  override package func oldIndexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    let slot = slot(bitmap)
    if let known = oldCached[slot], known.bitmap == bitmap { return known.entry }
    let entry = try load(bitmap, root: old.bitmapRoot, tm)
    oldCached[slot] = Cached(bitmap: bitmap, entry: entry, isDirty: false)
    return entry
  }

  /// Whether a block is counted as free. Does not change the cached entries.
  package func isFree(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) -> Bool {
    guard block < current.blockCount else { return true }
    let bitmap = block / Self.perBitmap
    let found: IndexEntry
    if let known = cached[slot(bitmap)], known.bitmap == bitmap {
      found = known.entry
    } else {
      found = try load(bitmap, root: current.bitmapRoot, tm)
    }
    return try bits(found.bitmapBlock, Int(block % Self.perBitmap), tm) == 0
  }

  private func writeBack(_ slot: Int, _ tm: TransactionManager) throws(PoolError) {
    guard let known = cached[slot], known.isDirty else { return }
    current.bitmapRoot = try unsafe tree(tm).insert(root: current.bitmapRoot, key: known.bitmap) {
      unsafe known.entry.encode(
        into: UnsafeMutableRawBufferPointer(start: $0, count: IndexEntry.byteCount), at: 0)
    }.root
    cached[slot]?.isDirty = false
  }

  package func open(_ root: SpaceMapRoot) throws(PoolError) {
    try requirePossible(root, blocksMax: Limits.dataBlocksMax)
    current = root
    old = root
    begin = 0
    forget()
  }

  /// Sets the counters of a map that is neither read nor changed.
  package func openCounters(_ root: SpaceMapRoot) {
    current = root
    old = root
  }

  private func forget() {
    cached = Array(repeating: nil, count: 64)
    oldCached = cached
    netAllocated = 0
    withheld.noneIsFree()
  }

  package func format(_ tm: TransactionManager) throws(PoolError) {
    current = SpaceMapRoot()
    current.bitmapRoot = try tree(tm).empty()
    current.overflowRoot = try Btree(tm, .spaceMapOverflow).empty()
    begin = 0
    forget()
  }

  override package func isWithheld(_ block: UInt64) -> Bool { withheld.contains(block) }

  package func allocate(_ tm: TransactionManager) throws(PoolError) -> UInt64 {
    let block = try takeNext(tm)
    try increment(block, block + 1, tm)
    return block
  }

  /// The next free block. The next search continues after it.
  private func takeNext(_ tm: TransactionManager) throws(PoolError) -> UInt64 {
    guard let block = try findCommonFree(tm) else { throw .dataFull }
    begin = block + 1
    return block
  }

  /// Finds a free block and withholds it. Metadata blocks are allocated as if it was allocated.
  package func reserve(_ tm: TransactionManager) throws(PoolError) -> UInt64 {
    let block = try takeNext(tm)
    try touch(block, tm)
    try withhold(block..<(block + 1), tm)
    return block
  }

  /// Withholds blocks from allocation, whatever their present and future counts, in memory only.
  /// - Throws: `.inconsistent` if one is already withheld.
  package func withhold(_ blocks: Range<UInt64>, _ tm: TransactionManager) throws(PoolError) {
    if let known = blocks.first(where: { withheld.contains($0) }) {
      throw .inconsistent("data block \(known) is in use twice")
    }
    for block in blocks {
      withheld.insert(block, isFree: try bits(of: block, tm) == 0)
    }
  }

  /// Reverses `withhold`.
  package func restore(_ blocks: Range<UInt64>) {
    for block in blocks { withheld.remove(block) }
  }

  package func increment(_ start: UInt64, _ end: UInt64, _ tm: TransactionManager) throws(PoolError)
  {
    try counted { () throws(PoolError) in try adjust(start, end, by: 1, tm) }
    try lookAgain(start, end, tm)
  }

  package func decrement(_ start: UInt64, _ end: UInt64, _ tm: TransactionManager) throws(PoolError)
  {
    try counted { () throws(PoolError) in try adjust(start, end, by: -1, tm) }
    try lookAgain(start, end, tm)
  }

  /// Updates the withheld blocks after counts have changed.
  private func lookAgain(_ start: UInt64, _ end: UInt64, _ tm: TransactionManager) throws(PoolError)
  {
    guard !withheld.isEmpty else { return }
    for block in start..<end where withheld.contains(block) {
      withheld.insert(block, isFree: try bits(of: block, tm) == 0)
    }
  }

  private func counted(_ body: () throws(PoolError) -> Void) throws(PoolError) {
    let before = current.allocated
    try body()
    netAllocated += Int64(current.allocated) - Int64(before)
  }

  package func commit(_ tm: TransactionManager) throws(PoolError) {
    for slot in 0..<64 { try writeBack(slot, tm) }
    old = current
    oldCached = cached
    netAllocated = 0
  }
}
