import CDMThin
import Glibc

/// Temporary files without a name: they disappear with the descriptor, however the program ends.
public enum TemporarySpace {
  /// `$TMPDIR`, or /tmp.
  public static var folder: String {
    guard let value = unsafe getenv("TMPDIR"), unsafe value.pointee != 0 else { return "/tmp" }
    return unsafe String(cString: value)
  }

  /// The name of such a file in messages.
  public static var description: String { "a temporary file in \(folder)" }

  /// Creates an empty file for reading and writing, closed on exec. The caller must close it.
  public static func open() throws(BlockIOError) -> OpenFile {
    let descriptor = unsafe dmthin_temporary_file(folder)
    guard descriptor >= 0 else {
      throw BlockIOError(.create, path: description, code: errno)
    }
    return OpenFile(adopting: descriptor, path: description)
  }

  /// The error for a failed write to such a file.
  public static func full(_ error: BlockIOError) -> BlockIOError {
    BlockIOError(.keep, path: description, code: error.code)
  }
}
