import CDMThin

/// The kinds of metadata block. The checksum is xored with the raw value, so that a block of one
/// kind is not taken for another.
public enum BlockKind: UInt32, CaseIterable, Sendable, CustomStringConvertible {
  /// Block 0, and its copy in a metadata snapshot.
  case superblock = 160_774
  /// A node of any B-tree.
  case btreeNode = 121_107
  /// A bitmap of a space map.
  case bitmap = 240_779
  /// The metadata space map's index block.
  case index = 160_478

  /// The name in messages.
  public var description: String {
    switch self {
    case .superblock: "superblock"
    case .btreeNode: "btree node"
    case .bitmap: "space map bitmap"
    case .index: "metadata index block"
    }
  }
}

/// The first 16 bytes of every kind of metadata block.
public enum BlockHeader: FixedSizeRecord {
  /// Bytes of the common header.
  public static var byteCount: Int { 16 }
  /// Checksum over bytes 4 to 4095.
  @inlinable public static var checksum: Field<BlockHeader, UInt32> { .init(at: 0) }
  /// Unused by bitmaps and the index; flags of superblock and nodes.
  @inlinable static var flags: Field<BlockHeader, UInt32> { .init(at: 4) }
  /// The block's own number.
  @inlinable public static var blockNumber: Field<BlockHeader, UInt64> { .init(at: 8) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("checksum", checksum), FieldPlace("flags", flags),
      FieldPlace("blockNumber", blockNumber),
    ]
  }

  /// CRC-32C over bytes 4 to 4095 of a block, before it is xored with the kind.
  /// - Precondition: `block` has 4096 bytes.
  public static func rawChecksum(_ block: RawSpan) -> UInt32 {
    precondition(block.byteCount == Limits.blockBytes)
    return unsafe block.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return 0 }
      return unsafe dmthin_crc32c(0xFFFF_FFFF, base + 4, Limits.blockBytes - 4)
    }
  }

  /// The kind whose checksum the block carries, if any.
  public static func kind(of block: RawSpan) -> BlockKind? {
    let stored = RecordView<BlockHeader>(block)[checksum]
    return BlockKind(rawValue: stored ^ rawChecksum(block))
  }

  /// Requires a sound block `number` of `kind`.
  /// - Throws: `FormatError` with the expected and the found value.
  public static func verify(_ block: RawSpan, number: UInt64, kind: BlockKind)
    throws(FormatError)
  {
    let header = RecordView<BlockHeader>(block)
    let raw = rawChecksum(block)
    guard header[checksum] == raw ^ kind.rawValue else {
      if let other = BlockKind(rawValue: header[checksum] ^ raw) {
        throw .wrongKind(expected: kind, found: other)
      }
      throw .checksum(kind, expected: raw ^ kind.rawValue, found: header[checksum])
    }
    guard header[blockNumber] == number else {
      throw .blockNumber(expected: number, found: header[blockNumber])
    }
  }

  /// Sets number and checksum, the last step before a block is written.
  /// - Precondition: `block` has 4096 bytes.
  public static func seal(
    _ block: UnsafeMutableRawBufferPointer, number: UInt64, kind: BlockKind
  ) {
    unsafe block.set(blockNumber, to: number)
    unsafe reseal(block, kind: kind)
  }

  /// Sets the checksum, but keeps the block's number.
  public static func reseal(_ block: UnsafeMutableRawBufferPointer, kind: BlockKind) {
    precondition(block.count == Limits.blockBytes)
    let raw = unsafe rawChecksum(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(block)))
    unsafe block.set(checksum, to: raw ^ kind.rawValue)
  }
}
