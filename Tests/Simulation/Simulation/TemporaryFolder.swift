public import BlockIO
import Glibc

/// A new folder in TMPDIR, by default /tmp, which is removed with its files when the object is
/// freed.
public final class TemporaryFolder {
  /// The folder.
  public let path: String

  /// Creates a folder whose name begins with `name`, in `base` if that is given.
  /// - Throws: `BlockIOError` if it cannot be created.
  public init(_ name: String, in base: String? = nil) throws(BlockIOError) {
    let variable = getenv("TMPDIR").map { String(cString: $0) } ?? ""
    let base = base ?? (variable.isEmpty ? "/tmp" : variable)
    var template = Array("\(base)/\(name)-XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else {
      throw BlockIOError(.write, path: base, code: errno)
    }
    path = String(cString: made)
  }

  deinit {
    for name in Folder.names(in: path) { unlink("\(path)/\(name)") }
    rmdir(path)
  }
}
