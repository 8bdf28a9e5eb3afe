import Glibc

/// Folders for sockets in /run, which is empty after a boot.
enum RuntimeFolder {
  private static let top = "/run/"

  /// Makes the folder that a socket at `path` is to be in, for this user alone, where it is missing and
  /// below `top`. Elsewhere a folder that is missing is a mistake, and what fails here shows when the
  /// socket is made.
  static func make(for path: String, top: String = top) {
    guard path.hasPrefix(top) else { return }
    var folder = top
    for part in path.dropFirst(top.count).split(separator: "/").dropLast() {
      guard part != "..", part != "." else { return }
      folder += "\(part)/"
      // What is there stays as it is, a link included: it is for those who may write here.
      if mkdir(folder, 0o700) != 0, errno != EEXIST { return }
    }
  }
}
