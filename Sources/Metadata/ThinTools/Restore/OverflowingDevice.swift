import BlockIO
import Glibc
import ThinFormat

/// A device whose writes beyond the end go to a temporary file. It is used to find out how many
/// blocks are needed if there are too few, without harmful writes.
final class OverflowingDevice: BlockDevice {
  private let inner: any BlockDevice
  private let blockEnd: UInt64
  private var file: OpenFile?

  /// The first `blockCount` blocks of `inner`, extended by a temporary file.
  init(_ inner: any BlockDevice, blockCount: UInt64) {
    self.inner = inner
    blockEnd = blockCount * UInt64(Limits.blockBytes)
  }

  deinit { file?.close() }

  var path: String { inner.path }
  var byteCount: UInt64 { inner.byteCount }
  var descriptor: Int32? { nil }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset >= blockEnd, let file else {
      return try unsafe inner.read(into: buffer, at: offset)
    }
    try unsafe file.read(into: buffer, at: offset - blockEnd)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset < blockEnd else { return try unsafe spill(buffer, at: offset - blockEnd) }
    let here = min(buffer.count, Int(blockEnd - offset))
    try unsafe inner.write(UnsafeRawBufferPointer(rebasing: buffer[..<here]), at: offset)
    if here < buffer.count {
      try unsafe spill(UnsafeRawBufferPointer(rebasing: buffer[here...]), at: 0)
    }
  }

  private func spill(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    if file == nil { file = try TemporarySpace.open() }
    do throws(BlockIOError) {
      try unsafe file?.write(buffer, at: offset)
    } catch {
      throw TemporarySpace.full(error)
    }
  }

  func flush() throws(BlockIOError) { try inner.flush() }
}
