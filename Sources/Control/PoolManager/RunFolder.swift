import BlockIO
import Glibc
public import ThinTools

/// The folder of files that verbs of several processes share. It is emptied by a reboot, which also
/// removes the devices. It has `KEY.lock`, `KEY.intent` and `KEY.lease`, where KEY is the number of
/// a pool's metadata device.
public struct RunFolder: Sendable {
  /// The kinds of a pool's files, and their suffixes.
  enum Kind: String, CaseIterable {
    /// Locked by the verb that works on the pool.
    case lock
    /// The change that a verb is making, and how to undo it (`Intent`).
    case intent
    /// The owner of the metadata snapshot (`Lease`).
    case lease

    fileprivate var suffix: String { ".\(rawValue)" }
  }

  /// Its path.
  public let path: String
  /// The largest file, in bytes.
  private static let bytesMax = 4 << 20

  /// A folder, which is created on first use.
  public init(_ path: String = "/run/dmthin") { self.path = path }

  /// The folder for the devices of a server, beside its control socket. The server removes it when
  /// it ends.
  public init(control: String) { path = "\(control).run" }

  /// The path of a pool's file. A pool's name has no slash.
  func path(_ pool: String, _ kind: Kind) -> String { "\(path)/\(pool)\(kind.suffix)" }

  /// Names of pools that have a file of `kind`, ascending.
  /// - Throws: if other users could have put files there.
  func pools(with kind: Kind) throws(ToolError) -> [String] {
    try names().filter { $0.hasSuffix(kind.suffix) }
      .map { String($0.dropLast(kind.suffix.count)) }.sorted()
  }

  private func names() throws(ToolError) -> [String] {
    guard let folder = try existing() else { return [] }
    return try Self.trusted { () throws(TrustedFolder.Fault) in try folder.names() }
  }

  /// Removes the files that verbs make, and the folder if it is empty then.
  /// - Throws: if other users may write to it; nothing is removed then.
  public func clear() throws(ToolError) {
    guard let folder = try existing() else { return }
    let suffixes = Kind.allCases.map(\.suffix) + [TrustedFolder.unfinishedSuffix]
    for name in try names() where suffixes.contains(where: name.hasSuffix) { folder.remove(name) }
    TrustedFolder.remove(path)
  }

  /// The text of a pool's file; nil if it is missing, empty if it is unreadable or too large.
  /// - Throws: if another user could have written it.
  func load(_ pool: String, _ kind: Kind) throws(ToolError) -> String? {
    guard let folder = try existing() else { return nil }
    let file: Int32
    do throws(TrustedFolder.Fault) {
      file = try folder.openFile(pool + kind.suffix, O_RDONLY)
    } catch {
      if error.code == ENOENT { return nil }
      throw Self.failure(error)
    }
    defer { close(file) }
    let bytes = try? WholeFile.bytes(of: file, path: path(pool, kind), upTo: Self.bytesMax)
    return String(decoding: bytes ?? [], as: UTF8.self)
  }

  /// Writes a pool's file atomically: after a crash of this process there is the old one or the new
  /// one.
  func save(_ text: String, _ pool: String, _ kind: Kind) throws(ToolError) {
    let name = pool + kind.suffix
    guard text.utf8.count <= Self.bytesMax else {
      throw ToolError(.refused, "\(path)/\(name) would be larger than \(Self.bytesMax) bytes")
    }
    let folder = try made()
    try Self.trusted { () throws(TrustedFolder.Fault) in try folder.replace(name, with: text) }
  }

  /// Removes a pool's file, if there is one.
  func remove(_ pool: String, _ kind: Kind) { _ = try? existing()?.remove(pool + kind.suffix) }

  /// The open folder; nil if it is missing.
  /// - Throws: if another user could have made it, or may write to it.
  private func existing() throws(ToolError) -> TrustedFolder? {
    do throws(TrustedFolder.Fault) {
      return try TrustedFolder.own(path)
    } catch {
      if error.code == ENOENT { return nil }
      throw Self.failure(error)
    }
  }

  private func made() throws(ToolError) -> TrustedFolder {
    try Self.trusted { () throws(TrustedFolder.Fault) in
      try TrustedFolder.own(path, makes: true)
    }
  }

  private static func trusted<R>(_ body: () throws(TrustedFolder.Fault) -> R) throws(ToolError)
    -> R
  {
    do throws(TrustedFolder.Fault) { return try body() } catch { throw failure(error) }
  }

  private static func failure(_ fault: TrustedFolder.Fault) -> ToolError {
    ToolError(fault.isDistrust ? .unsuitable(.input) : .unexpected, fault.description)
  }

  // MARK: - Locks

  /// A lock on a pool's verbs, released with this object or when the process ends.
  final class Lock {
    private let fd: Int32
    fileprivate init(_ fd: Int32) { self.fd = fd }
    deinit {
      // Unlocked explicitly, because a child that is being started has a copy of the descriptor.
      flock(fd, LOCK_UN)
      close(fd)
    }
  }

  /// Takes a pool's lock.
  /// - Parameter seconds: how long to wait for another verb.
  /// - Returns: nil if another verb still holds it.
  func lock(_ pool: String, seconds: Int) throws(ToolError) -> Lock? {
    let folder = try made()
    let fd = try Self.trusted { () throws(TrustedFolder.Fault) in
      try folder.openFile(pool + Kind.lock.suffix, O_RDWR | O_CREAT)
    }
    let lock = Lock(fd)
    for turn in 0...(seconds * 50) {
      if flock(fd, LOCK_EX | LOCK_NB) == 0 { return lock }
      guard errno == EWOULDBLOCK || errno == EINTR else {
        throw ToolError(
          .unexpected,
          unsafe "cannot lock \(path(pool, .lock)): \(String(cString: strerror(errno)))")
      }
      if turn < seconds * 50 { usleep(20_000) }
    }
    return nil
  }
}
