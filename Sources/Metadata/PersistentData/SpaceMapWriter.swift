import BlockIO
public import ThinFormat

/// Writes space maps from counts in memory, as the kernel stores them: bitmaps, the tree of counts
/// of three and more, and the index over the bitmaps.
///
/// The metadata space map counts its own blocks, so it must be written last, when everything else
/// has its blocks and its counts.
public struct SpaceMapWriter {
  private let writer: SequentialBlockWriter
  private let metadataCounts: ReferenceCounts
  /// The number of blocks that the metadata space map covers.
  private let metadataBlockCount: UInt64

  /// Writes into blocks that `writer` allocates.
  /// - Parameter metadataCounts: counts of all metadata blocks. Every block written here is counted
  ///   in it; the old space maps must not be counted.
  /// - Parameter metadataBlockCount: the number of metadata blocks, if it is less than that of the
  ///   counts.
  public init(
    writer: SequentialBlockWriter, metadataCounts: ReferenceCounts,
    metadataBlockCount: UInt64? = nil
  ) {
    self.writer = writer
    self.metadataBlockCount = metadataBlockCount ?? metadataCounts.blockCount
    self.metadataCounts = metadataCounts
  }

  /// Writes the data space map: an index tree over a bitmap for every 16,320 blocks of `counts`.
  public func writeDataMap(_ counts: ReferenceCounts) throws(BlockWriteError) -> SpaceMapRoot {
    var root = SpaceMapRoot()
    root.blockCount = counts.blockCount
    root.overflowRoot = try writeOverflow(counts)
    let index = BtreeBuilder(.spaceMapIndex, writer: writer, counts: metadataCounts)
    for region in 0..<counts.regionCount {
      let number = try writer.allocate()
      metadataCounts.increment(number)
      let entry = try writeBitmap(region, of: counts, at: number, allocated: &root.allocated)
      try unsafe index.append(key: UInt64(region)) { buffer, offset in
        unsafe entry.encode(into: buffer, at: offset)
      }
    }
    root.bitmapRoot = try index.finish()
    return root
  }

  /// Writes the metadata space map: an index block over at most 255 bitmaps, which include the
  /// counts of the map's own blocks.
  /// - Precondition: the counts cover at most `Limits.metadataBlocksMax` blocks.
  public func writeMetadataMap() throws(BlockWriteError) -> SpaceMapRoot {
    var root = SpaceMapRoot()
    root.blockCount = metadataBlockCount
    precondition(root.bitmapCount <= UInt64(Limits.metadataBitmapsMax))
    // Blocks of the map itself have a count of one, so they are not in this tree.
    root.overflowRoot = try writeOverflow(metadataCounts)
    // All blocks are allocated before the first bitmap is written, so that it counts them.
    root.bitmapRoot = try writer.allocate()
    metadataCounts.increment(root.bitmapRoot)
    var bitmaps: [UInt64] = []
    for _ in 0..<root.bitmapCount {
      let number = try writer.allocate()
      metadataCounts.increment(number)
      bitmaps.append(number)
    }
    var entries: [IndexEntry] = []
    for (region, number) in bitmaps.enumerated() {
      entries.append(
        try writeBitmap(region, of: metadataCounts, at: number, allocated: &root.allocated))
    }
    try unsafe writer.write(root.bitmapRoot, kind: .index) { block in
      for (i, entry) in entries.enumerated() {
        unsafe entry.encode(into: block, at: IndexBlock.offset(ofEntry: i))
      }
    }
    return root
  }

  /// The number of blocks that `writeMetadataMap` would need now.
  public func metadataMapBlocks() throws(BlockWriteError) -> UInt64 {
    let nowhere = SequentialBlockWriter(Nowhere(), blockCount: metadataBlockCount)
    let counts = ReferenceCounts(blockCount: metadataBlockCount)
    let map = SpaceMapWriter(writer: nowhere, metadataCounts: counts)
    _ = try map.writeOverflow(metadataCounts)
    return nowhere.allocatedCount + 1 + UInt64(counts.regionCount)
  }

  private func writeOverflow(_ counts: ReferenceCounts) throws(BlockWriteError) -> UInt64 {
    let tree = BtreeBuilder(.spaceMapOverflow, writer: writer, counts: metadataCounts)
    try counts.forEachOverflow { (block: UInt64, count: UInt32) throws(BlockWriteError) in
      try unsafe tree.append(key: block) { buffer, offset in
        unsafe buffer.storeBytes(of: count.littleEndian, toByteOffset: offset, as: UInt32.self)
      }
    }
    return try tree.finish()
  }

  private func writeBitmap(
    _ region: Int, of counts: ReferenceCounts, at number: UInt64, allocated: inout UInt64
  ) throws(BlockWriteError) -> IndexEntry {
    try unsafe writer.write(number, kind: .bitmap) { block in
      unsafe counts.encode(region: region, into: block)
    }
    let summary = counts.summary(ofRegion: region)
    allocated += UInt64(summary.used)
    return IndexEntry(
      bitmapBlock: number, freeCount: UInt32(Limits.entriesPerBitmap - summary.used),
      noneFreeBefore: UInt32(summary.firstFree))
  }
}

/// A device that only counts what is written to it.
private final class Nowhere: BlockDevice {
  let path = "nowhere"
  let byteCount = UInt64.max
  let descriptor: Int32? = nil
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) {
    unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
  }
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) {}
  func flush() {}
}
