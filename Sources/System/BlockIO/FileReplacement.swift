import CDMThin
import Glibc

/// Replaces a regular file atomically, or creates it: the new file is written in the same folder,
/// and renamed once it is durable. Until then, and on failure, the old file is unchanged.
///
/// The new file has no name if the file system supports that, so that a killed program leaves
/// nothing behind. If no new file can be created in the folder, or the file is a mount point, the
/// text is kept in `TemporarySpace`, and copied into the file once it is complete.
final class FileReplacement {
  /// The new file's descriptor, owned by the object.
  let descriptor: Int32
  private let path: String
  /// The old file and its descriptor, open for writing; nil if there is none.
  private let old: (info: stat, descriptor: Int32)?
  private let folder: String
  /// The new file's temporary name, if it has one.
  private var temporaryName: String?
  /// Whether it will be copied into the old file.
  private let isCopied: Bool

  /// Starts a file to be placed at `path`, which must not be a link.
  /// - Parameters:
  ///   - old: the old file, open for writing; the object takes it over.
  ///   - copies: whether to copy into the old file at the end instead of replacing it.
  init(at path: String, old: (info: stat, descriptor: Int32)?, copies: Bool) throws(BlockIOError) {
    self.path = path
    self.old = old
    folder = OutputPath.folder(of: path)
    // Other users cannot read it before it is complete and has its final mode.
    let mode: mode_t = old == nil ? 0o666 : 0o600
    var made: Int32 = -1
    var code: Int32 = 0
    if !copies {
      made = unsafe dmthin_unnamed_file(folder, mode)
      if made < 0 {
        (made, temporaryName) = Self.makeNamed(in: folder, for: OutputPath.name(of: path), mode)
        code = errno
      }
    }
    if made < 0 {
      guard old != nil else { throw BlockIOError(.create, path: path, code: code) }
      made = try TemporarySpace.open().descriptor
      isCopied = true
    } else {
      isCopied = false
    }
    descriptor = made
  }

  deinit {
    close(descriptor)
    if let temporaryName { unsafe unlink(temporaryName) }
    if let old {
      flock(old.descriptor, LOCK_UN)
      close(old.descriptor)
    }
  }

  private static func temporaryName(in folder: String, for name: String) -> String {
    // A name may have at most 255 bytes.
    let start = String(decoding: name.utf8.prefix(200), as: UTF8.self)
    return "\(folder)/.\(start).\(String(UInt64.random(in: .min ... .max), radix: 36)).new"
  }

  private static func makeNamed(in folder: String, for name: String, _ mode: mode_t)
    -> (Int32, String?)
  {
    for _ in 0..<100 {
      let path = Self.temporaryName(in: folder, for: name)
      let made = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode)
      if made >= 0 { return (made, path) }
      if errno != EEXIST { return (-1, nil) }
    }
    return (-1, nil)
  }

  /// Replaces the old file by the new one, durably.
  /// - Throws: `BlockIOError`; the old file is unchanged, unless the message says otherwise.
  func commit() throws(BlockIOError) {
    if isCopied { return try copy() }
    if let old { Self.keepOwner(old.info, descriptor) }
    try Self.sync(descriptor, path)
    if temporaryName == nil { temporaryName = try named() }
    let name = temporaryName ?? ""
    guard unsafe rename(name, path) == 0 else {
      let code = errno
      // A mount point, or another user's file in a folder like /tmp.
      if old != nil, [EBUSY, EPERM, EACCES].contains(code) { return try copy() }
      throw BlockIOError(.replace, path: path, code: code)
    }
    temporaryName = nil
    try Self.sync(folder: folder)
  }

  /// Gives a file the owner and the mode of the one whose place it takes.
  static func keepOwner(_ old: stat, _ descriptor: Int32) {
    // The owner first, because changing it clears bits of the mode. Without permission the owner is not
    // kept.
    _ = fchown(descriptor, old.st_uid, old.st_gid)
    fchmod(descriptor, old.st_mode & 0o777)
  }

  /// Makes the names in a folder durable.
  static func sync(folder: String) throws(BlockIOError) {
    let place = unsafe open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    // A folder that is writable but not readable cannot be synced.
    guard place >= 0 else { return }
    defer { close(place) }
    // Some file systems do not support syncing a folder.
    if fsync(place) != 0 && errno != EINVAL {
      throw BlockIOError(.flush, path: folder, code: errno)
    }
  }

  /// Gives a name to a file without one.
  private func named() throws(BlockIOError) -> String {
    for _ in 0..<100 {
      let name = Self.temporaryName(in: folder, for: OutputPath.name(of: path))
      if unsafe linkat(AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, name, AT_SYMLINK_FOLLOW)
        == 0
      {
        return name
      }
      if errno != EEXIST { break }
    }
    throw BlockIOError(.replace, path: path, code: errno)
  }

  /// Owner and mode are to be durable too, which a `Flush` leaves out.
  static func sync(_ descriptor: Int32, _ path: String) throws(BlockIOError) {
    while fsync(descriptor) != 0 {
      if errno != EINTR { throw BlockIOError(.flush, path: path, code: errno) }
    }
  }

  /// Copies the complete text over the old file, for which space is reserved first.
  private func copy() throws(BlockIOError) {
    guard let old else { return }
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else {
      throw BlockIOError(.size, path: TemporarySpace.description, code: errno)
    }
    let count = info.st_size
    if count > 0, dmthin_fallocate(old.descriptor, 0, 0, Int64(count)) != 0, errno != EOPNOTSUPP {
      let code = errno
      _ = ftruncate(old.descriptor, old.info.st_size)
      throw BlockIOError(.write, path: path, code: code)
    }
    let buffer = AlignedBuffer(count: 1 << 20)
    let target = OpenFile(adopting: old.descriptor, path: path)
    let source = OpenFile(adopting: descriptor, path: TemporarySpace.description)
    var done: off_t = 0
    while done < count {
      let piece = unsafe UnsafeMutableRawBufferPointer(
        rebasing: buffer.bytes[..<min(buffer.bytes.count, Int(count - done))])
      try unsafe source.read(into: piece, at: UInt64(done))
      try unsafe target.write(UnsafeRawBufferPointer(piece), at: UInt64(done))
      done += off_t(piece.count)
    }
    guard ftruncate(old.descriptor, count) == 0 else {
      throw BlockIOError(.write, path: path, code: errno)
    }
    try Self.sync(old.descriptor, path)
  }
}
