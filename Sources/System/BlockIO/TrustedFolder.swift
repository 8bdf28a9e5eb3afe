import CDMThin
public import Glibc

/// An open folder whose path other users cannot redirect: a symbolic link on the way is followed
/// only if no one but root and this user can have made it.
///
/// Names are resolved relative to the open folder, so that it stays the same folder if its path
/// changes.
public final class TrustedFolder {
  /// Why a folder, or a file in one, is refused.
  public struct Fault: Error, Equatable, Sendable, CustomStringConvertible {
    /// The system's error number; EPERM if it exists but cannot be trusted.
    public let code: Int32
    /// A sentence with advice.
    public let description: String
    /// Whether it exists, but another user could have made or changed it.
    public var isDistrust: Bool { code == EPERM }

    fileprivate init(_ code: Int32, _ description: String) {
      (self.code, self.description) = (code, description)
    }

    fileprivate init(_ verb: String, _ path: String) {
      let code = errno
      // EPERM has the meaning above here.
      self.init(
        code == EPERM ? EACCES : code,
        unsafe "cannot \(verb) \(path): \(String(cString: strerror(code)))")
    }
  }

  /// The most links on the way to a folder.
  private static let linksMax = 40

  /// Its name in messages.
  public let path: String
  /// The open folder, usable for names relative to it, but not for reading it.
  public let descriptor: Int32

  private init(_ path: String, _ descriptor: Int32) {
    (self.path, self.descriptor) = (path, descriptor)
  }

  deinit { close(descriptor) }

  // MARK: - Opening

  /// Opens the folder at `path`, of any owner.
  /// - Throws: `Fault`; ENOENT if it does not exist.
  public convenience init(reaching path: String) throws(Fault) {
    self.init(path, try Self.reach(path))
  }

  /// The folder and the last component of `path`.
  /// - Throws: `Fault`; EINVAL if the path has no last component.
  public static func parent(of path: String) throws(Fault) -> (folder: TrustedFolder, name: String)
  {
    let (parent, name) = try split(path)
    return (try TrustedFolder(reaching: parent), name)
  }

  /// Opens the folder at `path`. It must be a folder and not a link, belong to root or this user,
  /// and not be writable by other users.
  /// - Parameter makes: whether to create it if it is missing, for this user only.
  /// - Throws: `Fault`; ENOENT if it does not exist.
  public static func own(_ path: String, makes: Bool = false) throws(Fault) -> TrustedFolder {
    let (parent, name): (TrustedFolder, String)
    do throws(Fault) {
      (parent, name) = try Self.parent(of: path)
    } catch {
      guard makes, !error.isDistrust else { throw error }
      throw Fault(
        error.code, unsafe "cannot create \(path): \(String(cString: strerror(error.code)))")
    }
    if makes, unsafe mkdirat(parent.descriptor, name, 0o700) != 0, errno != EEXIST {
      throw Fault("create", path)
    }
    let descriptor = unsafe openat(parent.descriptor, name, Self.flags)
    guard descriptor >= 0 else {
      guard errno == ENOTDIR || errno == ELOOP else { throw Fault("open", path) }
      throw Fault(
        EPERM,
        "\(path) is not a folder, or a symbolic link to one, which is not followed: remove it")
    }
    let folder = TrustedFolder(path, descriptor)
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else { throw Fault("open", path) }
    try requireOurs(info, path, "choose a place that only this user may write to, or remove it")
    return folder
  }

  /// Opens the folder as `own` does; creates it, and the folders on the way, if they are missing.
  /// Also requires that other users cannot rename it: its parent must not be writable by them.
  public static func made(_ path: String) throws(Fault) -> TrustedFolder {
    do throws(Fault) {
      let folder = try own(path, makes: true)
      guard try !parent(of: path).folder.letsOthersReplace else {
        throw Fault(
          EPERM,
          "other users could replace \(path), so it is not used: choose a place that only this user may "
            + "write to")
      }
      return folder
    } catch {
      guard error.code == ENOENT, let slash = path.lastIndex(of: "/"), slash > path.startIndex
      else { throw error }
      _ = try made(String(path[..<slash]))
      return try own(path, makes: true)
    }
  }

  /// Removes the folder at `path` if it is empty.
  public static func remove(_ path: String) {
    if let (parent, name) = try? parent(of: path) {
      unsafe unlinkat(parent.descriptor, name, AT_REMOVEDIR)
    }
  }

  private static var flags: Int32 { dmthin_o_path | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC }

  private static func split(_ path: String) throws(Fault) -> (String, String) {
    var bytes = Array(path.utf8)
    while bytes.count > 1, bytes.last == UInt8(ascii: "/") { bytes.removeLast() }
    let slash = bytes.lastIndex(of: UInt8(ascii: "/"))
    let name = String(decoding: bytes[(slash.map { $0 + 1 } ?? 0)...], as: UTF8.self)
    guard !name.isEmpty, name != ".", name != ".." else {
      throw Fault(EINVAL, "'\(path)' has no last component")
    }
    guard let slash else { return (".", name) }
    return (slash == 0 ? "/" : String(decoding: bytes[..<slash], as: UTF8.self), name)
  }

  /// Walks along a path and returns the folder at its end.
  private static func reach(_ path: String) throws(Fault) -> Int32 {
    var current = unsafe open(path.hasPrefix("/") ? "/" : ".", flags)
    guard current >= 0 else { throw Fault("open", path) }
    // The next component is the last element.
    var parts = Array(path.split(separator: "/").map(String.init).reversed())
    var links = 0
    do throws(Fault) {
      while let part = parts.popLast() {
        if part == "." { continue }
        let next = unsafe openat(current, part, flags)
        if next >= 0 {
          close(current)
          current = next
          continue
        }
        guard errno == ENOTDIR || errno == ELOOP else { throw Fault("open", path) }
        let target = try trustedLink(current, part, path)
        links += 1
        guard links <= linksMax else {
          errno = ELOOP
          throw Fault("open", path)
        }
        parts += target.split(separator: "/").map(String.init).reversed()
        if target.hasPrefix("/") {
          let root = unsafe open("/", flags)
          guard root >= 0 else { throw Fault("open", path) }
          close(current)
          current = root
        }
      }
    } catch {
      close(current)
      throw error
    }
    return current
  }

  /// The target of a link that only root or this user can have made.
  private static func trustedLink(_ folder: Int32, _ name: String, _ path: String) throws(Fault)
    -> String
  {
    var info = stat()
    var parent = stat()
    guard unsafe fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) == 0,
      unsafe fstat(folder, &parent) == 0
    else {
      throw Fault("open", path)
    }
    guard info.st_mode & S_IFMT == S_IFLNK else {
      errno = ENOTDIR
      throw Fault("open", path)
    }
    // In a folder with the sticky bit, only the owner can rename an entry.
    let isSticky = parent.st_mode & S_ISVTX != 0
    guard
      isOurs(parent.st_uid)
        && (!othersMayWrite(parent) || isSticky && isOurs(info.st_uid))
    else {
      throw Fault(
        EPERM,
        "\(path): '\(name)' is a symbolic link in a folder that other users may write to, and is not "
          + "followed; give the path that it stands for")
    }
    var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = unsafe readlinkat(folder, name, &bytes, bytes.count)
    guard count > 0, count < bytes.count else { throw Fault("open", path) }
    return String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  // MARK: - Ownership

  private static func isOurs(_ user: uid_t) -> Bool { user == 0 || user == geteuid() }
  private static func othersMayWrite(_ info: stat) -> Bool { info.st_mode & 0o022 != 0 }

  private static func requireOurs(_ info: stat, _ path: String, _ advice: String) throws(Fault) {
    guard isOurs(info.st_uid) else {
      throw Fault(
        EPERM,
        "\(path) belongs to user \(info.st_uid), not to this user, and is not used: \(advice)"
      )
    }
    guard !othersMayWrite(info) else {
      let mode = String(info.st_mode & 0o7777, radix: 8)
      throw Fault(
        EPERM, "other users may write to \(path) (mode \(mode)), so it is not used: \(advice)")
    }
  }

  /// Whether other users could replace what root or this user has made here.
  public var letsOthersReplace: Bool {
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else { return true }
    // A group whose only member is this user is common, and allowed.
    let isOpen = info.st_mode & 0o002 != 0 || info.st_mode & 0o020 != 0 && info.st_gid != getegid()
    return !Self.isOurs(info.st_uid) || isOpen && info.st_mode & S_ISVTX == 0
  }

  // MARK: - Content

  /// Names in it, unsorted, without `.` and `..`.
  /// - Throws: `Fault` if it cannot be read.
  public func names() throws(Fault) -> [String] {
    let readable = unsafe openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else { throw Fault("read", path) }
    guard let list = unsafe fdopendir(readable) else {
      close(readable)
      throw Fault("read", path)
    }
    return unsafe Folder.names(of: list)
  }

  /// The status of a name, of the link itself if it is one; nil if it does not exist.
  public func status(_ name: String) -> stat? {
    var info = stat()
    return unsafe fstatat(descriptor, name, &info, AT_SYMLINK_NOFOLLOW) == 0 ? info : nil
  }

  /// Opens a regular file that belongs to root or this user and that other users cannot write to.
  /// Does not follow a link, and does not block.
  /// - Parameter flags: flags of open(2), in addition to those used here.
  /// - Throws: `Fault`; ENOENT if it does not exist and is not created.
  public func openFile(_ name: String, _ flags: Int32) throws(Fault) -> Int32 {
    let place = "\(path)/\(name)"
    let fd = unsafe openat(descriptor, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0o600)
    guard fd >= 0 else {
      guard errno == ELOOP else { throw Fault(flags & O_CREAT == 0 ? "open" : "create", place) }
      throw Fault(EPERM, "\(place) is a symbolic link, which is not followed: remove it")
    }
    var info = stat()
    do throws(Fault) {
      guard unsafe fstat(fd, &info) == 0 else { throw Fault("open", place) }
      guard info.st_mode & S_IFMT == S_IFREG else {
        throw Fault(EPERM, "\(place) is not a regular file: remove it")
      }
      try Self.requireOurs(info, place, "read it, and remove it")
    } catch {
      close(fd)
      throw error
    }
    return fd
  }

  /// Removes an entry of any kind. Returns true if it existed.
  @discardableResult
  public func remove(_ name: String) -> Bool { unsafe unlinkat(descriptor, name, 0) == 0 }

  /// Renames an entry, replacing the one with the new name.
  /// - Throws: `Fault`.
  public func rename(_ name: String, to other: String) throws(Fault) {
    guard unsafe renameat(descriptor, name, descriptor, other) == 0 else {
      throw Fault("write", "\(path)/\(other)")
    }
  }

  /// Creates a file, or replaces it atomically: after a crash there is the old one or the new one.
  /// - Throws: `Fault`; the old file is unchanged then.
  public func replace(_ name: String, with text: String) throws(Fault) {
    let temporary = name + Self.unfinishedSuffix
    // Removes an incomplete file.
    remove(temporary)
    let file = try openFile(temporary, O_WRONLY | O_CREAT | O_EXCL)
    defer { close(file) }
    do throws(Fault) {
      let place = "\(path)/\(temporary)"
      do throws(BlockIOError) {
        let output = ByteSink(descriptor: file, path: place)
        try output.write(text)
        try output.flush()
      } catch {
        throw Fault(error.code, error.description)
      }
      guard fsync(file) == 0 else { throw Fault("write", place) }
      try rename(temporary, to: name)
    } catch {
      remove(temporary)
      throw error
    }
    guard sync() else { throw Fault("write", "\(path)/\(name)") }
  }

  /// The suffix of an incomplete file.
  public static let unfinishedSuffix = ".new"

  /// Makes the names durable, as far as the file system can. Returns false if it cannot.
  @discardableResult
  public func sync() -> Bool {
    let readable = unsafe openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else { return false }
    defer { close(readable) }
    return fsync(readable) == 0
  }
}
