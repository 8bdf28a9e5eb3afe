public import BlockIO
import Glibc

/// The folder in which running servers are found: `control` is the control socket of a server for
/// all pools, `NAME/control` that of a server with its own folder.
///
/// It is used only if no other user may write to it, because a program trusts the server there.
public struct ServerFolder: Sendable {
  /// Its path.
  public let path: String

  /// A folder, which may be missing.
  public init(_ path: String) { self.path = path }

  /// The default: `DMTHIN_RUN`, /run/dmthin for root, and `dmthin` in `XDG_RUNTIME_DIR` for other
  /// users. Nil if none of these is known.
  public static var usual: ServerFolder? {
    func variable(_ name: String) -> String? {
      unsafe getenv(name).map { unsafe String(cString: $0) }.flatMap {
        $0.hasPrefix("/") ? $0 : nil
      }
    }
    if let path = variable("DMTHIN_RUN") { return ServerFolder(path) }
    if geteuid() == 0 { return ServerFolder("/run/dmthin") }
    return variable("XDG_RUNTIME_DIR").map { ServerFolder("\($0)/dmthin") }
  }

  /// The control socket of a server for all pools.
  public var commonControl: String { "\(path)/control" }

  /// The control sockets in the folder, ascending. A server may no longer listen there.
  /// - Throws: if other users may write to the folder.
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

  /// The folder of a server that is started for one pool.
  public func ownFolder(pool: String) -> String {
    // A socket's path has at most 108 bytes.
    let isPlain = pool.utf8.count <= 48 && !pool.hasPrefix(".")
    return "\(path)/\(isPlain ? pool : String(Digest(pool.utf8).value, radix: 16)).served"
  }
}
