public import BlockIO
public import DataPath
import Glibc

/// A destination that can also be read and written synchronously, as metadata is. The loop waits
/// meanwhile.
public protocol SynchronousDestination: BlockDestination {
  /// Fills `buffer` from byte `offset` on.
  func readNow(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Writes all of `buffer` at byte `offset`.
  func writeNow(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Returns when everything acknowledged before is durable.
  func flushNow() throws(BlockIOError)
  /// Updates the size, because the device may have grown.
  func refreshSize()
  /// Requires that the device still exists, with at least `byteCount` bytes.
  func requirePresence(byteCount: UInt64) throws(BlockIOError)
  /// Reserves space for `range` (bytes), so that no write to it fails for lack of space.
  func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError)
  /// A descriptor of exactly these bytes, readable by any thread while this is open; nil if there
  /// is none.
  var openDescriptor: Int32? { get }
  /// Descriptors of the bytes of `range`, in order, readable by any thread while this is open; nil
  /// if some have none, or there would be too many.
  func pieces(of range: Range<UInt64>) -> [DescriptorPiece]?
}

/// Bytes of a descriptor.
public struct DescriptorPiece: Equatable, Sendable {
  /// The descriptor.
  public let descriptor: Int32
  /// The offset of the first byte.
  public let offset: UInt64
  /// The number of bytes.
  public internal(set) var byteCount: UInt64
}

extension SynchronousDestination {
  /// Does nothing: memory is always present.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {}
  /// Does nothing: memory has space for its bytes.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {}
  /// Nil.
  public var openDescriptor: Int32? { nil }
  /// One piece, if there is a descriptor.
  public func pieces(of range: Range<UInt64>) -> [DescriptorPiece]? {
    openDescriptor.map {
      [
        DescriptorPiece(
          descriptor: $0, offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound)
      ]
    }
  }
}

extension Disk: SynchronousDestination {
  /// Updates the size.
  public func refreshSize() { do throws(BlockIOError) { try updateSize() } catch {} }
  /// Its descriptor.
  public var openDescriptor: Int32? { descriptor }
}

/// Adapts a destination to the interface that the metadata engine uses.
final class MetadataDevice: BlockDevice {
  private let opened: OpenDevice

  init(_ opened: OpenDevice) { self.opened = opened }

  var path: String { opened.text }
  var byteCount: UInt64 { opened.destination.byteCount }
  var descriptor: Int32? { nil }

  private func check(_ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64)
    throws(BlockIOError)
  {
    let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
    guard !overflow, end <= byteCount else {
      throw BlockIOError(operation, path: path, offset: offset, code: EIO)
    }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try check(.read, buffer.count, at: offset)
    try opened.destination.readNow(buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try check(.write, buffer.count, at: offset)
    guard !opened.destination.isReadOnly else {
      throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
    }
    try opened.destination.writeNow(buffer, at: offset)
  }

  func flush() throws(BlockIOError) { try opened.destination.flushNow() }
}
