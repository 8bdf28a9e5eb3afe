import Glibc

/// A folder that is this user's alone, for small files that are believed: opened without following a
/// link, refused where it or a file in it is another user's or can be written by others. Files are
/// reached relative to it, so that nobody puts another folder in its place meanwhile.
public final class OwnFolder {
  private let descriptor: Int32
  /// As it was opened.
  public let path: String

  /// Opens a folder.
  /// - Parameter makes: it is made where it is missing, and the one that it is in.
  /// - Throws: `BlockIOError`; EPERM where it cannot be trusted.
  public init(_ path: String, makes: Bool) throws(BlockIOError) {
    if makes {
      if let slash = path.lastIndex(of: "/"), slash > path.startIndex {
        _ = mkdir(String(path[..<slash]), 0o755)
      }
      _ = mkdir(path, 0o700)
    }
    let fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard fd >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    var info = stat()
    guard fstat(fd, &info) == 0, Self.isOwn(info) else {
      close(fd)
      throw BlockIOError(
        .open, path: path, code: EPERM,
        detail: "it has to belong to this user, and nobody else may write to it")
    }
    descriptor = fd
    self.path = path
  }

  deinit { close(descriptor) }

  private static func isOwn(_ info: stat) -> Bool {
    info.st_uid == geteuid() && info.st_mode & 0o022 == 0
  }

  /// The text of a file; nil where there is none, or it is larger than `bytesMax` or not to be trusted.
  public func text(_ name: String, upTo bytesMax: Int) -> String? {
    let fd = openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var info = stat()
    guard fstat(fd, &info) == 0, info.st_mode & S_IFMT == S_IFREG, Self.isOwn(info),
      info.st_nlink == 1, info.st_size <= bytesMax
    else { return nil }
    var bytes = [UInt8](repeating: 0, count: bytesMax)
    let count = read(fd, &bytes, bytesMax)
    return count < 0 ? nil : String(validating: bytes[0..<count], as: UTF8.self)
  }

  /// Makes a file, or replaces it: after a crash there is the old one or the new.
  /// - Throws: `BlockIOError`; the old one is there then.
  public func replace(_ name: String, with text: String) throws(BlockIOError) {
    let temporary = name + ".new"
    unlinkat(descriptor, temporary, 0)
    let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC
    let fd = openat(descriptor, temporary, flags, 0o600)
    guard fd >= 0 else { throw fault(.open, name) }
    let bytes = Array(text.utf8)
    let isWritten = write(fd, bytes, bytes.count) == bytes.count && fsync(fd) == 0
    let code = errno
    close(fd)
    guard isWritten, renameat(descriptor, temporary, descriptor, name) == 0 else {
      let error = BlockIOError(.write, path: "\(path)/\(name)", code: isWritten ? errno : code)
      unlinkat(descriptor, temporary, 0)
      throw error
    }
    guard fsync(descriptor) == 0 else { throw fault(.flush, name) }
  }

  /// Removes a file, for good: also after a crash it is not there again.
  /// - Returns: whether it was there, and is gone.
  public func remove(_ name: String) -> Bool {
    unlinkat(descriptor, name, 0) == 0 && fsync(descriptor) == 0
  }

  private func fault(_ operation: BlockIOError.Operation, _ name: String) -> BlockIOError {
    BlockIOError(operation, path: "\(path)/\(name)", code: errno)
  }
}
