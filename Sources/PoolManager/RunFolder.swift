import BlockIO
import Glibc
import ThinTools

/// The folder in which verbs of several processes leave word for each other, gone after a reboot as
/// the devices are: `KEY.lock`, `KEY.intent` and `KEY.lease`, where KEY is the number of a pool's metadata
/// device.
public struct RunFolder: Sendable {
  /// What a pool's files are for, and how their names end.
  enum Kind: String, CaseIterable {
    /// Held by the verb that works on the pool.
    case lock
    /// What a verb is about to do, and how to go back (`Intent`).
    case intent
    /// Whose the metadata snapshot is (`Lease`).
    case lease

    fileprivate var suffix: String { ".\(rawValue)" }
  }

  /// Its path.
  public let path: String
  /// Bytes that a file here may have.
  private static let bytesMax = 4 << 20
  /// Comes after the name of a file that is not whole yet.
  private static let temporarySuffix = ".new"

  /// A folder, which is made when it is needed.
  public init(_ path: String = "/run/dmthin") { self.path = path }

  /// The folder for the devices of a server, beside its control socket. It ends with the server.
  public init(control: String) { path = "\(control).run" }

  /// The path of a pool's file. A pool's name has no slash.
  func path(_ pool: String, _ kind: Kind) -> String { "\(path)/\(pool)\(kind.suffix)" }

  /// Names of pools that have a file of `kind`, ascending.
  func pools(with kind: Kind) -> [String] {
    Folder.names(in: path).filter { $0.hasSuffix(kind.suffix) }
      .map { String($0.dropLast(kind.suffix.count)) }.sorted()
  }

  /// Removes the folder with the files that verbs make; anything else in it stays, and the folder then
  /// does too.
  public func clear() {
    let suffixes = Kind.allCases.map(\.suffix) + [Self.temporarySuffix]
    for name in Folder.names(in: path) where suffixes.contains(where: name.hasSuffix) {
      unlink("\(path)/\(name)")
    }
    rmdir(path)
  }

  /// What a pool's file has; nil where there is none, nothing where it cannot be read or is too large.
  func load(_ pool: String, _ kind: Kind) -> String? {
    do throws(BlockIOError) {
      let bytes = try WholeFile.bytes(
        at: path(pool, kind), upTo: Self.bytesMax, flags: O_NOFOLLOW)
      return String(decoding: bytes, as: UTF8.self)
    } catch {
      return error.operation == .open ? nil : ""
    }
  }

  /// Writes a pool's file, so that after a crash of this process there is the old one or the new.
  func save(_ text: String, _ pool: String, _ kind: Kind) throws(ToolError) {
    try make()
    let final = path(pool, kind)
    let temporary = final + Self.temporarySuffix
    guard text.utf8.count <= Self.bytesMax else {
      throw ToolError(.request, "\(final) would be larger than \(Self.bytesMax) bytes")
    }
    let fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard fd >= 0 else { throw Self.failure("create", temporary) }
    do throws(ToolError) {
      defer { close(fd) }
      try Self.write(text, fd, temporary)
      guard rename(temporary, final) == 0 else { throw Self.failure("write", final) }
    } catch {
      unlink(temporary)
      throw error
    }
    let folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if folder >= 0 {
      fsync(folder)
      close(folder)
    }
  }

  private static func write(_ text: String, _ fd: Int32, _ path: String) throws(ToolError) {
    do throws(BlockIOError) {
      let output = ByteSink(descriptor: fd, path: path)
      try output.write(text)
      try output.flush()
    } catch {
      throw ToolError(.inputOutput, error.description)
    }
    guard fsync(fd) == 0 else { throw failure("write", path) }
  }

  /// Removes a pool's file, if there is one.
  func remove(_ pool: String, _ kind: Kind) { unlink(path(pool, kind)) }

  private func make() throws(ToolError) {
    guard mkdir(path, 0o700) == 0 || errno == EEXIST else { throw Self.failure("create", path) }
  }

  private static func failure(_ verb: String, _ path: String) -> ToolError {
    ToolError(.inputOutput, "cannot \(verb) \(path): \(String(cString: strerror(errno)))")
  }

  // MARK: - Locks

  /// A lock on a pool's verbs, given up when it goes away or the process ends.
  final class Lock {
    private let fd: Int32
    fileprivate init(_ fd: Int32) { self.fd = fd }
    deinit {
      // By name: a child that is being started has a copy of the descriptor.
      flock(fd, LOCK_UN)
      close(fd)
    }
  }

  /// Takes a pool's lock.
  /// - Parameter seconds: how long to wait for a verb that has it.
  /// - Returns: nil where another has it still.
  func lock(_ pool: String, seconds: Int) throws(ToolError) -> Lock? {
    try make()
    let file = path(pool, .lock)
    let fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard fd >= 0 else { throw Self.failure("open", file) }
    let lock = Lock(fd)
    for turn in 0...(seconds * 50) {
      if flock(fd, LOCK_EX | LOCK_NB) == 0 { return lock }
      guard errno == EWOULDBLOCK || errno == EINTR else { throw Self.failure("lock", file) }
      if turn < seconds * 50 { usleep(20_000) }
    }
    return nil
  }
}
