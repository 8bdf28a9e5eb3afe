package import ThinFormat

/// Copy-on-write of metadata blocks within one transaction (kernel: `dm_transaction_manager`).
///
/// Invariants: `shadows` holds the blocks made or copied in this transaction, which alone are
/// changed in place; every other block is as the last commit left it.
package final class TransactionManager {
  /// Blocks in memory.
  package let cache: BlockCache
  /// Reference counts of metadata blocks.
  package let spaceMap: MetadataSpaceMap
  private var shadows: Bitset
  /// The members of `shadows`, to empty it without going through all blocks.
  private var shadowList: [UInt64] = []

  package init(_ cache: BlockCache, _ spaceMap: MetadataSpaceMap) {
    self.cache = cache
    self.spaceMap = spaceMap
    shadows = Bitset(limit: cache.blockCount)
  }

  /// A new block of zeros.
  package func newBlock(_ kind: BlockKind) throws(PoolError) -> UInt64 {
    let block = try spaceMap.allocate(self)
    _ = cache.zeroed(block, kind)
    note(block)
    return block
  }

  /// A block with the contents of `block` that may be changed.
  /// - Returns: the block to use instead, and whether what it points to has one referrer more,
  ///   which is the caller's to count.
  package func shadow(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> (block: UInt64, gained: Bool)
  {
    let shared = try spaceMap.mayBeShared(block, self)
    if !shared && shadows.contains(block) {
      _ = try cache.read(block, kind)
      cache.markDirty(block)
      return (block, false)
    }
    let copy = try spaceMap.allocate(self)
    try spaceMap.decrement(block, self)
    let source = try cache.read(block, kind)
    cache.zeroed(copy, kind).copyMemory(from: UnsafeRawBufferPointer(source))
    note(copy)
    return (copy, shared)
  }

  /// A node's contents, to look at or, after `shadow`, to change.
  package func node(_ block: UInt64) throws(PoolError) -> NodeBuffer {
    NodeBuffer(try cache.read(block, .btreeNode))
  }

  private func note(_ block: UInt64) {
    if shadows.insert(block) { shadowList.append(block) }
  }

  /// Starts the next transaction.
  package func forgetShadows() {
    for block in shadowList { shadows.remove(block) }
    shadowList.removeAll(keepingCapacity: true)
  }

  /// Takes in the device's new size.
  package func updateSize() {
    cache.updateSize()
    var larger = Bitset(limit: cache.blockCount)
    for block in shadowList { larger.insert(block) }
    shadows = larger
  }
}
