import BlockIO

/// Creates folders for sockets in /run, which is empty after a boot.
enum RuntimeFolder {
  private static let top = "/run/"

  /// Creates the folder of a socket at `path`, for this user only, if it is missing and below
  /// `top`. Elsewhere a missing folder is a mistake. Errors show when the socket is created.
  static func make(for path: String, top: String = top) {
    guard path.hasPrefix(top) else { return }
    var folder = top
    for part in path.dropFirst(top.count).split(separator: "/").dropLast() {
      guard part != "..", part != "." else { return }
      folder += "\(part)/"
      // Nothing is created below a folder that other users may change.
      guard (try? TrustedFolder.own(folder, makes: true)) != nil else { return }
    }
  }
}
