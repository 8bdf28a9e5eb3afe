package import ThinFormat

/// Copies metadata blocks on write within one transaction (kernel: `dm_transaction_manager`).
///
/// Invariants: `shadows` holds the blocks made or copied in this transaction; only these are
/// changed in place. Every other block is as in the last commit.
package final class TransactionManager {
  /// The cache of blocks.
  package let cache: BlockCache
  /// Reference counts of metadata blocks.
  package let spaceMap: MetadataSpaceMap
  @safe @exclusivity(unchecked) private var shadows: Bitset
  /// The members of `shadows`, for emptying it without visiting all blocks.
  @safe @exclusivity(unchecked) private var shadowList: [UInt64] = []

  package init(_ cache: BlockCache, _ spaceMap: MetadataSpaceMap) {
    self.cache = cache
    self.spaceMap = spaceMap
    shadows = Bitset(limit: cache.blockCount)
  }

  /// A new block of zeros.
  package func newBlock(_ kind: BlockKind) throws(PoolError) -> UInt64 {
    let block = try spaceMap.allocate(self)
    _ = unsafe cache.zeroed(block, kind)
    note(block)
    return block
  }

  /// A copy of `block` that may be changed, or `block` itself if it already is one.
  /// - Returns: the block to use instead, and whether the blocks it refers to have one more
  ///   reference, which the caller must count.
  package func shadow(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> (block: UInt64, gained: Bool)
  {
    let shared = try spaceMap.mayBeShared(block, self)
    if !shared && shadows.contains(block) {
      _ = try unsafe cache.read(block, kind)
      cache.markDirty(block)
      return (block, false)
    }
    let copy = try spaceMap.allocate(self)
    try spaceMap.decrement(block, self)
    let source = try unsafe cache.read(block, kind)
    unsafe cache.zeroed(copy, kind).copyMemory(from: UnsafeRawBufferPointer(source))
    note(copy)
    return (copy, shared)
  }

  /// The content of a node, to read or, after `shadow`, to change.
  package func node(_ block: UInt64) throws(PoolError) -> NodeBuffer {
    unsafe NodeBuffer(try cache.read(block, .btreeNode))
  }

  private func note(_ block: UInt64) {
    if shadows.insert(block) { shadowList.append(block) }
  }

  /// Starts the next transaction.
  package func forgetShadows() {
    for block in shadowList { shadows.remove(block) }
    shadowList.removeAll(keepingCapacity: true)
  }

  /// Updates the device's size.
  package func updateSize() {
    cache.updateSize()
    var larger = Bitset(limit: cache.blockCount)
    for block in shadowList { larger.insert(block) }
    shadows = larger
  }
}
