import CDMThin
import Glibc

/// An open block device or regular file, with the operations common to all code that reads and
/// writes one. Its owner must close it.
public struct OpenFile: Sendable {
  /// The path given by the user, or a description.
  public let path: String
  /// The open descriptor.
  public let descriptor: Int32
  /// Whether it is a block device.
  public let isBlockDevice: Bool
  /// Whether the page cache is bypassed (O_DIRECT).
  public let isDirect: Bool
  /// Whether it was opened for reading only.
  public let isReadOnly: Bool
  /// Whether it holds a lock (flock), which `close` releases.
  private let isLocked: Bool

  /// Opens `path` with O_DIRECT if the file system supports it.
  /// - Parameter exclusive: whether to refuse a block device that is mounted, held by
  ///   device-mapper, or opened exclusively by another program, and a file that another program has
  ///   locked (flock).
  /// - Throws: `BlockIOError`, with `ENOTBLK` if it is neither a file nor a block device, and
  ///   `EBUSY` if it is in use.
  public init(path: String, readOnly: Bool, exclusive: Bool) throws(BlockIOError) {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else { throw BlockIOError(.open, path: path, code: errno) }
    let type = info.st_mode & S_IFMT
    guard type == S_IFREG || type == S_IFBLK else {
      throw BlockIOError(.open, path: path, code: ENOTBLK)
    }
    isBlockDevice = type == S_IFBLK
    isReadOnly = readOnly
    var flags = O_CLOEXEC | (readOnly ? O_RDONLY : O_RDWR)
    // O_EXCL without O_CREAT has a meaning for block devices only.
    if exclusive && isBlockDevice { flags |= O_EXCL }
    var fd = unsafe open(path, flags | dmthin_o_direct)
    isDirect = fd >= 0
    if fd < 0 && errno == EINVAL { fd = unsafe open(path, flags) }
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

  /// Takes over a descriptor, open for writing, as a regular file.
  public init(adopting fd: Int32, path: String) {
    descriptor = fd
    self.path = path
    isBlockDevice = false
    isDirect = false
    isReadOnly = false
    isLocked = false
  }

  /// Locks an open regular file, shared for reading or exclusively for writing.
  /// - Returns: whether it was locked, so that it must be unlocked before it is closed. A file
  ///   system without locks is accepted.
  /// - Throws: `BlockIOError` with EBUSY if another program holds a lock of any kind on it, or if a
  ///   loop device uses it.
  static func claim(_ descriptor: Int32, path: String, readOnly: Bool) throws(BlockIOError) -> Bool
  {
    // Several readers may share a file.
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
  /// The lock is released explicitly: it belongs to the open file, not to the descriptor, and a
  /// child that another thread is starting has a copy of the descriptor until it calls exec.
  public func close() {
    if isLocked { flock(descriptor, LOCK_UN) }
    Glibc.close(descriptor)
  }

  /// The present size in bytes.
  public func byteCount() throws(BlockIOError) -> UInt64 {
    if isBlockDevice {
      var bytes: UInt64 = 0
      guard unsafe dmthin_block_device_bytes(descriptor, &bytes) == 0 else {
        throw BlockIOError(.size, path: path, code: errno)
      }
      return bytes
    }
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else {
      throw BlockIOError(.size, path: path, code: errno)
    }
    return UInt64(max(0, info.st_size))
  }

  /// Whether a file has a name. A file that never had one cannot be deleted.
  public func hasName() -> Bool {
    var info = stat()
    return unsafe isBlockDevice || fstat(descriptor, &info) != 0 || info.st_nlink > 0
  }

  /// Requires that the device or file is still intact: it has not become smaller than `byteCount`,
  /// and a file has not been deleted.
  /// - Parameter hadName: the result of `hasName` when it was opened.
  /// - Throws: `BlockIOError`, with the reason and the way to save the contents.
  public func requirePresence(byteCount: UInt64, hadName: Bool) throws(BlockIOError) {
    func gone(_ code: Int32, _ detail: String) -> BlockIOError {
      BlockIOError(.use, path: path, code: code, detail: detail)
    }
    if isBlockDevice {
      let now = try self.byteCount()
      if now < byteCount { throw gone(ENXIO, "it has \(now) bytes, but \(byteCount) are needed") }
      return
    }
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else {
      throw BlockIOError(.size, path: path, code: errno)
    }
    if info.st_nlink == 0 && hadName {
      throw gone(
        ENOENT,
        "it has been deleted; its contents are there until this process ends: copy them with "
          + "cp /proc/\(getpid())/fd/\(descriptor) FILE")
    }
    if UInt64(max(0, info.st_size)) < byteCount {
      throw gone(EIO, "it has been cut to \(info.st_size) bytes, but \(byteCount) are needed")
    }
  }

  /// Reserves space in the file system for `range` (bytes) of a file, so that no write to it fails
  /// for lack of space. Does nothing for a block device. The content is unchanged.
  /// - Throws: `BlockIOError`, with ENOSPC, EDQUOT or EFBIG if there is not enough space.
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

  /// Writes zeros into holes, for file systems without fallocate(2).
  private func fillHoles(_ range: Range<UInt64>) throws(BlockIOError) {
    let zeros = AlignedBuffer(count: 1 << 20)
    defer { withExtendedLifetime(zeros) {} }
    var at = Int(clamping: range.lowerBound)
    let end = Int(clamping: range.upperBound)
    while at < end {
      let hole = lseek(descriptor, at, SEEK_HOLE)
      // Without an answer from lseek(2), no hole is known.
      guard hole >= 0, hole < end else { return }
      let data = lseek(descriptor, hole, SEEK_DATA)
      let stop = data < 0 ? end : min(end, data)
      at = hole
      while at < stop {
        let count = unsafe min(stop - at, zeros.bytes.count)
        try unsafe write(
          UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(zeros.bytes)[0..<count]),
          at: UInt64(at))
        at += count
      }
    }
  }

  /// Fills `buffer` from byte `offset` on.
  /// - Throws: `BlockIOError`, with code 0 if the file ends before.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    try whole(.read, buffer.count, at: offset, atEnd: 0) { done, place in
      unsafe pread(
        descriptor, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done, place)
    }
  }

  /// Writes all of `buffer` at byte `offset`.
  /// - Parameter durable: whether to return only when the bytes survive a power cut.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64, durable: Bool = false)
    throws(BlockIOError)
  {
    try whole(.write, buffer.count, at: offset, atEnd: EIO) { done, place in
      let (start, count) = unsafe (buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done)
      return unsafe durable
        ? dmthin_pwrite_dsync(descriptor, start, count, Int64(place))
        : pwrite(descriptor, start, count, place)
    }
  }

  /// The most pieces that are written by one call.
  private static var gatherMax: Int { 64 }

  /// Writes several pieces, ascending by offset, neighbours by one call. Stops at the first that fails.
  public func write(_ pieces: [BlockPiece]) throws(BlockIOError) {
    var start = 0
    while start < pieces.count {
      var (end, byteCount) = unsafe (start + 1, pieces[start].bytes.count)
      while end < pieces.count, end - start < Self.gatherMax,
        pieces[end].offset == pieces[start].offset + UInt64(byteCount)
      {
        unsafe byteCount += pieces[end].bytes.count
        end += 1
      }
      let run = pieces[start..<end]
      var done = end - start > 1 ? gather(run) : 0
      // What the call has left, or all after an error, whose place is found in this way.
      for piece in run {
        let count = unsafe min(max(0, done), piece.bytes.count)
        done -= count
        try unsafe write(
          UnsafeRawBufferPointer(rebasing: piece.bytes[count...]), at: piece.offset + UInt64(count))
      }
      start = end
    }
  }

  /// Writes neighbours by one call, and returns how many bytes were written, or -1.
  private func gather(_ run: ArraySlice<BlockPiece>) -> Int {
    unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: Self.gatherMax) { vectors in
      for (i, piece) in run.enumerated() {
        unsafe vectors[i] = iovec(
          iov_base: UnsafeMutableRawPointer(mutating: piece.bytes.baseAddress),
          iov_len: piece.bytes.count)
      }
      let place = Int(clamping: run[run.startIndex].offset)
      return unsafe pwritev(descriptor, vectors.baseAddress, Int32(run.count), place)
    }
  }

  /// Writes zeros, where the system does not make them.
  public func writeZeros(_ range: Range<UInt64>) throws(BlockIOError) {
    let zeros = AlignedBuffer(count: 1 << 20)
    defer { withExtendedLifetime(zeros) {} }
    var at = range.lowerBound
    while at < range.upperBound {
      let count = unsafe Int(min(range.upperBound - at, UInt64(zeros.bytes.count)))
      try unsafe write(UnsafeRawBufferPointer(rebasing: zeros.bytes[..<count]), at: at)
      at += UInt64(count)
    }
  }

  /// Makes finished writes durable; see `Flush`.
  public func flush() throws(BlockIOError) {
    if isReadOnly { return }
    let code = Flush.perform(descriptor)
    if code != 0 { throw BlockIOError(.flush, path: path, code: code) }
  }

  /// Repeats a call that may transfer only a part, until `count` bytes are done.
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
