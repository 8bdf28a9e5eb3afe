public import BlockIO
import Glibc

/// A folder of its own in TMPDIR, which is /tmp where nothing is said; it is removed, with the files in
/// it, when the object goes.
public final class TemporaryFolder {
  /// The folder.
  public let path: String

  /// A new folder whose name begins with `name`, in `base` where that is given.
  /// - Throws: `BlockIOError` where none can be made there.
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
