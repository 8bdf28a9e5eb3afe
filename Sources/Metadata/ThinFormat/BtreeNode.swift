/// The header of a B-tree node; all trees share it.
///
/// Keys start at byte 32; values follow the room for `entriesMax` keys.
public enum BtreeNodeRecord: FixedSizeRecord {
  /// Bytes of the header.
  public static var byteCount: Int { 32 }
  /// The flag word of an internal node, whose values are its children.
  public static var internalFlag: UInt32 { 1 }
  /// The flag word of a leaf.
  public static var leafFlag: UInt32 { 2 }
  /// The offset of the keys.
  public static var keysOffset: Int { 32 }

  @inlinable static var flags: Field<Self, UInt32> { .init(at: 4) }
  @inlinable static var entryCount: Field<Self, UInt32> { .init(at: 16) }
  @inlinable static var entriesMax: Field<Self, UInt32> { .init(at: 20) }
  @inlinable static var valueSize: Field<Self, UInt32> { .init(at: 24) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("flags", flags), FieldPlace("entryCount", entryCount),
      FieldPlace("entriesMax", entriesMax), FieldPlace("valueSize", valueSize),
    ]
  }

  /// The number of entries that fit into a node with this value size, always a multiple of three.
  public static func entriesMax(valueSize: Int) -> Int {
    3 * ((Limits.blockBytes - byteCount) / (8 + valueSize) / 3)
  }

  /// Starts an empty node in a zeroed block.
  public static func begin(
    _ block: UnsafeMutableRawBufferPointer, isLeaf: Bool, valueSize: Int
  ) {
    unsafe block.set(flags, to: isLeaf ? leafFlag : internalFlag)
    unsafe block.set(entriesMax, to: UInt32(entriesMax(valueSize: valueSize)))
    unsafe block.set(valueSize_, to: UInt32(valueSize))
  }

  @inlinable static var valueSize_: Field<Self, UInt32> { valueSize }

  /// Sets the number of entries.
  public static func setEntryCount(_ block: UnsafeMutableRawBufferPointer, _ count: Int) {
    unsafe block.set(entryCount, to: UInt32(count))
  }
}

/// The kinds of tree, by the content of their leaves.
public enum TreeKind: UInt8, Sendable, CustomStringConvertible {
  /// Maps a device id to the root of that device's mapping tree.
  case devices
  /// Maps a virtual block to a data block and a time.
  case mappings
  /// Maps a device id to device details.
  case details
  /// Maps a bitmap number to an index entry of the data space map.
  case spaceMapIndex
  /// Maps a block to its count of three or more.
  case spaceMapOverflow

  /// The size of a leaf's values in bytes.
  @inlinable public var valueSize: Int {
    switch self {
    case .devices, .mappings: 8
    case .details: DeviceDetails.byteCount
    case .spaceMapIndex: IndexEntry.byteCount
    case .spaceMapOverflow: 4
    }
  }

  /// The name in messages.
  public var description: String {
    switch self {
    case .devices: "device tree"
    case .mappings: "mapping tree"
    case .details: "device details tree"
    case .spaceMapIndex: "data space map index tree"
    case .spaceMapOverflow: "space map overflow tree"
    }
  }
}

/// A sound node, whose header was checked against the block and its tree.
@frozen public struct BtreeNodeView: ~Escapable {
  /// The whole block.
  public let bytes: RawSpan
  /// Whether it is a leaf.
  public let isLeaf: Bool
  /// The number of entries.
  public let entryCount: Int
  /// The largest number of entries.
  public let entriesMax: Int
  /// The size of a value in bytes.
  public let valueSize: Int
  /// The offset of the values.
  public let valuesOffset: Int

  /// Reads `bytes` as node `number` of a tree whose leaves have values of `leafValueSize` bytes.
  /// Checks kind, checksum, number, flags, sizes and that keys strictly ascend; the caller checks
  /// the values.
  /// - Throws: `FormatError` with the expected and the found value.
  @_lifetime(copy bytes)
  public init(validating bytes: RawSpan, number: UInt64, leafValueSize: Int)
    throws(FormatError)
  {
    try BlockHeader.verify(bytes, number: number, kind: .btreeNode)
    let header = RecordView<BtreeNodeRecord>(bytes)
    let flags = header[BtreeNodeRecord.flags]
    guard flags == BtreeNodeRecord.leafFlag || flags == BtreeNodeRecord.internalFlag else {
      throw .field(.nodeFlags, expected: 2, found: UInt64(flags))
    }
    let isLeaf = flags == BtreeNodeRecord.leafFlag
    let expectedValueSize = isLeaf ? leafValueSize : 8
    let valueSize = header[BtreeNodeRecord.valueSize]
    guard valueSize == UInt32(expectedValueSize) else {
      throw .field(.valueSize, expected: UInt64(expectedValueSize), found: UInt64(valueSize))
    }
    let room = BtreeNodeRecord.entriesMax(valueSize: expectedValueSize)
    let entriesMax = header[BtreeNodeRecord.entriesMax]
    guard entriesMax == UInt32(room) else {
      throw .field(.entriesMax, expected: UInt64(room), found: UInt64(entriesMax))
    }
    let entryCount = header[BtreeNodeRecord.entryCount]
    guard entryCount <= entriesMax else {
      throw .field(.entryCount, expected: UInt64(room), found: UInt64(entryCount))
    }
    self.bytes = bytes
    self.isLeaf = isLeaf
    self.entryCount = Int(entryCount)
    self.entriesMax = room
    self.valueSize = expectedValueSize
    self.valuesOffset = BtreeNodeRecord.keysOffset + 8 * room
    try Self.verifyKeyOrder(bytes, count: self.entryCount)
  }

  private static func verifyKeyOrder(_ bytes: RawSpan, count: Int) throws(FormatError) {
    guard count > 1 else { return }
    // Branch-free over the whole node; the wrong key is searched only if there is one. Each key is
    // loaded twice, so that no step waits for the one before.
    let keys = bytes.extracting(32..<(32 + 8 * count))
    var unordered: UInt8 = 0
    for i in 1..<count {
      let before = unsafe UInt64(
        littleEndian: keys.unsafeLoadUnaligned(
          fromUncheckedByteOffset: (i &- 1) &* 8, as: UInt64.self))
      let key = unsafe UInt64(
        littleEndian: keys.unsafeLoadUnaligned(fromUncheckedByteOffset: i &* 8, as: UInt64.self))
      unordered |= key > before ? 0 : 1
    }
    guard unordered != 0 else { return }
    var previous = unsafe keys.unsafeLoadUnaligned(fromByteOffset: 0, as: UInt64.self).littleEndian
    for i in 1..<count {
      let key = unsafe keys.unsafeLoadUnaligned(fromByteOffset: i * 8, as: UInt64.self).littleEndian
      if key <= previous { throw .keyOrder(entry: i, previous: previous, found: key) }
      previous = key
    }
  }

  /// Key of entry `i`.
  /// - Precondition: `i` is below `entryCount`; not checked again.
  @inlinable public func key(_ i: Int) -> UInt64 {
    unsafe UInt64(
      littleEndian: bytes.unsafeLoadUnaligned(
        fromUncheckedByteOffset: BtreeNodeRecord.keysOffset &+ i &* 8, as: UInt64.self))
  }

  /// Value of entry `i` of an internal node, or of a leaf with values of eight bytes.
  /// - Precondition: `i` is below `entryCount`; not checked again.
  @inlinable public func value64(_ i: Int) -> UInt64 {
    unsafe UInt64(
      littleEndian: bytes.unsafeLoadUnaligned(
        fromUncheckedByteOffset: valuesOffset &+ i &* 8, as: UInt64.self))
  }

  /// Value of entry `i` of a leaf with values of four bytes.
  /// - Precondition: `i` is below `entryCount`; not checked again.
  @inlinable public func value32(_ i: Int) -> UInt32 {
    unsafe UInt32(
      littleEndian: bytes.unsafeLoadUnaligned(
        fromUncheckedByteOffset: valuesOffset &+ i &* 4, as: UInt32.self))
  }

  /// The end of the run of mappings that begins with entry `i` of a leaf of mappings: of those whose virtual
  /// blocks follow each other.
  /// - Parameter followsData: whether their data blocks have to follow each other as well.
  /// - Precondition: `i` is below `entryCount`; not checked again.
  @inlinable @inline(__always)
  public func mappingRunEnd(from i: Int, followsData: Bool) -> Int {
    let (key, data) = (key(i), Mapping(rawValue: value64(i)).dataBlock)
    var end = i &+ 1
    while end < entryCount, self.key(end) == key &+ UInt64(truncatingIfNeeded: end &- i),
      !followsData
        || Mapping(rawValue: value64(end)).dataBlock
          == data &+ UInt64(truncatingIfNeeded: end &- i)
    { end &+= 1 }
    return end
  }

  /// The offset of the value of entry `i`, for values that are records.
  @inlinable public func valueOffset(_ i: Int) -> Int { valuesOffset &+ i &* valueSize }

  /// A node with fewer entries is underfull, unless it is a root: the kernel merges nodes before
  /// that.
  @inlinable public var entriesMin: Int { entriesMax / 3 }
}
