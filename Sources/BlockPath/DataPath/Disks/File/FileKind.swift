import BlockIO
import Glibc

extension DiskKind {
  /// `file:PATH`, or a path alone.
  static let file = DiskKind(
    "file", form: "PATH", summary: "a block device or a file; a path alone means the same"
  ) { (path) throws(BlockIOError) in
    var info = stat()
    guard unsafe stat(path, &info) == 0 else { throw BlockIOError(.find, path: path, code: errno) }
    let type = info.st_mode & S_IFMT
    guard type == S_IFBLK || type == S_IFREG else {
      throw BlockIOError(
        .open, path: path, code: ENOTBLK, detail: "it is neither a block device nor a file")
    }
    return FoundDisk(path: path, FileIdentity(info)) { (readOnly, context) throws(BlockIOError) in
      try FileDisk(path: path, readOnly: readOnly, in: context)
    }
  }
}
