import Glibc

/// A file or device, open until the last reference is gone.
final class RigFile {
  let path: String
  let descriptor: Int32

  init(_ path: String, _ flags: Int32, mode: mode_t = 0o600) throws {
    self.path = path
    descriptor = open(path, flags | O_CLOEXEC, mode)
    if descriptor < 0 { throw RigError.system(path) }
  }

  deinit { close(descriptor) }

  /// Reads all of `buffer`.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    guard pread(descriptor, buffer.baseAddress, buffer.count, off_t(offset)) == buffer.count else {
      throw RigError.system("\(path): read at \(offset)")
    }
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: Int) throws {
    guard pwrite(descriptor, buffer.baseAddress, buffer.count, off_t(offset)) == buffer.count else {
      throw RigError.system("\(path): write at \(offset)")
    }
  }

  func sync() throws {
    if fsync(descriptor) != 0 { throw RigError.system("\(path): sync") }
  }

  func truncate(_ byteCount: Int) throws {
    if ftruncate(descriptor, off_t(byteCount)) != 0 { throw RigError.system("\(path): truncate") }
  }

  /// Discards a range, in bytes.
  func discard(_ offset: UInt64, _ byteCount: UInt64) throws {
    var range = [offset, byteCount]
    // BLKDISCARD
    guard ioctl(descriptor, 0x1277, &range) == 0 else {
      throw RigError.system("\(path): discard of \(byteCount) bytes at \(offset)")
    }
  }

  /// The parts that are written, at the same places of another file.
  func copy(to path: String) throws {
    let copy = try RigFile(path, O_WRONLY | O_CREAT | O_TRUNC)
    let size = Int(lseek(descriptor, 0, SEEK_END))
    try copy.truncate(size)
    let (seekData, seekHole): (Int32, Int32) = (3, 4)
    var at = 0
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { piece.deallocate() }
    while at < size {
      let start = Int(lseek(descriptor, off_t(at), seekData))
      if start < 0 { break }
      at = Int(lseek(descriptor, off_t(start), seekHole))
      var next = start
      while next < at {
        let part = UnsafeMutableRawBufferPointer(rebasing: piece[..<min(piece.count, at - next)])
        try read(into: part, at: next)
        try copy.write(UnsafeRawBufferPointer(part), at: next)
        next += part.count
      }
    }
  }
}

/// Lines that are neither empty nor comments.
func readLines(_ path: String) throws -> [String] {
  guard let file = fopen(path, "r") else { throw RigError.system(path) }
  defer { fclose(file) }
  var lines: [String] = []
  var line: UnsafeMutablePointer<CChar>?
  var room = 0
  defer { free(line) }
  while getline(&line, &room, file) > 0, let line {
    var text = Substring(String(cString: line))
    if text.last == "\n" { text.removeLast() }
    let first = text.first { $0 != " " && $0 != "\t" }
    if let first, first != "#" { lines.append(String(text)) }
  }
  return lines
}

/// Makes a file of lines.
func writeLines(_ path: String, _ lines: [String]) throws {
  try writeText(path, lines.map { $0 + "\n" }.joined())
}

/// Writes a text, say to a file of /sys.
func writeText(_ path: String, _ text: String) throws {
  guard let file = fopen(path, "w") else { throw RigError.system(path) }
  let isWritten = fputs(text, file) >= 0
  guard fclose(file) == 0, isWritten else { throw RigError.system(path) }
}

/// A digest of bytes. What differs by accident has another one; it is no defence against forgers.
struct RigDigest {
  private var lanes: (UInt64, UInt64) = (0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F)

  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    var at = 0
    while at + 8 <= bytes.count {
      add(bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
      at += 8
    }
    while at < bytes.count {
      add(UInt64(bytes[at]))
      at += 1
    }
  }

  private mutating func add(_ word: UInt64) {
    let (high, low) = (lanes.0 ^ word).multipliedFullWidth(by: 0xD6E8_FEB8_6659_FD93)
    lanes = (low ^ lanes.1.byteSwapped, high &+ lanes.1 ^ word)
  }

  /// 32 hexadecimal digits.
  var text: String {
    [lanes.0, lanes.1].map { lane in
      let digits = String(lane, radix: 16)
      return String(repeating: "0", count: 16 - digits.count) + digits
    }.joined()
  }
}
