import BlockIO
import CDMThin
import Glibc

extension DiskKind {
  /// `memory:SIZE`, a file of memory that no path leads to. Its blocks take memory when they are written,
  /// until they are discarded or it is closed.
  static let memory = DiskKind(
    "memory", form: "SIZE[/NAME]",
    summary: "bytes in memory that begin as zeros and are lost at the end, to try things out"
  ) { (rest) throws(BlockIOError) in
    let (bytes, word) = try DiskResolver.size(rest, of: "memory")
    let name = "memory:\(bytes)b\(word)"
    let text = "memory:\(rest)"
    return FoundDisk(name: text, identity: name, blankByteCount: bytes) {
      (readOnly, context) throws(BlockIOError) in
      let descriptor = unsafe dmthin_memory_file("dmthin")
      guard descriptor >= 0 else { throw BlockIOError(.create, path: text, code: errno) }
      guard ftruncate(descriptor, Int(clamping: bytes)) == 0 else {
        let code = errno
        close(descriptor)
        throw BlockIOError(.create, path: text, code: code)
      }
      return try FileDisk(
        OpenFile(adopting: descriptor, path: text), readOnly: readOnly, isPrivate: true, in: context
      )
    }
  }
}
