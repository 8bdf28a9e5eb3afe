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
}

extension Disk: SynchronousDestination {
  /// Looks at the size anew.
  public func refreshSize() { do throws(BlockIOError) { try updateSize() } catch {} }
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
