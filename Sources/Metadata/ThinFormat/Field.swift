/// The place of one little-endian integer in an on-disk record.
///
/// `Record` is a phantom type: a field of the superblock does not type-check on a B-tree node.
/// Fields are declared as computed properties, because a stored `static let` costs an accessor
/// call, while this compiles to a constant.
@frozen
public struct Field<Record, Value: FixedWidthInteger & BitwiseCopyable & Sendable>:
  Sendable
{
  /// Bytes from the start of the record.
  public let offset: Int

  /// Declares a field `offset` bytes into its record.
  @inlinable public init(at offset: Int) { self.offset = offset }
}

/// Name and place of a field, for tools that iterate over all fields.
public struct FieldPlace: Equatable, Sendable {
  /// The field's name in the source, after its record: `superblock.time`.
  public let name: String
  /// Bytes from the start of the record.
  public let offset: Int
  /// The size of the field in bytes.
  public let byteCount: Int

  init<R, V>(_ name: String, _ field: Field<R, V>) {
    self.name = name
    offset = field.offset
    byteCount = V.bitWidth / 8
  }
}

/// A record of `byteCount` bytes inside a buffer.
public protocol FixedSizeRecord {
  /// The size of the record on disk in bytes.
  static var byteCount: Int { get }
  /// Every field, by ascending offset.
  static var fields: [FieldPlace] { get }
}

/// Typed, bounds-checked reading of a record in a borrowed buffer.
@frozen public struct RecordView<Record: FixedSizeRecord>: ~Escapable {
  /// The record's bytes.
  public let bytes: RawSpan

  /// Views the record that starts `offset` bytes into `bytes`.
  /// - Precondition: the record fits; callers hold whole metadata blocks.
  @inlinable @_lifetime(copy bytes)
  public init(_ bytes: RawSpan, at offset: Int = 0) {
    self.bytes = bytes.extracting(offset..<(offset + Record.byteCount))
  }

  /// The value of `field`, in the machine's byte order.
  @inlinable public subscript<V>(_ field: Field<Record, V>) -> V {
    unsafe V(littleEndian: bytes.unsafeLoadUnaligned(fromByteOffset: field.offset, as: V.self))
  }
}

extension UnsafeMutableRawBufferPointer {
  /// Writes one field of a record that starts `base` bytes into the buffer.
  @inlinable public func set<R, V>(_ field: Field<R, V>, to value: V, base: Int = 0) {
    unsafe storeBytes(of: value.littleEndian, toByteOffset: base + field.offset, as: V.self)
  }
}
