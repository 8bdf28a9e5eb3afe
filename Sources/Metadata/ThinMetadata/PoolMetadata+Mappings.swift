public import PersistentData
public import ThinFormat

// Mappings of devices, and their data blocks.
extension PoolMetadata {
  /// The result of looking up a virtual block.
  public struct Lookup: Equatable, Sendable {
    /// The data block.
    public var dataBlock: DataBlock
    /// Whether another device may share the data block, so that it must be copied before a write.
    public var isShared: Bool
  }

  private func root(of id: ThinID) throws(PoolError) -> UInt64 {
    guard let root = try deviceTree.lookup64(root: superblock.mappingRoot, key: id.rawValue) else {
      throw .invalid("device \(id) does not exist")
    }
    return root
  }

  /// The mapping of a virtual block; nil if it is not mapped.
  public func lookup(_ id: ThinID, _ virtualBlock: VirtualBlock) throws(PoolError) -> Lookup? {
    try looking { () throws(PoolError) in
      // Reading does not need to know what is shared.
      let snapshotted = isForReading ? .max : try details(of: id).snapshottedTime
      let raw = try mappingTree.lookup64(root: try root(of: id), key: virtualBlock.rawValue)
      return raw.map {
        let mapping = Mapping(rawValue: $0)
        return Lookup(
          dataBlock: DataBlock(mapping.dataBlock), isShared: snapshotted > mapping.time)
      }
    }
  }

  /// The next run of mapped blocks of a device in `range`: consecutive virtual blocks on
  /// consecutive data blocks, all shared or all not. Nil if nothing is mapped.
  public func nextRun(_ id: ThinID, _ range: Range<VirtualBlock>) throws(PoolError) -> (
    virtualBlocks: Range<VirtualBlock>, dataBlock: DataBlock, isShared: Bool
  )? {
    guard
      let key = try mappingTree.firstKey(
        root: try root(of: id), from: range.lowerBound.rawValue),
      key < range.upperBound.rawValue, let found = try lookup(id, VirtualBlock(key))
    else { return nil }
    let first = VirtualBlock(key)
    var length: UInt64 = 1
    while first + length < range.upperBound, let next = try lookup(id, first + length),
      next.dataBlock == found.dataBlock + length, next.isShared == found.isShared
    {
      length += 1
    }
    return (first..<first + length, found.dataBlock, found.isShared)
  }

  /// Maps a virtual block of a device to an allocated data block.
  public func insert(_ id: ThinID, _ virtualBlock: VirtualBlock, dataBlock: DataBlock)
    throws(PoolError)
  {
    try changing { () throws(PoolError) in
      let dataBlock = dataBlock.rawValue
      guard dataBlock < Limits.dataBlocksMax else {
        throw .invalid("data block \(dataBlock): expected one below 2^40")
      }
      guard superblock.time <= Limits.timeMax else {
        throw .inconsistent("a time of \(superblock.time), more than fits a mapping")
      }
      _ = try record(id)
      let value = Mapping(dataBlock: dataBlock, time: superblock.time).rawValue
      let (top, leaf, slot, exists) = try deviceTreePassedThrough.makeWay(
        root: superblock.mappingRoot, key: id.rawValue)
      superblock.mappingRoot = top
      guard exists else { throw .inconsistent("device \(id) has no mapping tree") }
      let root = try tm.node(leaf).value64(slot)
      let (newRoot, isNew) = unsafe try mappingTree.insert(
        root: root, key: virtualBlock.rawValue,
        isEqual: { unsafe UInt64(littleEndian: $0.load(as: UInt64.self)) >> 24 == dataBlock },
        write: { unsafe $0.storeBytes(of: value.littleEndian, as: UInt64.self) })
      try tm.node(leaf).setValue64(slot, newRoot)
      if isNew { records[id]?.details.mappedBlocks &+= 1 }
      records[id]?.isChanged = true
    }
  }

  /// Removes the mappings of a device in `range`, and frees data blocks that no other device
  /// shares.
  public func remove(_ id: ThinID, _ range: Range<VirtualBlock>) throws(PoolError) {
    try changing { () throws(PoolError) in
      _ = try record(id)
      var root = try root(of: id)
      // One more reference keeps the tree while its entry is missing.
      try tm.spaceMap.increment(root, root &+ 1, tm)
      superblock.mappingRoot = try deviceTree.remove(root: superblock.mappingRoot, key: id.rawValue)
      var next = range.lowerBound.rawValue
      let end = range.upperBound.rawValue
      var removed: UInt64 = 0
      while next < end {
        guard let key = try mappingTree.firstKey(root: root, from: next), key < end else { break }
        let (newRoot, count) = try mappingTree.removeRun(root: root, first: key, end: end)
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

  /// The last virtual block that a device maps; nil if it maps none.
  public func highestMapped(_ id: ThinID) throws(PoolError) -> VirtualBlock? {
    try looking { () throws(PoolError) in
      try mappingTree.lastKey(root: try root(of: id)).map { VirtualBlock($0) }
    }
  }

  /// The last virtual block in the readable part of a device's tree; nil if it maps none. If the
  /// way to the last one is damaged, returns the first lost block and the fault.
  /// - Throws: if no part of the tree can be read.
  public func highestReadable(_ id: ThinID) throws(PoolError) -> (
    block: VirtualBlock?, fault: PoolError?
  ) {
    try looking { () throws(PoolError) in
      let (key, fault) = try mappingTree.lastReadableKey(root: try root(of: id))
      return (key.map { VirtualBlock($0) }, fault)
    }
  }

  // MARK: - Data blocks

  /// Allocates a free data block.
  /// - Throws: `.dataFull`; the transaction stays valid.
  public func allocateDataBlock() throws(PoolError) -> DataBlock {
    guard dataMap.freeCount > 0 else { throw .dataFull }
    return try changing { () throws(PoolError) in DataBlock(try dataMap.allocate(tm)) }
  }

  /// Reserves a free data block, in memory only: a commit still counts it as free. Used to fill a
  /// block before it is mapped. `claimDataBlock` or `restoreData` must follow.
  /// - Throws: `.dataFull`; the transaction stays valid.
  public func reserveDataBlock() throws(PoolError) -> DataBlock {
    guard dataMap.freeCount > 0 else { throw .dataFull }
    return try changing { () throws(PoolError) in DataBlock(try dataMap.reserve(tm)) }
  }

  /// Allocates a reserved data block.
  /// - Throws: `.invalid` if it was not.
  public func claimDataBlock(_ block: DataBlock) throws(PoolError) {
    try changing { () throws(PoolError) in
      let block = block.rawValue
      guard dataMap.isWithheld(block) else { throw .invalid("data block \(block) is not reserved") }
      dataMap.restore(block..<(block + 1))
      try dataMap.increment(block, block + 1, tm)
    }
  }

  /// Withholds data blocks from allocation until `restoreData`, in memory only: commits are not
  /// affected. They count as in use. After `abort` they have the counts of the last commit, and are
  /// still not allocated. Memory: about 40 bytes for 64 neighbours.
  /// - Throws: `.inconsistent` if one is already withheld or reserved.
  public func withholdData(_ blocks: Range<DataBlock>) throws(PoolError) {
    try changing { () throws(PoolError) in try dataMap.withhold(blocks.rawValues, tm) }
  }

  /// Restores withheld or reserved blocks.
  public func restoreData(_ blocks: Range<DataBlock>) { dataMap.restore(blocks.rawValues) }

  /// Adds a reference to each of these data blocks, as the kernel does while it passes a discard
  /// down.
  public func incrementData(_ blocks: Range<DataBlock>) throws(PoolError) {
    try changing { () throws(PoolError) in
      try dataMap.increment(blocks.lowerBound.rawValue, blocks.upperBound.rawValue, tm)
    }
  }

  /// Removes a reference from each of these data blocks.
  public func decrementData(_ blocks: Range<DataBlock>) throws(PoolError) {
    try changing { () throws(PoolError) in
      try dataMap.decrement(blocks.lowerBound.rawValue, blocks.upperBound.rawValue, tm)
    }
  }

  /// Whether the space map counts a data block as free, or does not have it. Does not change the
  /// cache, or what is written later.
  public func isFreeData(_ block: DataBlock) throws(PoolError) -> Bool {
    try looking { () throws(PoolError) in try dataMap.isFree(block.rawValue, tm) }
  }

  /// The number of references to a data block.
  public func dataCount(_ block: DataBlock) throws(PoolError) -> UInt32 {
    try looking { () throws(PoolError) in try dataMap.storedCount(block.rawValue, tm) }
  }
}
