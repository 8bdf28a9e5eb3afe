import Glibc

/// The folder beside a control socket in which its clients leave word for each other, as they do in
/// /run/dmthin for the kernel's devices. It ends with the server.
public struct RunFolderPath: Sendable {
  /// Its path: that of the socket, and `.run`.
  public let path: String

  /// The folder of a control socket.
  public init(control: String) { path = "\(control).run" }

  /// Removes the folder with the files that clients make; anything else in it stays, and the folder then
  /// does too.
  public func clear() {
    guard let folder = opendir(path) else { return }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if [".lock", ".intent", ".lease", ".new"].contains(where: name.hasSuffix) {
        names.append(name)
      }
    }
    closedir(folder)
    for name in names { unlink("\(path)/\(name)") }
    rmdir(path)
  }
}
