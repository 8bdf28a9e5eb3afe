import CDMThin
import Glibc

/// A block device or regular file that is open: what everything that reads and writes one has in
/// common. It does not close the descriptor by itself; its owner does.
public struct OpenFile: Sendable {
  /// What messages call it.
  public let path: String
  /// The open descriptor.
  public let descriptor: Int32
  /// Whether it is a block device rather than a file.
  public let isBlockDevice: Bool
  /// Whether the page cache is passed by (O_DIRECT).
  public let isDirect: Bool
  /// Whether it has a lock (flock), which `close` gives up.
  private let isLocked: Bool

  /// Opens `path`, past the page cache where the file system allows that.
  /// - Parameter exclusive: refuse a block device that is mounted, held by device-mapper, or
  ///   opened exclusively by another program, and a file that another program has locked (flock).
  /// - Throws: `BlockIOError`, with `ENOTBLK` for something that is neither file nor device, and
  ///   `EBUSY` for one that is somebody's.
  public init(path: String, readOnly: Bool, exclusive: Bool) throws(BlockIOError) {
    var info = stat()
    guard stat(path, &info) == 0 else { throw BlockIOError(.open, path: path, code: errno) }
    let type = info.st_mode & S_IFMT
    guard type == S_IFREG || type == S_IFBLK else {
      throw BlockIOError(.open, path: path, code: ENOTBLK)
    }
    isBlockDevice = type == S_IFBLK
    var flags = O_CLOEXEC | (readOnly ? O_RDONLY : O_RDWR)
    // O_EXCL without O_CREAT means something for block devices only.
    if exclusive && isBlockDevice { flags |= O_EXCL }
    var fd = open(path, flags | dmthin_o_direct)
    isDirect = fd >= 0
    if fd < 0 && errno == EINVAL { fd = open(path, flags) }
    guard fd >= 0 else {
      let code = errno
      let user = code == EBUSY ? FileUsers.user(ofDevice: FileIdentity(info)) : nil
      throw BlockIOError(.open, path: path, code: code, user: user)
    }
    if exclusive && !isBlockDevice {
      do throws(BlockIOError) {
        isLocked = try Self.claim(fd, path: path, readOnly: readOnly)
      } catch {
        Glibc.close(fd)
        throw error
      }
    } else {
      isLocked = false
    }
    descriptor = fd
    self.path = path
  }

  /// A descriptor that was opened by other means, as a regular file.
  public init(adopting fd: Int32, path: String) {
    descriptor = fd
    self.path = path
    isBlockDevice = false
    isDirect = false
    isLocked = false
  }

  /// Locks an open regular file, for other readers or for nobody else.
  /// - Returns: whether it is locked, which is to be undone before it is closed. File systems without
  ///   locks have nobody to exclude.
  /// - Throws: `BlockIOError` with EBUSY where another program has a lock on it, of whichever kind, or
  ///   it is the file of a loop device that is in use.
  static func claim(_ descriptor: Int32, path: String, readOnly: Bool) throws(BlockIOError) -> Bool
  {
    // Readers among themselves do no harm.
    let status = flock(descriptor, (readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB)
    if status != 0 && errno == EWOULDBLOCK
      || dmthin_is_range_locked(descriptor, readOnly ? 0 : 1) == 1
    {
      if status == 0 { flock(descriptor, LOCK_UN) }
      throw BlockIOError(
        .open, path: path, code: EBUSY, isLocked: true,
        user: FileUsers.lockHolder(of: descriptor))
    }
    if let identity = FileIdentity(descriptor: descriptor) {
      for loop in identity.loopDevices {
        guard let user = FileUsers.holder(ofLoop: loop) else { continue }
        if status == 0 { flock(descriptor, LOCK_UN) }
        throw BlockIOError(.open, path: path, code: EBUSY, user: user)
      }
    }
    return status == 0
  }

  /// Closes the descriptor, which must not be used any more.
  ///
  /// The lock is given up by name: it belongs to the open file, not to the descriptor, and a child that
  /// another thread is starting has a copy of the descriptor until it becomes another program.
  public func close() {
    if isLocked { flock(descriptor, LOCK_UN) }
    Glibc.close(descriptor)
  }

  /// Size in bytes, now.
  public func byteCount() throws(BlockIOError) -> UInt64 {
    if isBlockDevice {
      var bytes: UInt64 = 0
      guard dmthin_block_device_bytes(descriptor, &bytes) == 0 else {
        throw BlockIOError(.size, path: path, code: errno)
      }
      return bytes
    }
    var info = stat()
    guard fstat(descriptor, &info) == 0 else { throw BlockIOError(.size, path: path, code: errno) }
    return UInt64(max(0, info.st_size))
  }

  /// Whether a file has a name: one that never had any is no loss.
  public func hasName() -> Bool {
    var info = stat()
    return isBlockDevice || fstat(descriptor, &info) != 0 || info.st_nlink > 0
  }

  /// Looks whether what is open is still what was opened: the device or file has not become smaller
  /// than `byteCount`, and a file has not been deleted.
  /// - Parameter hadName: what `hasName` said when it was opened.
  /// - Throws: `BlockIOError`, with what has happened and how the contents can be kept.
  public func requirePresence(byteCount: UInt64, hadName: Bool) throws(BlockIOError) {
    func gone(_ code: Int32, _ detail: String) -> BlockIOError {
      BlockIOError(.use, path: path, code: code, detail: detail)
    }
    if isBlockDevice {
      let now = try self.byteCount()
      if now < byteCount { throw gone(ENXIO, "it has \(now) bytes, and \(byteCount) are needed") }
      return
    }
    var info = stat()
    guard fstat(descriptor, &info) == 0 else { throw BlockIOError(.size, path: path, code: errno) }
    if info.st_nlink == 0 && hadName {
      throw gone(
        ENOENT,
        "it has been deleted; its contents are there until this process ends: copy them with "
          + "cp /proc/\(getpid())/fd/\(descriptor) FILE")
    }
    if UInt64(max(0, info.st_size)) < byteCount {
      throw gone(EIO, "it has been cut to \(info.st_size) bytes, and \(byteCount) are needed")
    }
  }

  /// Has the file system keep space for `range` (bytes) of a file, so that no write to it fails for lack
  /// of any. Of a block device there is nothing to keep. What the file holds stays as it is.
  /// - Throws: `BlockIOError`, with ENOSPC, EDQUOT or EFBIG where there is not enough.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {
    guard !isBlockDevice, !range.isEmpty else { return }
    let start = Int64(clamping: range.lowerBound)
    let count = Int64(clamping: range.upperBound - range.lowerBound)
    var status: Int32
    repeat {
      status = dmthin_fallocate(descriptor, 0, start, count)
    } while status != 0 && errno == EINTR
    if status == 0 { return }
    guard errno == EOPNOTSUPP || errno == ENOSYS else {
      throw BlockIOError(.reserve, path: path, code: errno)
    }
    try fillHoles(range)
  }

  /// Writes zeros where nothing is written: what file systems without the call above need.
  private func fillHoles(_ range: Range<UInt64>) throws(BlockIOError) {
    let zeros = AlignedBuffer(count: 1 << 20)
    defer { withExtendedLifetime(zeros) {} }
    var at = Int(clamping: range.lowerBound)
    let end = Int(clamping: range.upperBound)
    while at < end {
      let hole = lseek(descriptor, at, SEEK_HOLE)
      // Without an answer nothing is known to be missing.
      guard hole >= 0, hole < end else { return }
      let data = lseek(descriptor, hole, SEEK_DATA)
      let stop = data < 0 ? end : min(end, data)
      at = hole
      while at < stop {
        let count = min(stop - at, zeros.bytes.count)
        try write(
          UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(zeros.bytes)[0..<count]),
          at: UInt64(at))
        at += count
      }
    }
  }

  /// Fills `buffer` from byte `offset` on.
  /// - Throws: `BlockIOError`, with code 0 where the file ends before.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    try whole(.read, buffer.count, at: offset, atEnd: 0) { done, place in
      pread(descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, place)
    }
  }

  /// Writes all of `buffer` at byte `offset`.
  /// - Parameter durable: return when the bytes are where a power cut does not reach them.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool = false)
    throws(BlockIOError)
  {
    try whole(.write, buffer.count, at: offset, atEnd: EIO) { done, place in
      let (start, count) = (buffer.baseAddress.map { $0 + done }, buffer.count - done)
      return durable
        ? dmthin_pwrite_dsync(descriptor, start, count, Int64(place))
        : pwrite(descriptor, start, count, place)
    }
  }

  /// Repeats a call that may do a part only, until all `count` bytes are done.
  private func whole(
    _ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64, atEnd: Int32,
    _ call: (_ done: Int, _ place: Int) -> Int
  ) throws(BlockIOError) {
    var done = 0
    while done < count {
      let n = call(done, Int(clamping: offset &+ UInt64(done)))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else {
        throw BlockIOError(
          operation, path: path, offset: offset &+ UInt64(done), code: n < 0 ? errno : atEnd)
      }
      done += n
    }
  }
}
