import Glibc

/// Reads files completely, up to a size: texts of users, and files of the system.
public enum WholeFile {
  /// Reads a descriptor from its position to the end.
  /// - Parameters:
  ///   - path: its name in messages.
  ///   - bytesMax: the most bytes to keep; memory is that plus up to 64 KiB.
  /// - Throws: `BlockIOError` if reading fails, with `EFBIG` if there are more than `bytesMax`
  ///   bytes.
  public static func bytes(of descriptor: Int32, path: String, upTo bytesMax: Int)
    throws(BlockIOError) -> [UInt8]
  {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(bytesMax, 65_535) + 1)
    while true {
      let count = unsafe read(descriptor, &chunk, chunk.count)
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

  /// Reads a file.
  /// - Parameters:
  ///   - bytesMax: the most bytes to keep, as for a descriptor.
  ///   - flags: flags of open(2), in addition to those for reading.
  /// - Throws: `BlockIOError` if opening or reading fails, with `EFBIG` if there are more than
  ///   `bytesMax` bytes.
  public static func bytes(at path: String, upTo bytesMax: Int, flags: Int32 = 0)
    throws(BlockIOError) -> [UInt8]
  {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | flags)
    guard descriptor >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    defer { close(descriptor) }
    return try bytes(of: descriptor, path: path, upTo: bytesMax)
  }

  /// The text of a small file in /sys or /proc, without trailing white space; nil if it does not
  /// exist, or is larger than 4 KiB.
  public static func systemText(_ path: String) -> String? {
    guard let bytes = try? bytes(at: path, upTo: 4096) else { return nil }
    var text = String(decoding: bytes, as: UTF8.self)
    while let last = text.last, last.isWhitespace { text.removeLast() }
    return text
  }
}
