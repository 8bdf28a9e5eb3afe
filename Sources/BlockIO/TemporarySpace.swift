import CDMThin
import Glibc

/// Files without a name in the folder for temporary files: they go with the descriptor, whatever ends the
/// program.
public enum TemporarySpace {
  /// `$TMPDIR`, or /tmp.
  public static var folder: String {
    guard let value = getenv("TMPDIR"), value.pointee != 0 else { return "/tmp" }
    return String(cString: value)
  }

  /// What messages call such a file.
  public static var description: String { "a temporary file in \(folder)" }

  /// A new empty file, for reading and writing, closed on exec. It is for the caller to close.
  public static func open() throws(BlockIOError) -> OpenFile {
    let descriptor = dmthin_temporary_file(folder)
    guard descriptor >= 0 else {
      throw BlockIOError(.create, path: description, code: errno)
    }
    return OpenFile(adopting: descriptor, path: description)
  }

  /// A failed write to such a file, as an error that says so.
  public static func full(_ error: BlockIOError) -> BlockIOError {
    BlockIOError(.keep, path: description, code: error.code)
  }
}
