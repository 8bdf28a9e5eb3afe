import BlockIO
import Glibc
import ThinFormat

/// A device that goes on behind its end: what is written there is kept in a temporary file. So it is
/// found out how many blocks something needs that has too few, without a write that could hurt.
final class OverflowingDevice: BlockDevice {
  private let inner: any BlockDevice
  private let blockEnd: UInt64
  private var file: OpenFile?

  /// `inner`, as far as its first `blockCount` blocks.
  init(_ inner: any BlockDevice, blockCount: UInt64) {
    self.inner = inner
    blockEnd = blockCount * UInt64(Limits.blockBytes)
  }

  deinit { file?.close() }

  var path: String { inner.path }
  var byteCount: UInt64 { inner.byteCount }
  var descriptor: Int32? { nil }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset >= blockEnd, let file else { return try inner.read(into: buffer, at: offset) }
    try file.read(into: buffer, at: offset - blockEnd)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset < blockEnd else { return try spill(buffer, at: offset - blockEnd) }
    let here = min(buffer.count, Int(blockEnd - offset))
    try inner.write(UnsafeRawBufferPointer(rebasing: buffer[..<here]), at: offset)
    if here < buffer.count {
      try spill(UnsafeRawBufferPointer(rebasing: buffer[here...]), at: 0)
    }
  }

  private func spill(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    if file == nil { file = try TemporarySpace.open() }
    do throws(BlockIOError) {
      try file?.write(buffer, at: offset)
    } catch {
      throw TemporarySpace.full(error)
    }
  }

  func flush() throws(BlockIOError) { try inner.flush() }
}
