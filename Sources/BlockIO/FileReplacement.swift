import CDMThin
import Glibc

/// A regular file that takes the place of another, or of none, as a whole: it is written aside, in the
/// same folder, and renamed when it is durable. Until then, and where anything fails, there is what was.
///
/// Without a name where the file system can do that, so that nothing is left of a program that is killed.
/// Where the folder takes no new file, or the file is a mount of its own, the text is kept in
/// `TemporarySpace` and copied into the file at the end, as one that is known to be whole.
final class FileReplacement {
  /// What is written; owned by the object.
  let descriptor: Int32
  private let path: String
  /// What is replaced, and its descriptor, open for writing; nil where there is nothing.
  private let old: (info: stat, descriptor: Int32)?
  private let folder: String
  /// The new file's name, where it has one.
  private var temporaryName: String?
  /// Whether it is copied into the old one.
  private let isCopied: Bool

  /// Begins a file that is to be at `path`, which is no link.
  /// - Parameters:
  ///   - old: what there is, open for writing; becomes the object's.
  ///   - copies: write into the old file at the end, rather than replacing it.
  init(at path: String, old: (info: stat, descriptor: Int32)?, copies: Bool) throws(BlockIOError) {
    self.path = path
    self.old = old
    folder = OutputPath.folder(of: path)
    // Nobody else reads it before it is whole and has its mode.
    let mode: mode_t = old == nil ? 0o666 : 0o600
    var made: Int32 = -1
    var code: Int32 = 0
    if !copies {
      made = dmthin_unnamed_file(folder, mode)
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
    if let temporaryName { unlink(temporaryName) }
    if let old {
      flock(old.descriptor, LOCK_UN)
      close(old.descriptor)
    }
  }

  private static func temporaryName(in folder: String, for name: String) -> String {
    // A name may have 255 bytes.
    let start = String(decoding: name.utf8.prefix(200), as: UTF8.self)
    return "\(folder)/.\(start).\(String(UInt64.random(in: .min ... .max), radix: 36)).new"
  }

  private static func makeNamed(in folder: String, for name: String, _ mode: mode_t)
    -> (Int32, String?)
  {
    for _ in 0..<100 {
      let path = Self.temporaryName(in: folder, for: name)
      let made = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode)
      if made >= 0 { return (made, path) }
      if errno != EEXIST { return (-1, nil) }
    }
    return (-1, nil)
  }

  /// Puts the new file in the old one's place, durably.
  /// - Throws: `BlockIOError`; the old file is what it was, unless the message says otherwise.
  func commit() throws(BlockIOError) {
    if isCopied { return try copy() }
    if let old {
      // The owner first: a change of it takes bits of the mode away. Who may not keep it does not.
      _ = fchown(descriptor, old.info.st_uid, old.info.st_gid)
      fchmod(descriptor, old.info.st_mode & 0o777)
    }
    try sync(descriptor, path)
    if temporaryName == nil { temporaryName = try named() }
    let name = temporaryName ?? ""
    guard rename(name, path) == 0 else {
      let code = errno
      // A mount of its own, or somebody else's file in a folder like /tmp.
      if old != nil, [EBUSY, EPERM, EACCES].contains(code) { return try copy() }
      throw BlockIOError(.replace, path: path, code: code)
    }
    temporaryName = nil
    let place = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    // A folder that may be written but not read cannot be synced.
    guard place >= 0 else { return }
    defer { close(place) }
    // Some file systems have nothing to sync in a folder.
    if fsync(place) != 0 && errno != EINVAL {
      throw BlockIOError(.flush, path: folder, code: errno)
    }
  }

  /// Gives a file without a name one.
  private func named() throws(BlockIOError) -> String {
    for _ in 0..<100 {
      let name = Self.temporaryName(in: folder, for: OutputPath.name(of: path))
      if linkat(AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0 {
        return name
      }
      if errno != EEXIST { break }
    }
    throw BlockIOError(.replace, path: path, code: errno)
  }

  private func sync(_ descriptor: Int32, _ path: String) throws(BlockIOError) {
    while fsync(descriptor) != 0 {
      if errno != EINTR { throw BlockIOError(.flush, path: path, code: errno) }
    }
  }

  /// Writes what is whole by now over the old file, which gets the space for it first.
  private func copy() throws(BlockIOError) {
    guard let old else { return }
    var info = stat()
    guard fstat(descriptor, &info) == 0 else {
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
      let piece = UnsafeMutableRawBufferPointer(
        rebasing: buffer.bytes[..<min(buffer.bytes.count, Int(count - done))])
      try source.read(into: piece, at: UInt64(done))
      try target.write(UnsafeRawBufferPointer(piece), at: UInt64(done))
      done += off_t(piece.count)
    }
    guard ftruncate(old.descriptor, count) == 0 else {
      throw BlockIOError(.write, path: path, code: errno)
    }
    try sync(old.descriptor, path)
  }
}
