public import BlockIO
public import DataPath
import Glibc

/// What tables may name as a device below: a disk, or a device of the same device-mapper.
public protocol DiskBelow: BlockDestination {
  /// Looks at the size again: what is below can have grown.
  func refreshSize()
  /// Looks whether what is below is still there, with `byteCount` bytes at least.
  func requirePresence(byteCount: UInt64) throws(BlockIOError)
  /// Has what is below keep space for `range` (bytes), so that no write to it fails for lack of any.
  func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError)
  /// A descriptor of exactly these bytes, to be read from by any thread while this is open.
  var openDescriptor: Int32? { get }
  /// Descriptors of the bytes of `range`, in order, to be read from by any thread while this is open; nil
  /// where some have none, or there would be very many.
  func pieces(of range: Range<UInt64>) -> [DescriptorPiece]?
}

/// Bytes of a descriptor.
public struct DescriptorPiece: Equatable, Sendable {
  /// The descriptor.
  public let descriptor: Int32
  /// Where in it they begin.
  public let offset: UInt64
  /// How many they are.
  public internal(set) var byteCount: UInt64
}

extension DiskBelow {
  /// Memory does not go away.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {}
  /// There is space for what it has.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {}
  /// There is none.
  public var openDescriptor: Int32? { nil }
  /// One, where there is a descriptor.
  public func pieces(of range: Range<UInt64>) -> [DescriptorPiece]? {
    openDescriptor.map {
      [
        DescriptorPiece(
          descriptor: $0, offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound)
      ]
    }
  }
}

extension Disk: DiskBelow {
  /// Looks at the size again.
  public func refreshSize() { do throws(BlockIOError) { try updateSize() } catch {} }
  /// Its own.
  public var openDescriptor: Int32? { descriptor }
}
