import BlockIO
import CDMThin
import Glibc

/// The file of a unix socket that was made here. It is named relative to its folder, which stays the same
/// folder whatever others do to its path.
final class SocketFile {
  private let place: Place
  private let identity: (device: UInt, inode: UInt)

  private init(_ place: Place, _ info: stat) {
    self.place = place
    identity = (UInt(info.st_dev), UInt(info.st_ino))
  }

  /// Removes the file, if it is still the one that was made.
  func remove() {
    guard let now = place.folder.status(place.name),
      (UInt(now.st_dev), UInt(now.st_ino)) == identity
    else { return }
    place.folder.remove(place.name)
  }

  /// Where a socket is to be made.
  struct Place {
    fileprivate let path: String
    fileprivate let folder: TrustedFolder
    fileprivate let name: String

    /// A place in a folder that is there.
    /// - Throws: `SystemError` where the way to it cannot be trusted, or leads nowhere.
    init(_ path: String) throws(SystemError) {
      do throws(TrustedFolder.Fault) {
        self.path = path
        (folder, name) = try TrustedFolder.parent(of: path)
      } catch {
        throw SystemError("open", error.code, sentence: error.description)
      }
    }

    /// The socket that was bound here.
    /// - Throws: `SystemError` where another is, or none.
    func made() throws(SystemError) -> SocketFile {
      guard let info = folder.status(name), info.st_mode & S_IFMT == S_IFSOCK,
        info.st_uid == geteuid()
      else {
        throw SystemError(
          "bind", EADDRINUSE, sentence: "something else was put there while the socket was made")
      }
      return SocketFile(self, info)
    }

    /// Removes a socket on which no process listens.
    /// - Throws: `SystemError`, EADDRINUSE, if the file is anything else.
    func removeStale() throws(SystemError) {
      guard let info = folder.status(name) else { return }
      guard info.st_mode & S_IFMT == S_IFSOCK else {
        throw inUse("there is something that is no socket; remove it, or give another path")
      }
      guard info.st_uid == 0 || info.st_uid == geteuid() else {
        throw inUse("a socket of user \(info.st_uid) is there; remove it, or give another path")
      }
      let probe = dmthin_stream_socket(AF_UNIX)
      guard probe >= 0 else { throw SystemError("socket", errno) }
      defer { Glibc.close(probe) }
      guard unsafe dmthin_connect_unix(probe, path) != 0, errno == ECONNREFUSED else {
        throw inUse("another server listens there")
      }
      guard folder.remove(name) else { throw SystemError("unlink", errno) }
    }

    private func inUse(_ sentence: String) -> SystemError {
      SystemError("bind", EADDRINUSE, sentence: sentence)
    }
  }
}
