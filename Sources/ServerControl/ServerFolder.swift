public import BlockIO
import Glibc

/// The folder in which servers are found without being told where: `control` is the control socket of a
/// server for all pools, `NAME/control` that of a server with a folder of its own.
///
/// It is used only where nobody else may write: what answers there is obeyed.
public struct ServerFolder: Sendable {
  /// Its path.
  public let path: String

  /// A folder, which need not be there.
  public init(_ path: String) { self.path = path }

  /// What `DMTHIN_RUN` says, for root /run/dmthin, and for other users `dmthin` of `XDG_RUNTIME_DIR`. Nil
  /// where none of these is known.
  public static var usual: ServerFolder? {
    func variable(_ name: String) -> String? {
      getenv(name).map { String(cString: $0) }.flatMap { $0.hasPrefix("/") ? $0 : nil }
    }
    if let path = variable("DMTHIN_RUN") { return ServerFolder(path) }
    if geteuid() == 0 { return ServerFolder("/run/dmthin") }
    return variable("XDG_RUNTIME_DIR").map { ServerFolder("\($0)/dmthin") }
  }

  /// The control socket of a server for all pools.
  public var commonControl: String { "\(path)/control" }

  /// Control sockets that are there, ascending; a server need not listen there any more.
  /// - Throws: where others may write to the folder.
  public func controls() throws(TrustedFolder.Fault) -> [String] {
    let folder: TrustedFolder
    do throws(TrustedFolder.Fault) {
      folder = try .own(path)
    } catch {
      if error.code == ENOENT { return [] }
      throw error
    }
    var found: [String] = []
    for name in try folder.names().sorted() {
      guard let info = folder.status(name) else { continue }
      switch info.st_mode & S_IFMT {
      case S_IFSOCK where name == "control": found.append(commonControl)
      case S_IFDIR:
        guard let inner = try? TrustedFolder.own("\(path)/\(name)"),
          let socket = inner.status("control"), socket.st_mode & S_IFMT == S_IFSOCK
        else { continue }
        found.append("\(path)/\(name)/control")
      default: continue
      }
    }
    return found
  }

  /// The folder of the server that is started for one pool.
  public func ownFolder(pool: String) -> String {
    // A socket's path has 108 bytes at most.
    let isPlain = pool.utf8.count <= 48 && !pool.hasPrefix(".")
    let digest = pool.utf8.reduce(0xcbf2_9ce4_8422_2325 as UInt64) {
      ($0 ^ UInt64($1)) &* 0x100_0000_01b3
    }
    return "\(path)/\(isPlain ? pool : String(digest, radix: 16)).served"
  }
}
