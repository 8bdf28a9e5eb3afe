package import ThinFormat

/// Reference counts on disk, changed as by the kernel's dm-space-map code (`ll_disk`). The two
/// space maps differ in the storage of index entries, and in the rules for changes.
///
/// Invariants: `current` is the map in this transaction, `old` the one of the last commit. The
/// blocks of the old one are intact, so that it can still be read.
package class DiskSpaceMap {
  /// The map in this transaction.
  @safe @exclusivity(unchecked) package internal(set) var current = SpaceMapRoot()
  /// The map of the last commit.
  @safe @exclusivity(unchecked) package internal(set) var old = SpaceMapRoot()
  /// The start of the search for a free block; it advances across transactions.
  @safe @exclusivity(unchecked) package var begin: UInt64 = 0

  /// A map to open or format.
  package init() {}

  static let perBitmap = UInt64(Limits.entriesPerBitmap)

  package func indexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    throw .inconsistent("no index")
  }

  package func setIndexEntry(_ bitmap: UInt64, _ entry: IndexEntry, _ tm: TransactionManager)
    throws(PoolError)
  {
    throw .inconsistent("no index")
  }

  package func oldIndexEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    throw .inconsistent("no index")
  }

  private func overflow(_ tm: TransactionManager) -> Btree { Btree(tm, .spaceMapOverflow) }

  // MARK: - Counts

  func bits(_ bitmap: UInt64, _ entry: Int, _ tm: TransactionManager) throws(PoolError)
    -> UInt8
  {
    let bytes = try unsafe tm.cache.read(bitmap, .bitmap)
    return unsafe Bitmap.count(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)), entry)
  }

  /// The two-bit value of a block.
  func bits(of block: UInt64, _ tm: TransactionManager) throws(PoolError) -> UInt8 {
    guard block < current.blockCount else {
      throw .inconsistent("block \(block) is beyond the space map's \(current.blockCount)")
    }
    let entry = try indexEntry(block / Self.perBitmap, tm)
    return try bits(entry.bitmapBlock, Int(block % Self.perBitmap), tm)
  }

  /// The count of a block on disk, in this transaction.
  package func storedCount(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) -> UInt32 {
    let bits = try bits(of: block, tm)
    guard bits == 3 else { return UInt32(bits) }
    let count = try unsafe overflow(tm).lookup(root: current.overflowRoot, key: block) {
      unsafe UInt32(littleEndian: $0.load(as: UInt32.self))
    }
    guard let count else { throw .inconsistent("block \(block) has no overflow count") }
    return count
  }

  /// Whether `block` is free in the last commit, or does not exist there.
  private func wasFree(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) -> Bool {
    guard block < old.blockCount else { return true }
    let entry = try oldIndexEntry(block / Self.perBitmap, tm)
    return try bits(entry.bitmapBlock, Int(block % Self.perBitmap), tm) == 0
  }

  // MARK: - Search

  private func findFree(from start: UInt64, _ tm: TransactionManager) throws(PoolError) -> UInt64? {
    guard start < current.blockCount else { return nil }
    var bitmap = start / Self.perBitmap
    var first = Int(start % Self.perBitmap)
    while bitmap < current.bitmapCount {
      let entry = try indexEntry(bitmap, tm)
      if entry.freeCount > 0 {
        let end = Int(min(Self.perBitmap, current.blockCount - bitmap * Self.perBitmap))
        let from = max(first, Int(entry.noneFreeBefore))
        if from < end, let found = try scan(entry.bitmapBlock, from, end, tm) {
          return bitmap * Self.perBitmap + UInt64(found)
        }
      }
      bitmap += 1
      first = 0
    }
    return nil
  }

  private func scan(_ bitmap: UInt64, _ from: Int, _ end: Int, _ tm: TransactionManager)
    throws(PoolError) -> Int?
  {
    let bytes = try unsafe tm.cache.read(bitmap, .bitmap)
    let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes))
    var entry = from
    while entry < end {
      // Words in which all entries are used are common.
      if entry % 32 == 0 && entry + 32 <= end {
        let word = unsafe span.unsafeLoadUnaligned(
          fromByteOffset: Bitmap.entriesOffset + entry / 4, as: UInt64.self)
        if (word | word >> 1) & 0x5555_5555_5555_5555 == 0x5555_5555_5555_5555 {
          entry += 32
          continue
        }
      }
      if Bitmap.count(span, entry) == 0 { return entry }
      entry += 1
    }
    return nil
  }

  /// Whether a free block must not be found.
  package func isWithheld(_ block: UInt64) -> Bool { false }

  /// A block that is free now and at the last commit, so that writing to it does not harm the
  /// committed state. Next fit: from `begin` to the end, then from 0.
  func findCommonFree(_ tm: TransactionManager) throws(PoolError) -> UInt64? {
    for start in [begin, 0] {
      var candidate = try findFree(from: start, tm)
      while let block = candidate {
        if !isWithheld(block), try wasFree(block, tm) { return block }
        candidate = try findFree(from: block + 1, tm)
      }
    }
    return nil
  }

  // MARK: - Changes

  /// Changes the counts of `start..<end`, bitmap by bitmap.
  func adjust(_ start: UInt64, _ end: UInt64, by direction: Int, _ tm: TransactionManager)
    throws(PoolError)
  {
    guard end <= current.blockCount, start <= end else {
      throw .inconsistent("block \(end) is beyond the space map's \(current.blockCount)")
    }
    var block = start
    while block < end {
      let bitmap = block / Self.perBitmap
      let stop = min(end, (bitmap + 1) * Self.perBitmap)
      var entry = try shadowedEntry(bitmap, tm)
      while block < stop {
        let index = Int(block % Self.perBitmap)
        if direction > 0 {
          try increment(block, index, &entry, tm)
        } else {
          try decrement(block, index, &entry, tm)
        }
        block += 1
      }
      try setIndexEntry(bitmap, entry, tm)
    }
  }

  /// Makes the bitmap of a block part of this transaction, as a change of the block's count does.
  func touch(_ block: UInt64, _ tm: TransactionManager) throws(PoolError) {
    let bitmap = block / Self.perBitmap
    try setIndexEntry(bitmap, try shadowedEntry(bitmap, tm), tm)
  }

  /// The entry of a bitmap that is part of this transaction from now on; the caller must store it.
  private func shadowedEntry(_ bitmap: UInt64, _ tm: TransactionManager) throws(PoolError)
    -> IndexEntry
  {
    var entry = try indexEntry(bitmap, tm)
    entry.bitmapBlock = try tm.shadow(entry.bitmapBlock, .bitmap).block
    return entry
  }

  private func setBits(_ bitmap: UInt64, _ index: Int, _ count: UInt8, _ tm: TransactionManager)
    throws(PoolError)
  {
    unsafe Bitmap.setCount(try tm.cache.read(bitmap, .bitmap), index, count)
    tm.cache.markDirty(bitmap)
  }

  private func increment(
    _ block: UInt64, _ index: Int, _ entry: inout IndexEntry, _ tm: TransactionManager
  ) throws(PoolError) {
    switch try bits(entry.bitmapBlock, index, tm) {
    case 0:
      guard entry.freeCount > 0 else {
        throw .inconsistent("block \(block) is free in a bitmap that is marked as full")
      }
      try setBits(entry.bitmapBlock, index, 1, tm)
      current.allocated &+= 1
      entry.freeCount -= 1
      if Int(entry.noneFreeBefore) == index { entry.noneFreeBefore += 1 }
    case 1: try setBits(entry.bitmapBlock, index, 2, tm)
    case 2:
      try setBits(entry.bitmapBlock, index, 3, tm)
      current.overflowRoot = try unsafe overflow(tm).insert(root: current.overflowRoot, key: block)
      {
        unsafe $0.storeBytes(of: UInt32(3).littleEndian, as: UInt32.self)
      }.root
    default:
      current.overflowRoot = try unsafe overflow(tm).update(root: current.overflowRoot, key: block)
      {
        let count = unsafe UInt32(littleEndian: $0.load(as: UInt32.self))
        unsafe $0.storeBytes(of: (count &+ 1).littleEndian, as: UInt32.self)
      }
    }
  }

  private func decrement(
    _ block: UInt64, _ index: Int, _ entry: inout IndexEntry, _ tm: TransactionManager
  ) throws(PoolError) {
    switch try bits(entry.bitmapBlock, index, tm) {
    case 0: throw .inconsistent("block \(block) is already free")
    case 1:
      guard current.allocated > 0, entry.freeCount < Limits.entriesPerBitmap else {
        throw .inconsistent("block \(block) is in use, but counted as free")
      }
      try setBits(entry.bitmapBlock, index, 0, tm)
      current.allocated -= 1
      entry.freeCount += 1
      entry.noneFreeBefore = min(entry.noneFreeBefore, UInt32(index))
    case 2: try setBits(entry.bitmapBlock, index, 1, tm)
    default:
      var count: UInt32 = 0
      current.overflowRoot = try unsafe overflow(tm).update(root: current.overflowRoot, key: block)
      {
        count = unsafe UInt32(littleEndian: $0.load(as: UInt32.self))
        if count > 3 { unsafe $0.storeBytes(of: (count - 1).littleEndian, as: UInt32.self) }
      }
      if count <= 3 {
        current.overflowRoot = try overflow(tm).remove(root: current.overflowRoot, key: block)
        try setBits(entry.bitmapBlock, index, 2, tm)
      }
    }
  }

  /// Refuses impossible sizes.
  func requirePossible(_ root: SpaceMapRoot, blocksMax: UInt64) throws(PoolError) {
    guard root.blockCount <= blocksMax, root.allocated <= root.blockCount else {
      throw .inconsistent(
        "a space map of \(root.blockCount) blocks, \(root.allocated) of them in use; expected at "
          + "most \(blocksMax)")
    }
  }

  /// Adds empty bitmaps for blocks up to `blockCount`.
  package func extend(to blockCount: UInt64, _ tm: TransactionManager) throws(PoolError) {
    let first = current.bitmapCount
    current.blockCount = blockCount
    for bitmap in first..<current.bitmapCount {
      let block = try tm.newBlock(.bitmap)
      try setIndexEntry(
        bitmap,
        IndexEntry(
          bitmapBlock: block, freeCount: UInt32(Limits.entriesPerBitmap), noneFreeBefore: 0), tm)
      // A large device has tens of thousands of bitmaps.
      try tm.cache.trim()
    }
  }
}
