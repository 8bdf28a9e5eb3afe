public import PersistentData
public import ThinFormat
public import ThinMetadata

// The metadata operations of a thin-pool target for requests of its devices.
extension PoolMetadata {
  /// Maps a virtual block for a write: to a new data block, unless the device has one that is not
  /// shared.
  /// - Returns: the new data block; nil if none was needed.
  @discardableResult
  public func provision(_ id: ThinID, _ virtualBlock: VirtualBlock) throws(PoolError)
    -> DataBlock?
  {
    if let found = try lookup(id, virtualBlock), !found.isShared { return nil }
    let data = try allocateDataBlock()
    try insert(id, virtualBlock, dataBlock: data)
    return data
  }

  /// Discards virtual blocks and their data blocks, which keep a reference until they are discarded
  /// on the data device.
  public func discardPassingDown(_ id: ThinID, _ range: Range<VirtualBlock>)
    throws(PoolError)
  {
    var passedDown: [Range<DataBlock>] = []
    var next = range.lowerBound
    while let run = try nextRun(id, next..<range.upperBound) {
      try remove(id, run.virtualBlocks)
      let blocks = run.dataBlock..<(run.dataBlock + run.virtualBlocks.length)
      try incrementData(blocks)
      passedDown.append(blocks)
      next = run.virtualBlocks.upperBound
      if next >= range.upperBound { break }
    }
    for blocks in passedDown { try decrementData(blocks) }
  }
}
