import BlockIO
import Glibc
public import ThinTools

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

  /// A folder, which is made when it is needed.
  public init(_ path: String = "/run/dmthin") { self.path = path }

  /// The folder for the devices of a server, beside its control socket. It ends with the server.
  public init(control: String) { path = "\(control).run" }

  /// The path of a pool's file. A pool's name has no slash.
  func path(_ pool: String, _ kind: Kind) -> String { "\(path)/\(pool)\(kind.suffix)" }

  /// Names of pools that have a file of `kind`, ascending.
  /// - Throws: where others could have put files there.
  func pools(with kind: Kind) throws(ToolError) -> [String] {
    try names().filter { $0.hasSuffix(kind.suffix) }
      .map { String($0.dropLast(kind.suffix.count)) }.sorted()
  }

  private func names() throws(ToolError) -> [String] {
    guard let folder = try existing() else { return [] }
    return try Self.trusted { () throws(TrustedFolder.Fault) in try folder.names() }
  }

  /// Removes the folder with the files that verbs make; anything else in it stays, and the folder then
  /// does too.
  /// - Throws: where others may write to it; nothing is removed then.
  public func clear() throws(ToolError) {
    guard let folder = try existing() else { return }
    let suffixes = Kind.allCases.map(\.suffix) + [TrustedFolder.unfinishedSuffix]
    for name in try names() where suffixes.contains(where: name.hasSuffix) { folder.remove(name) }
    TrustedFolder.remove(path)
  }

  /// What a pool's file has; nil where there is none, nothing where it cannot be read or is too large.
  /// - Throws: where others could have written it.
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

  /// Writes a pool's file, so that after a crash of this process there is the old one or the new.
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

  /// The open folder; nil where there is none.
  /// - Throws: where others could have made it, or may write to it.
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
    let folder = try made()
    let fd = try Self.trusted { () throws(TrustedFolder.Fault) in
      try folder.openFile(pool + Kind.lock.suffix, O_RDWR | O_CREAT)
    }
    let lock = Lock(fd)
    for turn in 0...(seconds * 50) {
      if flock(fd, LOCK_EX | LOCK_NB) == 0 { return lock }
      guard errno == EWOULDBLOCK || errno == EINTR else {
        throw ToolError(
          .unexpected, "cannot lock \(path(pool, .lock)): \(String(cString: strerror(errno)))")
      }
      if turn < seconds * 50 { usleep(20_000) }
    }
    return nil
  }
}
