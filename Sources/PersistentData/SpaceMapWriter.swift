import BlockIO
public import ThinFormat

/// Writes space maps from counts in memory: bitmaps, the tree of counts of three and more, and the
/// index over the bitmaps, as the kernel keeps them.
///
/// Order matters to the caller: the metadata space map counts its own blocks, so it is written
/// when everything else has its blocks and its counts.
public struct SpaceMapWriter {
  private let writer: SequentialBlockWriter
  private let metadataCounts: ReferenceCounts
  /// Blocks that the metadata space map is for.
  private let metadataBlockCount: UInt64

  /// Writes into blocks of `writer`'s choice.
  /// - Parameter metadataCounts: counts of all metadata blocks; every block written here is
  ///   counted in it, old space maps must not be.
  /// - Parameter metadataBlockCount: blocks of the metadata, where the counts have room for more.
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
      try index.append(key: UInt64(region)) { buffer, offset in
        entry.encode(into: buffer, at: offset)
      }
    }
    root.bitmapRoot = try index.finish()
    return root
  }

  /// Writes the metadata space map: an index block over at most 255 bitmaps, which include the
  /// counts of these very blocks.
  /// - Precondition: the counts cover at most `Limits.metadataBlocksMax` blocks.
  public func writeMetadataMap() throws(BlockWriteError) -> SpaceMapRoot {
    var root = SpaceMapRoot()
    root.blockCount = metadataBlockCount
    precondition(root.bitmapCount <= UInt64(Limits.metadataBitmapsMax))
    // Blocks of the map itself have a count of one: they never enter this tree.
    root.overflowRoot = try writeOverflow(metadataCounts)
    // All blocks are taken before the first bitmap is written, so that it says so.
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
    try writer.write(root.bitmapRoot, kind: .index) { block in
      for (i, entry) in entries.enumerated() {
        entry.encode(into: block, at: IndexBlock.offset(ofEntry: i))
      }
    }
    return root
  }

  /// How many blocks `writeMetadataMap` would take now.
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
      try tree.append(key: block) { buffer, offset in
        buffer.storeBytes(of: count.littleEndian, toByteOffset: offset, as: UInt32.self)
      }
    }
    return try tree.finish()
  }

  private func writeBitmap(
    _ region: Int, of counts: ReferenceCounts, at number: UInt64, allocated: inout UInt64
  ) throws(BlockWriteError) -> IndexEntry {
    try writer.write(number, kind: .bitmap) { block in counts.encode(region: region, into: block) }
    let summary = counts.summary(ofRegion: region)
    allocated += UInt64(summary.used)
    return IndexEntry(
      bitmapBlock: number, freeCount: UInt32(Limits.entriesPerBitmap - summary.used),
      noneFreeBefore: UInt32(summary.firstFree))
  }
}

/// A device that keeps nothing: what is written to it is only counted.
private final class Nowhere: BlockDevice {
  let path = "nowhere"
  let byteCount = UInt64.max
  let descriptor: Int32? = nil
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) {
    buffer.initializeMemory(as: UInt8.self, repeating: 0)
  }
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) {}
  func flush() {}
}
