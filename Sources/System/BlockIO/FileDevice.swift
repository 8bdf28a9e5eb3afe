/// A block device or a regular file.
public final class FileDevice: BlockDevice {
  /// The access requested.
  public enum Access: Sendable {
    case readOnly
    case readWrite
  }

  private let file: OpenFile
  /// The device's name in messages.
  public var path: String { file.path }
  /// Size in bytes.
  public let byteCount: UInt64
  /// Whether it is a block device rather than a file.
  public var isBlockDevice: Bool { file.isBlockDevice }
  /// The descriptor on which reads may be queued.
  public var descriptor: Int32? { file.descriptor }

  /// Opens `path` with O_DIRECT if the file system supports it.
  /// - Parameter exclusive: whether to refuse a block device that is mounted, held by
  ///   device-mapper, or opened exclusively by another program, and a file that another program has
  ///   locked (flock).
  /// - Throws: `BlockIOError`, with `ENOTBLK` if it is neither a file nor a block device.
  public init(path: String, access: Access, exclusive: Bool) throws(BlockIOError) {
    file = try OpenFile(path: path, readOnly: access == .readOnly, exclusive: exclusive)
    do throws(BlockIOError) {
      byteCount = try file.byteCount()
    } catch {
      file.close()
      throw error
    }
  }

  /// Takes over an open descriptor of `byteCount` bytes, for example of a memory file.
  public init(adopting fd: Int32, path: String, byteCount: UInt64) {
    file = OpenFile(adopting: fd, path: path)
    self.byteCount = byteCount
  }

  deinit { file.close() }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  { try unsafe file.read(into: buffer, at: offset) }

  /// Writes all of `buffer` at `offset`.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try unsafe file.write(buffer, at: offset)
  }

  /// Writes several pieces, ascending by offset, neighbours by one call. Stops at the first that fails.
  public func write(_ pieces: [BlockPiece]) throws(BlockIOError) { try file.write(pieces) }

  /// Makes finished writes durable; see `Flush`.
  public func flush() throws(BlockIOError) { try file.flush() }
}
