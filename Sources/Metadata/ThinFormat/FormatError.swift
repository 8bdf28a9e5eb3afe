/// Why a block has the wrong format. The cases hold only numbers, so that throwing costs nothing.
public enum FormatError: Error, Equatable, Sendable {
  /// The checksum fits no kind of block.
  case checksum(BlockKind, expected: UInt32, found: UInt32)
  /// The block is sound, but of the wrong kind.
  case wrongKind(expected: BlockKind, found: BlockKind)
  /// The block has another block's number: it was written to or read from the wrong place.
  case blockNumber(expected: UInt64, found: UInt64)
  /// The superblock's magic is not dm-thin's.
  case magic(expected: UInt64, found: UInt64)
  /// A field of the block is out of range.
  case field(FieldName, expected: UInt64, found: UInt64)
  /// The keys of a node do not strictly ascend.
  case keyOrder(entry: Int, previous: UInt64, found: UInt64)

  /// The fields whose value or range is checked.
  public enum FieldName: String, Sendable {
    case version = "version 1 or"
    case dataBlockSize = "data block size of 128 to 2097152 sectors in multiples of 128, like"
    case metadataBlockSize = "metadata block size in sectors"
    case incompatFlags = "incompatible feature flags"
    case nodeFlags = "node flags: 1 (internal) or 2 (leaf), here"
    case valueSize = "value size in bytes"
    case entriesMax = "max_entries"
    case entryCount = "nr_entries of at most"
    case blocksMax = "nr_blocks of at most"
  }
}

extension FormatError: CustomStringConvertible {
  /// The expected and the found value.
  public var description: String {
    switch self {
    case .checksum(let kind, let expected, let found):
      "bad checksum in \(kind): expected \(hex(UInt64(expected))), found \(hex(UInt64(found)))"
    case .wrongKind(let expected, let found):
      "expected a \(expected), found a \(found)"
    case .blockNumber(let expected, let found):
      "wrong block number: expected \(expected), found \(found)"
    case .magic(let expected, let found):
      "bad superblock magic: expected \(expected), found \(found)"
    case .field(let name, let expected, let found):
      "expected \(name.rawValue) \(expected), found \(found)"
    case .keyOrder(let entry, let previous, let found):
      "keys out of order: entry \(entry) has key \(found), expected more than \(previous)"
    }
  }
}

/// `0x` and lower-case hexadecimal digits.
public func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
