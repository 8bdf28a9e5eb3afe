import CDMThin
import Glibc

/// A block device or a regular file.
public final class FileDevice: BlockDevice {
  /// What the device is opened for.
  public enum Access: Sendable {
    case readOnly
    case readWrite
  }

  /// What messages call the device.
  public let path: String
  /// Size in bytes.
  public let byteCount: UInt64
  /// Whether it is a block device rather than a file.
  public let isBlockDevice: Bool
  private let fd: Int32
  /// The descriptor that reads may be queued on.
  public var descriptor: Int32? { fd }

  /// Opens `path`, past the page cache where the file system allows that.
  /// - Parameter exclusive: refuse a block device that is mounted, held by device-mapper, or
  ///   opened exclusively by another program, and a file that another program has locked (flock).
  /// - Throws: `BlockIOError`, with `ENOTBLK` for something that is neither file nor device.
  public init(path: String, access: Access, exclusive: Bool) throws(BlockIOError) {
    var info = stat()
    guard stat(path, &info) == 0 else {
      throw BlockIOError(.open, path: path, code: errno)
    }
    let type = info.st_mode & S_IFMT
    guard type == S_IFREG || type == S_IFBLK else {
      throw BlockIOError(.open, path: path, code: ENOTBLK)
    }
    isBlockDevice = type == S_IFBLK
    var flags = O_CLOEXEC | (access == .readOnly ? O_RDONLY : O_RDWR)
    // O_EXCL without O_CREAT means something for block devices only.
    if exclusive && isBlockDevice { flags |= O_EXCL }
    var fd = open(path, flags | dmthin_o_direct)
    if fd < 0 && errno == EINVAL { fd = open(path, flags) }
    guard fd >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    if exclusive && !isBlockDevice {
      // Readers among themselves do no harm. File systems without locks have nobody to exclude.
      let status = flock(fd, (access == .readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB)
      if status != 0 && errno == EWOULDBLOCK {
        close(fd)
        throw BlockIOError(.open, path: path, code: EBUSY)
      }
    }
    self.fd = fd
    self.path = path
    if isBlockDevice {
      var bytes: UInt64 = 0
      guard dmthin_block_device_bytes(fd, &bytes) == 0 else {
        let code = errno
        close(fd)
        throw BlockIOError(.size, path: path, code: code)
      }
      byteCount = bytes
    } else {
      byteCount = UInt64(max(0, info.st_size))
    }
  }

  /// Takes over an open descriptor of `byteCount` bytes, for instance of a memory file.
  public init(adopting fd: Int32, path: String, byteCount: UInt64) {
    self.fd = fd
    self.path = path
    self.byteCount = byteCount
    isBlockDevice = false
  }

  deinit { close(fd) }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    var done = 0
    while done < buffer.count {
      let n = pread(
        fd, buffer.baseAddress.map { $0 + done }, buffer.count - done,
        off_t(clamping: offset) + off_t(done))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else {
        throw BlockIOError(
          .read, path: path, offset: offset + UInt64(done), code: n < 0 ? errno : 0)
      }
      done += n
    }
  }

  /// Writes all of `buffer` at `offset`.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    var done = 0
    while done < buffer.count {
      let n = pwrite(
        fd, buffer.baseAddress.map { $0 + done }, buffer.count - done,
        off_t(clamping: offset) + off_t(done))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else {
        throw BlockIOError(
          .write, path: path, offset: offset + UInt64(done), code: n < 0 ? errno : EIO)
      }
      done += n
    }
  }

  /// Returns when everything written is durable.
  public func flush() throws(BlockIOError) {
    while fsync(fd) != 0 {
      if errno != EINTR { throw BlockIOError(.flush, path: path, code: errno) }
    }
  }
}
