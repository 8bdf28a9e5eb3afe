public import PersistentData
import ThinFormat

// Mappings of devices, and the data blocks that they lead to.
extension PoolMetadata {
  /// Where a virtual block is.
  public struct Lookup: Equatable, Sendable {
    /// The data block.
    public var dataBlock: UInt64
    /// Whether another device may have the data block too: it has to be copied before a write.
    public var isShared: Bool
  }

  private func root(of id: UInt64) throws(PoolError) -> UInt64 {
    guard let root = try deviceTree.lookup64(root: superblock.mappingRoot, key: id) else {
      throw .invalid("there is no device \(id)")
    }
    return root
  }

  /// Where a device has a virtual block; nil where it is not mapped.
  public func lookup(_ id: UInt64, _ virtualBlock: UInt64) throws(PoolError) -> Lookup? {
    try looking { () throws(PoolError) in
      // Who only reads need not know what is shared.
      let snapshotted = isForReading ? .max : try details(of: id).snapshottedTime
      let raw = try mappingTree.lookup64(root: try root(of: id), key: virtualBlock)
      return raw.map {
        let mapping = Mapping(rawValue: $0)
        return Lookup(dataBlock: mapping.dataBlock, isShared: snapshotted > mapping.time)
      }
    }
  }

  /// The next run of mapped blocks of a device in `range`: neighbouring virtual blocks on
  /// neighbouring data blocks, alike in being shared. Nil where nothing is mapped.
  public func nextRun(_ id: UInt64, _ range: Range<UInt64>) throws(PoolError) -> (
    virtualBlocks: Range<UInt64>, dataBlock: UInt64, isShared: Bool
  )? {
    guard
      let first = try mappingTree.firstKey(root: try root(of: id), from: range.lowerBound),
      first < range.upperBound, let found = try lookup(id, first)
    else { return nil }
    var end = first + 1
    while end < range.upperBound, let next = try lookup(id, end),
      next.dataBlock == found.dataBlock + (end - first), next.isShared == found.isShared
    {
      end += 1
    }
    return (first..<end, found.dataBlock, found.isShared)
  }

  /// Maps a virtual block of a device to a data block that was allocated for it.
  public func insert(_ id: UInt64, _ virtualBlock: UInt64, dataBlock: UInt64) throws(PoolError) {
    try changing { () throws(PoolError) in
      guard dataBlock < Limits.dataBlocksMax else {
        throw .invalid("data block \(dataBlock): expected one below 2^40")
      }
      guard superblock.time <= Limits.timeMax else {
        throw .inconsistent("a time of \(superblock.time), more than fits a mapping")
      }
      _ = try record(id)
      let value = Mapping(dataBlock: dataBlock, time: superblock.time).rawValue
      let (top, leaf, slot, exists) = try deviceTreePassedThrough.makeWay(
        root: superblock.mappingRoot, key: id)
      superblock.mappingRoot = top
      guard exists else { throw .inconsistent("device \(id) has no mapping tree") }
      let root = try tm.node(leaf).value64(slot)
      let (newRoot, isNew) = try mappingTree.insert(
        root: root, key: virtualBlock,
        isEqual: { UInt64(littleEndian: $0.load(as: UInt64.self)) >> 24 == dataBlock },
        write: { $0.storeBytes(of: value.littleEndian, as: UInt64.self) })
      try tm.node(leaf).setValue64(slot, newRoot)
      if isNew { records[id]?.details.mappedBlocks &+= 1 }
      records[id]?.isChanged = true
    }
  }

  /// Removes what a device maps of `range`, giving back data blocks that nobody else has.
  public func remove(_ id: UInt64, _ range: Range<UInt64>) throws(PoolError) {
    try changing { () throws(PoolError) in
      _ = try record(id)
      var root = try root(of: id)
      // One more reference keeps the tree while its entry is away.
      try tm.spaceMap.increment(root, root &+ 1, tm)
      superblock.mappingRoot = try deviceTree.remove(root: superblock.mappingRoot, key: id)
      var next = range.lowerBound
      var removed: UInt64 = 0
      while next < range.upperBound {
        guard let key = try mappingTree.firstKey(root: root, from: next), key < range.upperBound
        else { break }
        let (newRoot, count) = try mappingTree.removeRun(
          root: root, first: key, end: range.upperBound)
        guard count > 0 else { throw .inconsistent("device \(id): block \(key) is out of place") }
        root = newRoot
        removed += count
        next = key + count
      }
      records[id]?.details.mappedBlocks &-= removed
      records[id]?.isChanged = true
      try insertDevice(id, root: root)
    }
  }

  /// The last virtual block that a device maps, nil where it maps none.
  public func highestMapped(_ id: UInt64) throws(PoolError) -> UInt64? {
    try looking { () throws(PoolError) in
      try mappingTree.lastKey(root: try root(of: id))
    }
  }

  /// The last virtual block that a device maps as far as its tree can be read, nil where it maps none.
  /// Where the way there is damaged, the first block that is lost, and what is wrong.
  /// - Throws: where nothing of the tree can be read.
  public func highestReadable(_ id: UInt64) throws(PoolError) -> (block: UInt64?, fault: PoolError?)
  {
    try looking { () throws(PoolError) in
      let (key, fault) = try mappingTree.lastReadableKey(root: try root(of: id))
      return (key, fault)
    }
  }

  // MARK: - Data blocks

  /// Takes a free data block.
  /// - Throws: `.dataFull`; the transaction stands.
  public func allocateDataBlock() throws(PoolError) -> UInt64 {
    guard dataMap.freeCount > 0 else { throw .dataFull }
    return try changing { () throws(PoolError) in try dataMap.allocate(tm) }
  }

  /// Finds a free data block that nobody gets any more, in memory alone: a commit has it as free. It
  /// is for whoever fills a block before something maps it. `claimDataBlock` or `restoreData` follows.
  /// - Throws: `.dataFull`; the transaction stands.
  public func reserveDataBlock() throws(PoolError) -> UInt64 {
    guard dataMap.freeCount > 0 else { throw .dataFull }
    return try changing { () throws(PoolError) in try dataMap.reserve(tm) }
  }

  /// Allocates a data block that was reserved.
  /// - Throws: `.invalid` if it was not.
  public func claimDataBlock(_ block: UInt64) throws(PoolError) {
    try changing { () throws(PoolError) in
      guard dataMap.isWithheld(block) else { throw .invalid("data block \(block) is not reserved") }
      dataMap.restore(block..<(block + 1))
      try dataMap.increment(block, block + 1, tm)
    }
  }

  /// Keeps data blocks from being allocated until `restoreData`, in memory alone: of commits nothing
  /// is different. They count as in use. After `abort` they count as the last commit has it, and are
  /// still not allocated. Memory: about 40 bytes for 64 neighbours.
  /// - Throws: `.inconsistent` where one is withheld or reserved already.
  public func withholdData(_ blocks: Range<UInt64>) throws(PoolError) {
    try changing { () throws(PoolError) in try dataMap.withhold(blocks, tm) }
  }

  /// Gives back what was withheld or reserved.
  public func restoreData(_ blocks: Range<UInt64>) { dataMap.restore(blocks) }

  /// Adds a reference to each of these data blocks, as the kernel does while a discard is passed down.
  public func incrementData(_ blocks: Range<UInt64>) throws(PoolError) {
    try changing { () throws(PoolError) in
      try dataMap.increment(blocks.lowerBound, blocks.upperBound, tm)
    }
  }

  /// Takes a reference from each of these data blocks.
  public func decrementData(_ blocks: Range<UInt64>) throws(PoolError) {
    try changing { () throws(PoolError) in
      try dataMap.decrement(blocks.lowerBound, blocks.upperBound, tm)
    }
  }

  /// Whether the space map counts a data block as free, or does not have it. Nothing of what is kept in
  /// memory or written later is different for the question.
  public func isFreeData(_ block: UInt64) throws(PoolError) -> Bool {
    try looking { () throws(PoolError) in try dataMap.isFree(block, tm) }
  }

  /// How many references a data block has.
  public func dataCount(_ block: UInt64) throws(PoolError) -> UInt32 {
    try looking { () throws(PoolError) in try dataMap.storedCount(block, tm) }
  }
}
