public import PersistentData
import ThinFormat

// The pool as a whole: transaction id, metadata snapshot, sizes, flags.
extension PoolMetadata {
  /// Sets the transaction id, which must be `current`.
  public func setTransactionID(_ current: UInt64, _ new: UInt64) throws(PoolError) {
    try changing { () throws(PoolError) in
      guard superblock.transactionID == current else {
        throw .invalid(
          "transaction id is \(superblock.transactionID), not \(current) as expected")
      }
      superblock.transactionID = new
    }
  }

  /// Makes a metadata snapshot: the state as committed, held for readers. Commits first; the
  /// caller commits again to have it on disk.
  /// - Throws: `.busy` when there is one.
  public func reserveMetadataSnapshot() throws(PoolError) {
    guard superblock.metadataSnapshot == 0 else { throw .busy }
    try changing { () throws(PoolError) in }
    try commit()
    try changing { () throws(PoolError) in
      try tm.spaceMap.increment(0, 1, tm)
      let copy = try tm.shadow(0, .superblock).block
      let bytes = try cache.read(copy, .superblock)
      for offset in [SuperblockRecord.dataSpaceMapOffset, SuperblockRecord.metadataSpaceMapOffset] {
        SpaceMapRoot().encode(into: bytes, at: offset)
      }
      cache.markDirty(copy)
      let held = Superblock(decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
      try tm.spaceMap.increment(held.mappingRoot, held.mappingRoot &+ 1, tm)
      try tm.spaceMap.increment(held.detailsRoot, held.detailsRoot &+ 1, tm)
      superblock.metadataSnapshot = copy
      cache.forget(0)
    }
  }

  /// Gives up the metadata snapshot.
  /// - Throws: `.invalid` when there is none.
  public func releaseMetadataSnapshot() throws(PoolError) {
    try changing { () throws(PoolError) in
      let copy = superblock.metadataSnapshot
      guard copy != 0 else { throw .invalid("the pool holds no metadata snapshot") }
      superblock.metadataSnapshot = 0
      let bytes = try cache.read(copy, .superblock)
      let held = Superblock(decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
      try deviceTree.destroy(held.mappingRoot)
      try detailsTree.destroy(held.detailsRoot)
      try tm.spaceMap.decrement(copy, tm)
    }
  }

  /// Data blocks of the pool.
  public var dataBlockCount: UInt64 { dataMap.current.blockCount }
  /// Data blocks that are free.
  public var freeDataBlocks: UInt64 { dataMap.freeCount }
  /// Metadata blocks of the pool.
  public var metadataBlockCount: UInt64 { tm.spaceMap.current.blockCount }
  /// Metadata blocks that are free.
  public var freeMetadataBlocks: UInt64 { tm.spaceMap.freeCount }

  /// Takes in data blocks that the data device has gained.
  /// - Throws: `.invalid` for fewer than there are.
  public func resizeData(to blocks: UInt64) throws(PoolError) {
    guard blocks != dataBlockCount else { return }
    guard blocks > dataBlockCount, blocks <= Limits.dataBlocksMax else {
      throw .invalid("\(blocks) data blocks: the pool has \(dataBlockCount), and cannot shrink")
    }
    try changing { () throws(PoolError) in try dataMap.extend(to: blocks, tm) }
  }

  /// Takes in metadata blocks that the metadata device has gained.
  public func resizeMetadata() throws(PoolError) {
    tm.updateSize()
    let blocks = cache.blockCount
    guard blocks != metadataBlockCount else { return }
    guard blocks > metadataBlockCount else {
      throw .invalid(
        "the metadata device has \(blocks) blocks, the pool \(metadataBlockCount): it cannot shrink"
      )
    }
    try changing { () throws(PoolError) in try tm.spaceMap.grow(to: blocks, tm) }
  }

  /// Has the next activation ask for a check.
  public func setNeedsCheck() throws(PoolError) {
    try changing { () throws(PoolError) in superblock.needsCheck = true }
  }
}
