public import BlockIO
public import DataPath
import Glibc

/// A destination that can also be read and written on the spot, which is what metadata is: the loop
/// waits meanwhile.
public protocol SynchronousDestination: BlockDestination {
  /// Fills `buffer` from byte `offset` on.
  func readNow(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Writes all of `buffer` at byte `offset`.
  func writeNow(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Returns when everything acknowledged before is durable.
  func flushNow() throws(BlockIOError)
  /// Looks at the size anew: what is below can have grown.
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

extension SynchronousDestination {
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

extension Disk: SynchronousDestination {
  /// Looks at the size anew.
  public func refreshSize() { do throws(BlockIOError) { try updateSize() } catch {} }
  /// Its own.
  public var openDescriptor: Int32? { descriptor }
}

/// A destination as the engine wants it: for the metadata of a pool.
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
