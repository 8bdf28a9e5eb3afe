/// `struct disk_sm_root`: the root record of a space map. It has 128 bytes in the superblock, of
/// which the kernel leaves 96 undefined.
public struct SpaceMapRoot: Equatable, Sendable, FixedSizeRecord {
  /// The bytes that have a meaning.
  public static var byteCount: Int { 32 }
  /// The bytes reserved in the superblock.
  public static var areaBytes: Int { 128 }

  @inlinable static var blockCount: Field<Self, UInt64> { .init(at: 0) }
  @inlinable static var allocated: Field<Self, UInt64> { .init(at: 8) }
  @inlinable static var bitmapRoot: Field<Self, UInt64> { .init(at: 16) }
  @inlinable static var overflowRoot: Field<Self, UInt64> { .init(at: 24) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("blockCount", blockCount), FieldPlace("allocated", allocated),
      FieldPlace("bitmapRoot", bitmapRoot), FieldPlace("overflowRoot", overflowRoot),
    ]
  }

  /// The number of blocks (kernel: `nr_blocks`).
  public var blockCount: UInt64 = 0
  /// The number of blocks with a count above zero (kernel: `nr_allocated`).
  public var allocated: UInt64 = 0
  /// Metadata space map: the index block. Data space map: root of the index tree.
  public var bitmapRoot: UInt64 = 0
  /// Root of the tree of counts of three and more (kernel: `ref_count_root`).
  public var overflowRoot: UInt64 = 0

  /// A root of zeros.
  public init() {}

  /// Decodes the record that starts `offset` bytes into `block`.
  public init(decoding block: RawSpan, at offset: Int) {
    let view = RecordView<SpaceMapRoot>(block, at: offset)
    blockCount = view[Self.blockCount]
    allocated = view[Self.allocated]
    bitmapRoot = view[Self.bitmapRoot]
    overflowRoot = view[Self.overflowRoot]
  }

  /// Writes the record at `offset`, and zeros into the undefined rest of its area.
  public func encode(into block: UnsafeMutableRawBufferPointer, at offset: Int) {
    for i in offset..<(offset + Self.areaBytes) { unsafe block[i] = 0 }
    unsafe block.set(Self.blockCount, to: blockCount, base: offset)
    unsafe block.set(Self.allocated, to: allocated, base: offset)
    unsafe block.set(Self.bitmapRoot, to: bitmapRoot, base: offset)
    unsafe block.set(Self.overflowRoot, to: overflowRoot, base: offset)
  }

  /// The number of bitmaps of a map of this size.
  public var bitmapCount: UInt64 {
    let per = UInt64(Limits.entriesPerBitmap)
    return blockCount / per + (blockCount % per == 0 ? 0 : 1)
  }
}

/// `struct disk_index_entry`: a bitmap's block with a summary of its content.
public struct IndexEntry: Equatable, Sendable, FixedSizeRecord {
  /// Bytes on disk.
  public static var byteCount: Int { 16 }

  @inlinable static var bitmapBlock: Field<Self, UInt64> { .init(at: 0) }
  @inlinable static var freeCount: Field<Self, UInt32> { .init(at: 8) }
  @inlinable static var noneFreeBefore: Field<Self, UInt32> { .init(at: 12) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("bitmapBlock", bitmapBlock), FieldPlace("freeCount", freeCount),
      FieldPlace("noneFreeBefore", noneFreeBefore),
    ]
  }

  /// Metadata block of the bitmap.
  public var bitmapBlock: UInt64
  /// The number of zero entries (kernel: `nr_free`); entries past the device's end count as free.
  public var freeCount: UInt32
  /// A hint: no entry below this index is free.
  public var noneFreeBefore: UInt32

  /// An entry with these values.
  public init(bitmapBlock: UInt64, freeCount: UInt32, noneFreeBefore: UInt32) {
    self.bitmapBlock = bitmapBlock
    self.freeCount = freeCount
    self.noneFreeBefore = noneFreeBefore
  }

  /// Decodes the entry that starts `offset` bytes into `bytes`.
  public init(decoding bytes: RawSpan, at offset: Int = 0) {
    let view = RecordView<IndexEntry>(bytes, at: offset)
    bitmapBlock = view[Self.bitmapBlock]
    freeCount = view[Self.freeCount]
    noneFreeBefore = view[Self.noneFreeBefore]
  }

  /// Writes the entry at `offset`.
  public func encode(into block: UnsafeMutableRawBufferPointer, at offset: Int) {
    unsafe block.set(Self.bitmapBlock, to: bitmapBlock, base: offset)
    unsafe block.set(Self.freeCount, to: freeCount, base: offset)
    unsafe block.set(Self.noneFreeBefore, to: noneFreeBefore, base: offset)
  }
}

/// The metadata space map's index block.
public enum IndexBlock {
  /// The offset of index entry `i`, 0 to 254.
  public static func offset(ofEntry i: Int) -> Int { 16 + i * IndexEntry.byteCount }
}

/// A bitmap block: 16,320 counts of two bits, where 3 means three or more, stored in the overflow
/// tree.
public enum Bitmap {
  /// The offset of the entries.
  public static var entriesOffset: Int { 16 }
  /// The size of the entries in bytes.
  public static var entriesBytes: Int { 4080 }

  /// In each pair the lower-numbered bit is the more significant one: as a number, a pair is binary
  /// 10 for count 1 and 01 for count 2. Swapping converts in both directions.
  @inlinable public static func swapped(_ pair: UInt8) -> UInt8 { (pair & 1) << 1 | pair >> 1 }

  /// The count, 0 to 3, of entry `index`.
  @inlinable public static func count(_ block: RawSpan, _ index: Int) -> UInt8 {
    let byte = unsafe block.unsafeLoad(fromByteOffset: entriesOffset + index / 4, as: UInt8.self)
    return swapped(byte >> UInt8(index % 4 * 2) & 3)
  }

  /// Sets entry `index` to `count`, 0 to 3.
  @inlinable public static func setCount(
    _ block: UnsafeMutableRawBufferPointer, _ index: Int, _ count: UInt8
  ) {
    let shift = UInt8(index % 4 * 2)
    let byte = unsafe block[entriesOffset + index / 4]
    unsafe block[entriesOffset + index / 4] = byte & ~(3 << shift) | swapped(count) << shift
  }
}
