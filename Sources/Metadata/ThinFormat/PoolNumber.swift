/// A number that names a part of a pool. Each kind has a type of its own, so that one cannot stand
/// for another; counts are plain integers.
///
/// `count` of a range is an `Int`, which cannot hold every distance: use `length` for numbers from disk.
public protocol PoolNumber: Strideable, Hashable, Sendable, CustomStringConvertible,
  ExpressibleByIntegerLiteral
{
  /// The number as an integer, as it is on disk.
  var rawValue: UInt64 { get }
  /// The part with this number.
  init(_ rawValue: UInt64)
}

/// A block of the metadata device, of 4096 bytes; 0 is the superblock.
@frozen public struct MetadataBlock: PoolNumber {
  /// The number of the block on the metadata device.
  public var rawValue: UInt64
  /// The block with this number.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
}

/// A block of the data device. Mappings can name those below 2^40.
@frozen public struct DataBlock: PoolNumber {
  /// The number of the block on the data device.
  public var rawValue: UInt64
  /// The block with this number.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
}

/// A block of a thin device, of the size of a data block.
@frozen public struct VirtualBlock: PoolNumber {
  /// The number of the block on the thin device.
  public var rawValue: UInt64
  /// The block with this number.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
}

/// The id of a thin device. Devices can be made with ids of 24 bits; damaged metadata can have larger
/// ones, so all 64 bits of a key are kept.
@frozen public struct ThinID: PoolNumber {
  /// The id as an integer.
  public var rawValue: UInt64
  /// The device with this id.
  @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }

  /// The largest id that a device can be made with.
  @inlinable public static var max: ThinID { ThinID(Limits.deviceIDMax) }
}

extension PoolNumber {
  /// The part with the number in the source.
  @inlinable public init(integerLiteral value: UInt64) { self.init(value) }

  /// The number in decimal digits.
  public var description: String { String(rawValue) }

  /// Compares the numbers.
  @inlinable public static func == (a: Self, b: Self) -> Bool { a.rawValue == b.rawValue }

  /// Compares the numbers.
  @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }

  /// The number of steps to another number.
  /// - Precondition: it fits an `Int`.
  @inlinable public func distance(to other: Self) -> Int {
    rawValue <= other.rawValue
      ? Int(other.rawValue - rawValue) : -Int(rawValue - other.rawValue)
  }

  /// The number `n` steps further.
  /// - Precondition: it is from 0 to 2^64 - 1.
  @inlinable public func advanced(by n: Int) -> Self {
    Self(n >= 0 ? rawValue + UInt64(n) : rawValue - UInt64(n.magnitude))
  }

  /// The number `count` further.
  /// - Precondition: it is below 2^64.
  @inlinable public static func + (number: Self, count: UInt64) -> Self {
    Self(number.rawValue + count)
  }

  /// The number `count` further, modulo 2^64.
  @inlinable public static func &+ (number: Self, count: UInt64) -> Self {
    Self(number.rawValue &+ count)
  }
}

extension Range where Bound: PoolNumber {
  /// The parts with these numbers.
  @inlinable public init(_ numbers: Range<UInt64>) {
    self = Bound(numbers.lowerBound)..<Bound(numbers.upperBound)
  }

  /// The number of parts, for all 64-bit bounds.
  @inlinable public var length: UInt64 { upperBound.rawValue - lowerBound.rawValue }

  /// The same numbers as integers.
  @inlinable public var rawValues: Range<UInt64> { lowerBound.rawValue..<upperBound.rawValue }
}
