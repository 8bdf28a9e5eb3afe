import BlockIO

/// A device of unlimited size, whose content is temporary. New metadata is made here first, so that
/// its size is known before the first write to an output.
final class ScratchDevice: BlockDevice {
  private let file: OpenFile

  /// - Throws: if a temporary file cannot be created.
  init() throws(BlockIOError) { file = try TemporarySpace.open() }

  deinit { file.close() }

  var path: String { file.path }
  var byteCount: UInt64 { .max }
  var descriptor: Int32? { nil }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try unsafe file.read(into: buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    do throws(BlockIOError) {
      try unsafe file.write(buffer, at: offset)
    } catch {
      throw TemporarySpace.full(error)
    }
  }

  func flush() {}
}
