import CDMThin
public import Glibc

/// A folder that is open, reached without being led astray by others: a symbolic link on the way is
/// followed only where nobody but root and this user can have put it.
///
/// What is in it is named relative to the open folder, so that it stays the same folder whatever happens
/// to its path meanwhile.
public final class TrustedFolder {
  /// Why a folder, or a file in one, is not used.
  public struct Fault: Error, Equatable, Sendable, CustomStringConvertible {
    /// The system's error number; EPERM for what is there and not to be trusted.
    public let code: Int32
    /// A sentence with what to do.
    public let description: String
    /// Whether it is there, and somebody else could have made or changed it.
    public var isDistrust: Bool { code == EPERM }

    fileprivate init(_ code: Int32, _ description: String) {
      (self.code, self.description) = (code, description)
    }

    fileprivate init(_ verb: String, _ path: String) {
      let code = errno
      // EPERM says something else here.
      self.init(
        code == EPERM ? EACCES : code, "cannot \(verb) \(path): \(String(cString: strerror(code)))")
    }
  }

  /// Links on the way to a folder are no more.
  private static let linksMax = 40

  /// What messages call it.
  public let path: String
  /// The open folder: good for names relative to it, not for reading it.
  public let descriptor: Int32

  private init(_ path: String, _ descriptor: Int32) {
    (self.path, self.descriptor) = (path, descriptor)
  }

  deinit { close(descriptor) }

  // MARK: - Opening

  /// The folder at `path`, whoever it belongs to.
  /// - Throws: `Fault`; ENOENT where there is none.
  public convenience init(reaching path: String) throws(Fault) {
    self.init(path, try Self.reach(path))
  }

  /// The folder in which `path` names something, and that name.
  /// - Throws: `Fault`; EINVAL where the path ends with no name.
  public static func parent(of path: String) throws(Fault) -> (folder: TrustedFolder, name: String)
  {
    let (parent, name) = try split(path)
    return (try TrustedFolder(reaching: parent), name)
  }

  /// The folder at `path`, which is a folder and no link to one, belongs to root or this user, and in
  /// which nobody else may write.
  /// - Parameter makes: make it where there is none, for this user alone.
  /// - Throws: `Fault`; ENOENT where there is none.
  public static func own(_ path: String, makes: Bool = false) throws(Fault) -> TrustedFolder {
    let (parent, name): (TrustedFolder, String)
    do throws(Fault) {
      (parent, name) = try Self.parent(of: path)
    } catch {
      guard makes, !error.isDistrust else { throw error }
      throw Fault(
        error.code, "cannot create \(path): \(String(cString: strerror(error.code)))")
    }
    if makes, mkdirat(parent.descriptor, name, 0o700) != 0, errno != EEXIST {
      throw Fault("create", path)
    }
    let descriptor = openat(parent.descriptor, name, Self.flags)
    guard descriptor >= 0 else {
      guard errno == ENOTDIR || errno == ELOOP else { throw Fault("open", path) }
      throw Fault(
        EPERM, "\(path) is no folder, or a symbolic link to one, which is not followed: remove it")
    }
    let folder = TrustedFolder(path, descriptor)
    var info = stat()
    guard fstat(descriptor, &info) == 0 else { throw Fault("open", path) }
    try requireOurs(info, path, "choose a place where only this user may write, or remove it")
    return folder
  }

  /// The same; it is made where it is missing, and so are the folders on the way to it. Others must not be
  /// able to put another folder in its place either: the one that it is in is no one's where they may rename.
  public static func made(_ path: String) throws(Fault) -> TrustedFolder {
    do throws(Fault) {
      let folder = try own(path, makes: true)
      guard try !parent(of: path).folder.letsOthersReplace else {
        throw Fault(
          EPERM,
          "others could put another folder in place of \(path), so it is not used: choose a place where "
            + "only this user may write")
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
      unlinkat(parent.descriptor, name, AT_REMOVEDIR)
    }
  }

  private static var flags: Int32 { dmthin_o_path | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC }

  private static func split(_ path: String) throws(Fault) -> (String, String) {
    var bytes = Array(path.utf8)
    while bytes.count > 1, bytes.last == UInt8(ascii: "/") { bytes.removeLast() }
    let slash = bytes.lastIndex(of: UInt8(ascii: "/"))
    let name = String(decoding: bytes[(slash.map { $0 + 1 } ?? 0)...], as: UTF8.self)
    guard !name.isEmpty, name != ".", name != ".." else {
      throw Fault(EINVAL, "'\(path)' ends with no name")
    }
    guard let slash else { return (".", name) }
    return (slash == 0 ? "/" : String(decoding: bytes[..<slash], as: UTF8.self), name)
  }

  /// Walks along a path; gives the folder that it ends with.
  private static func reach(_ path: String) throws(Fault) -> Int32 {
    var current = open(path.hasPrefix("/") ? "/" : ".", flags)
    guard current >= 0 else { throw Fault("open", path) }
    // The next part is the last.
    var parts = Array(path.split(separator: "/").map(String.init).reversed())
    var links = 0
    do throws(Fault) {
      while let part = parts.popLast() {
        if part == "." { continue }
        let next = openat(current, part, flags)
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
          let root = open("/", flags)
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

  /// Where a link leads that only root or this user can have made.
  private static func trustedLink(_ folder: Int32, _ name: String, _ path: String) throws(Fault)
    -> String
  {
    var info = stat()
    var parent = stat()
    guard fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) == 0, fstat(folder, &parent) == 0 else {
      throw Fault("open", path)
    }
    guard info.st_mode & S_IFMT == S_IFLNK else {
      errno = ENOTDIR
      throw Fault("open", path)
    }
    // In a folder with the sticky bit names belong to those who made them.
    let isSticky = parent.st_mode & S_ISVTX != 0
    guard
      isOurs(parent.st_uid)
        && (!othersMayWrite(parent) || isSticky && isOurs(info.st_uid))
    else {
      throw Fault(
        EPERM,
        "\(path): '\(name)' is a symbolic link in a folder where others may write, and is not "
          + "followed; give the path that it stands for")
    }
    var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = readlinkat(folder, name, &bytes, bytes.count)
    guard count > 0, count < bytes.count else { throw Fault("open", path) }
    return String(decoding: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  // MARK: - Whose it is

  private static func isOurs(_ user: uid_t) -> Bool { user == 0 || user == geteuid() }
  private static func othersMayWrite(_ info: stat) -> Bool { info.st_mode & 0o022 != 0 }

  private static func requireOurs(_ info: stat, _ path: String, _ advice: String) throws(Fault) {
    guard isOurs(info.st_uid) else {
      throw Fault(
        EPERM, "\(path) belongs to user \(info.st_uid), not to this one, and is not used: \(advice)"
      )
    }
    guard !othersMayWrite(info) else {
      let mode = String(info.st_mode & 0o7777, radix: 8)
      throw Fault(EPERM, "others may write to \(path) (mode \(mode)), so it is not used: \(advice)")
    }
  }

  /// Whether others could put something else in place of what root or this user has made here.
  public var letsOthersReplace: Bool {
    var info = stat()
    guard fstat(descriptor, &info) == 0 else { return true }
    // A group that has this user alone is common, and no other's.
    let isOpen = info.st_mode & 0o002 != 0 || info.st_mode & 0o020 != 0 && info.st_gid != getegid()
    return !Self.isOurs(info.st_uid) || isOpen && info.st_mode & S_ISVTX == 0
  }

  // MARK: - What is in it

  /// Names in it, in no order, without `.` and `..`.
  /// - Throws: `Fault` where it cannot be read.
  public func names() throws(Fault) -> [String] {
    let readable = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else { throw Fault("read", path) }
    guard let list = fdopendir(readable) else {
      close(readable)
      throw Fault("read", path)
    }
    return Folder.names(of: list)
  }

  /// What a name stands for, itself if it is a link; nil where there is nothing.
  public func status(_ name: String) -> stat? {
    var info = stat()
    return fstatat(descriptor, name, &info, AT_SYMLINK_NOFOLLOW) == 0 ? info : nil
  }

  /// Opens a regular file that belongs to root or this user and that nobody else may write to. A link is
  /// not followed, and nothing is waited for.
  /// - Parameter flags: of open(2), besides those that this takes.
  /// - Throws: `Fault`; ENOENT where there is none and none is made.
  public func openFile(_ name: String, _ flags: Int32) throws(Fault) -> Int32 {
    let place = "\(path)/\(name)"
    let fd = openat(descriptor, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0o600)
    guard fd >= 0 else {
      guard errno == ELOOP else { throw Fault(flags & O_CREAT == 0 ? "open" : "create", place) }
      throw Fault(EPERM, "\(place) is a symbolic link, which is not followed: remove it")
    }
    var info = stat()
    do throws(Fault) {
      guard fstat(fd, &info) == 0 else { throw Fault("open", place) }
      guard info.st_mode & S_IFMT == S_IFREG else {
        throw Fault(EPERM, "\(place) is no regular file: remove it")
      }
      try Self.requireOurs(info, place, "look at what it says, and remove it")
    } catch {
      close(fd)
      throw error
    }
    return fd
  }

  /// Removes a name, whatever it stands for; true if it was there.
  @discardableResult
  public func remove(_ name: String) -> Bool { unlinkat(descriptor, name, 0) == 0 }

  /// Gives a file another name here, in place of what has that name.
  /// - Throws: `Fault`.
  public func rename(_ name: String, to other: String) throws(Fault) {
    guard renameat(descriptor, name, descriptor, other) == 0 else {
      throw Fault("write", "\(path)/\(other)")
    }
  }

  /// Makes a file, or replaces it: after a crash there is the old one or the new.
  /// - Throws: `Fault`; the old one is there then.
  public func replace(_ name: String, with text: String) throws(Fault) {
    let temporary = name + Self.unfinishedSuffix
    // One that was not finished.
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

  /// Comes after the name of a file that is not whole yet.
  public static let unfinishedSuffix = ".new"

  /// Has the names in it be there after a power cut, as far as the file system can; false where it could
  /// not.
  @discardableResult
  public func sync() -> Bool {
    let readable = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard readable >= 0 else { return false }
    defer { close(readable) }
    return fsync(readable) == 0
  }
}
