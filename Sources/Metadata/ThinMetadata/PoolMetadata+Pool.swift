public import PersistentData
import ThinFormat

// The whole pool: transaction id, metadata snapshot, sizes, flags.
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

  /// Makes a metadata snapshot of the committed state. Commits first; the caller must commit again
  /// to store the snapshot.
  /// - Throws: `.busy` if there is one.
  public func reserveMetadataSnapshot() throws(PoolError) {
    guard superblock.metadataSnapshot == 0 else { throw .busy }
    try changing { () throws(PoolError) in }
    try commit()
    try changing { () throws(PoolError) in
      try tm.spaceMap.increment(0, 1, tm)
      let copy = try tm.shadow(0, .superblock).block
      let bytes = try unsafe cache.read(copy, .superblock)
      for offset in [SuperblockRecord.dataSpaceMapOffset, SuperblockRecord.metadataSpaceMapOffset] {
        unsafe SpaceMapRoot().encode(into: bytes, at: offset)
      }
      cache.markDirty(copy)
      let held = unsafe Superblock(decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
      try tm.spaceMap.increment(held.mappingRoot, held.mappingRoot &+ 1, tm)
      try tm.spaceMap.increment(held.detailsRoot, held.detailsRoot &+ 1, tm)
      superblock.metadataSnapshot = copy
      cache.forget(0)
    }
  }

  /// Releases the metadata snapshot.
  /// - Throws: `.invalid` if there is none.
  public func releaseMetadataSnapshot() throws(PoolError) {
    try changing { () throws(PoolError) in
      let copy = superblock.metadataSnapshot
      guard copy != 0 else { throw .invalid("the pool holds no metadata snapshot") }
      superblock.metadataSnapshot = 0
      let bytes = try unsafe cache.read(copy, .superblock)
      let held = unsafe Superblock(decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
      try deviceTree.destroy(held.mappingRoot)
      try detailsTree.destroy(held.detailsRoot)
      try tm.spaceMap.decrement(copy, tm)
    }
  }

  /// Data blocks of the pool.
  public var dataBlockCount: UInt64 { dataMap.current.blockCount }
  /// Free data blocks.
  public var freeDataBlocks: UInt64 { dataMap.freeCount }
  /// Metadata blocks of the pool.
  public var metadataBlockCount: UInt64 { tm.spaceMap.current.blockCount }
  /// Free metadata blocks.
  public var freeMetadataBlocks: UInt64 { tm.spaceMap.freeCount }

  /// Extends the pool by data blocks that the data device has gained.
  /// - Throws: `.invalid` if there are fewer than before.
  public func resizeData(to blocks: UInt64) throws(PoolError) {
    guard blocks != dataBlockCount else { return }
    guard blocks > dataBlockCount, blocks <= Limits.dataBlocksMax else {
      throw .invalid("\(blocks) data blocks: the pool has \(dataBlockCount), and cannot shrink")
    }
    try changing { () throws(PoolError) in try dataMap.extend(to: blocks, tm) }
  }

  /// Extends the pool by metadata blocks that the metadata device has gained.
  public func resizeMetadata() throws(PoolError) {
    tm.updateSize()
    let blocks = cache.blockCount
    guard blocks != metadataBlockCount else { return }
    guard blocks > metadataBlockCount else {
      throw .invalid(
        "the metadata device has \(blocks) blocks, the pool has \(metadataBlockCount): it cannot shrink"
      )
    }
    try changing { () throws(PoolError) in try tm.spaceMap.grow(to: blocks, tm) }
  }

  /// Sets the needs-check flag.
  public func setNeedsCheck() throws(PoolError) {
    try changing { () throws(PoolError) in superblock.needsCheck = true }
  }
}
