import CDMThin
import Glibc

/// A large output that may take several runs: the image of a volume.
///
/// A file is written under the name `PATH.unfinished`, which it keeps when the program is killed, so that a
/// later run continues it. `commit` gives it its name, durably. A block device is written in place.
/// Neither is ever an input, nor in use.
public final class ResumableOutput {
  /// The suffix of a file that is not complete.
  public static let suffix = ".unfinished"

  /// What is at a path.
  public struct State: Equatable, Sendable {
    /// It is a block device.
    public var isBlockDevice = false
    /// There is a file of the name.
    public var isThere = false
    /// There is an unfinished file.
    public var isUnfinished = false
    /// Bytes of the file.
    public var byteCount: UInt64 = 0
    /// Bytes of the unfinished file.
    public var unfinishedByteCount: UInt64 = 0
  }

  /// The path given by the user.
  public let path: String
  /// Whether it is a block device.
  public let isBlockDevice: Bool
  private let place: String
  private let file: OpenFile
  /// The file that `commit` replaces, which is locked until then.
  private let old: (info: stat, descriptor: Int32)?
  private var unfinished: String { place + Self.suffix }

  /// Looks at a path without opening anything.
  /// - Throws: `OutputError` if it is neither a regular file, nor a block device, nor missing.
  public static func state(of path: String) throws(OutputError) -> State {
    let place = OutputPath(path)
    var state = State()
    var info = stat()
    guard !place.isDescriptor else { throw unsuitable(path) }
    if unsafe stat(place.path, &info) == 0 {
      state.isThere = true
      state.isBlockDevice = info.st_mode & S_IFMT == S_IFBLK
      guard state.isBlockDevice || info.st_mode & S_IFMT == S_IFREG else { throw unsuitable(path) }
      state.byteCount = UInt64(max(0, info.st_size))
    } else if errno != ENOENT {
      throw OutputError(BlockIOError(.create, path: path, code: errno))
    }
    if !state.isBlockDevice, unsafe lstat(place.path + suffix, &info) == 0 {
      state.isUnfinished = true
      state.unfinishedByteCount = UInt64(max(0, info.st_size))
    }
    return state
  }

  private static func unsuitable(_ path: String) -> OutputError {
    OutputError(
      .precious, "\(path) is neither a regular file nor a block device, and cannot hold an image")
  }

  /// Opens an output.
  /// - Parameters:
  ///   - reading: paths of the inputs.
  ///   - continues: whether what is there is continued: an unfinished file, or else the file of that name,
  ///     which is unfinished from then on. Otherwise it begins empty.
  /// - Throws: `OutputError`; nothing has been changed then.
  public init(_ path: String, reading inputs: [String], continues: Bool) throws(OutputError) {
    let state = try Self.state(of: path)
    self.path = path
    place = OutputPath(path).path
    isBlockDevice = state.isBlockDevice
    if let identity = FileIdentity(path: place) {
      try OutputError.requireOther(identity, path, inputs)
    }
    if let identity = FileIdentity(path: place + Self.suffix) {
      try OutputError.requireOther(identity, path + Self.suffix, inputs)
    }
    if isBlockDevice {
      old = nil
      file = OpenFile(adopting: try Self.device(path, place), path: path)
      return
    }
    let old = try state.isThere ? Self.claimed(place, path) : nil
    do throws(OutputError) {
      if continues && !state.isUnfinished && state.isThere {
        guard unsafe rename(place, place + Self.suffix) == 0 else {
          throw OutputError(BlockIOError(.replace, path: path, code: errno))
        }
        Self.release(old)
        self.old = nil
      } else {
        self.old = old
      }
      file = try Self.unfinished(place + Self.suffix, path + Self.suffix, isEmpty: !continues)
    } catch {
      Self.release(old)
      throw error
    }
  }

  deinit {
    if !isBlockDevice { flock(file.descriptor, LOCK_UN) }
    file.close()
    Self.release(old)
  }

  private static func release(_ old: (info: stat, descriptor: Int32)?) {
    guard let old else { return }
    flock(old.descriptor, LOCK_UN)
    close(old.descriptor)
  }

  private static func device(_ path: String, _ place: String) throws(OutputError) -> Int32 {
    let descriptor = unsafe open(place, O_RDWR | O_CLOEXEC | O_EXCL)
    guard descriptor < 0 else { return descriptor }
    let code = errno
    let user =
      code == EBUSY ? FileIdentity(path: place).flatMap { FileUsers.user(ofDevice: $0) } : nil
    throw OutputError(BlockIOError(.open, path: path, code: code, user: user))
  }

  /// The old file, open for writing so that a user without permission gets an error, and locked.
  private static func claimed(_ place: String, _ path: String) throws(OutputError)
    -> (info: stat, descriptor: Int32)
  {
    let descriptor = unsafe open(place, O_WRONLY | O_CLOEXEC)
    var info = stat()
    guard descriptor >= 0, unsafe fstat(descriptor, &info) == 0 else {
      throw OutputError(BlockIOError(.open, path: path, code: errno))
    }
    do throws(BlockIOError) {
      _ = try OpenFile.claim(descriptor, path: path, readOnly: false)
    } catch {
      close(descriptor)
      throw OutputError(error)
    }
    return (info, descriptor)
  }

  private static func unfinished(_ place: String, _ path: String, isEmpty: Bool)
    throws(OutputError) -> OpenFile
  {
    // Other users cannot read it before it has its final mode.
    let descriptor = unsafe open(place, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw OutputError(BlockIOError(.create, path: path, code: errno))
    }
    var info = stat()
    do throws(BlockIOError) {
      guard unsafe fstat(descriptor, &info) == 0, info.st_mode & S_IFMT == S_IFREG,
        info.st_uid == geteuid()
      else {
        throw BlockIOError(
          .create, path: path, code: EPERM, detail: "it is not a regular file of this user")
      }
      _ = try OpenFile.claim(descriptor, path: path, readOnly: false)
      if isEmpty, ftruncate(descriptor, 0) != 0 {
        throw BlockIOError(.write, path: path, code: errno)
      }
    } catch {
      close(descriptor)
      throw OutputError(error)
    }
    return OpenFile(adopting: descriptor, path: path)
  }

  /// Size in bytes: that of a device, or that of the unfinished file.
  public func byteCount() throws(BlockIOError) -> UInt64 {
    guard isBlockDevice else { return try file.byteCount() }
    var bytes: UInt64 = 0
    guard unsafe dmthin_block_device_bytes(file.descriptor, &bytes) == 0 else {
      throw BlockIOError(.size, path: path, code: errno)
    }
    return bytes
  }

  /// Whether the first `byteCount` bytes of a device are zeros.
  public func isBlank(_ byteCount: Int) throws(BlockIOError) -> Bool {
    let count = Int(min(UInt64(byteCount), try self.byteCount()))
    let buffer = AlignedBuffer(holding: count)
    try unsafe file.read(
      into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<count]), at: 0)
    return unsafe buffer.bytes.isAllZero
  }

  /// Sets the size of a file; what is added is a hole. Does nothing for a device.
  public func setSize(_ byteCount: UInt64) throws(BlockIOError) {
    guard !isBlockDevice else { return }
    guard byteCount <= UInt64(Int64.max), ftruncate(file.descriptor, off_t(byteCount)) == 0 else {
      throw BlockIOError(.write, path: file.path, code: byteCount <= Int64.max ? errno : EFBIG)
    }
  }

  /// Writes a piece.
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try unsafe file.write(bytes, at: offset)
  }

  /// Has a range of a device read as zeros, and gives its space back if the device can. A file has holes
  /// there.
  public func zero(_ range: Range<UInt64>) throws(BlockIOError) {
    guard isBlockDevice, !range.isEmpty else { return }
    // The kernel does not end a call early, so that a long one could not be interrupted.
    var at = range.lowerBound
    while at < range.upperBound {
      let count = min(range.upperBound - at, 1 << 30)
      if dmthin_block_device_zero(file.descriptor, at, count) != 0 {
        try file.writeZeros(at..<(at + count))
      }
      at += count
    }
  }

  /// Returns once everything written is durable.
  public func flush() throws(BlockIOError) {
    try FileReplacement.sync(file.descriptor, file.path)
  }

  /// Gives a file its name, durably, in place of an old one, whose mode and owner it gets.
  public func commit() throws(BlockIOError) {
    if let old { FileReplacement.keepOwner(old.info, file.descriptor) }
    try flush()
    guard !isBlockDevice else { return }
    guard unsafe rename(unfinished, place) == 0 else {
      throw BlockIOError(.replace, path: path, code: errno)
    }
    try FileReplacement.sync(folder: OutputPath.folder(of: place))
  }
}
