import Glibc

/// What is read from beginning to end, up to a size: texts that somebody wrote, and what the system
/// tells in files of its own.
public enum WholeFile {
  /// What a descriptor gives up to its end, from where it stands.
  /// - Parameters:
  ///   - path: what messages call it.
  ///   - bytesMax: no more than this is kept; it takes as much memory, and up to 64 KiB.
  /// - Throws: `BlockIOError` where reading fails, with `EFBIG` where there is more than `bytesMax`.
  public static func bytes(of descriptor: Int32, path: String, upTo bytesMax: Int)
    throws(BlockIOError) -> [UInt8]
  {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(bytesMax, 65_535) + 1)
    while true {
      let count = read(descriptor, &chunk, chunk.count)
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else {
        throw BlockIOError(.read, path: path, offset: UInt64(bytes.count), code: errno)
      }
      if count == 0 { return bytes }
      guard count <= bytesMax - bytes.count else {
        throw BlockIOError(.read, path: path, offset: UInt64(bytesMax), code: EFBIG)
      }
      bytes += chunk[..<count]
    }
  }

  /// What a file has.
  /// - Parameters:
  ///   - bytesMax: no more than this is kept, as with a descriptor.
  ///   - flags: of open(2), besides those for reading.
  /// - Throws: `BlockIOError` where opening or reading fails, with `EFBIG` where there is more than
  ///   `bytesMax`.
  public static func bytes(at path: String, upTo bytesMax: Int, flags: Int32 = 0)
    throws(BlockIOError) -> [UInt8]
  {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | flags)
    guard descriptor >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    defer { close(descriptor) }
    return try bytes(of: descriptor, path: path, upTo: bytesMax)
  }

  /// The text of a small file of the system, in /sys or /proc, without white space at its end; nil where
  /// there is none, or it is larger than 4 KiB.
  public static func systemText(_ path: String) -> String? {
    guard let bytes = try? bytes(at: path, upTo: 4096) else { return nil }
    var text = String(decoding: bytes, as: UTF8.self)
    while let last = text.last, last.isWhitespace { text.removeLast() }
    return text
  }
}
