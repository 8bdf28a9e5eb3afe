import BlockIO

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
      // Below a folder that others may change, nothing is made.
      guard (try? TrustedFolder.own(folder, makes: true)) != nil else { return }
    }
  }
}
