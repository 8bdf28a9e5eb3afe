import BlockIO
import Glibc

/// Files of keys, as far as they can be looked at before they are used.
enum KeyFile {
  /// No file of shared keys is larger.
  private static let bytesMax = 16 << 20
  /// Hexadecimal digits of a key: with fewer it can be guessed from one handshake.
  private static let digitsMin = 32

  /// What is wrong with a file of `NAME:HEX` lines; nil if nothing is.
  static func fault(_ path: String) -> String? {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else { return unsafe String(cString: strerror(errno)) }
    guard info.st_mode & S_IFMT == S_IFREG else { return "is no regular file" }
    let bytes: [UInt8]
    do throws(BlockIOError) {
      bytes = try WholeFile.bytes(at: path, upTo: bytesMax)
    } catch {
      return error.reason
    }
    var keys = 0
    for (index, line) in bytes.split(separator: 10, omittingEmptySubsequences: false).enumerated() {
      let line = line.last == 13 ? line.dropLast() : line
      if line.isEmpty { continue }
      guard let digits = digits(line) else {
        return "line \(index + 1) is not NAME:HEX, as psktool writes it"
      }
      guard digits >= digitsMin else {
        return "line \(index + 1) has a key of \(digits / 2) bytes, which can be guessed: at least "
          + "\(digitsMin / 2) are needed; make one with: psktool -u NAME -p FILE"
      }
      keys += 1
    }
    return keys == 0 ? "has no key; make one with: psktool -u NAME -p FILE" : nil
  }

  /// How many digits the key of a line has; nil where the line is none.
  private static func digits(_ line: ArraySlice<UInt8>) -> Int? {
    guard let colon = line.lastIndex(of: UInt8(ascii: ":")), colon > line.startIndex else {
      return nil
    }
    let (name, key) = (line[..<colon], line[(colon + 1)...])
    func isDigit(_ byte: UInt8) -> Bool {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
        UInt8(ascii: "A")...UInt8(ascii: "F"):
        true
      default: false
      }
    }
    let isKey =
      name.allSatisfy { $0 >= 32 && $0 != 127 } && !key.isEmpty && key.count % 2 == 0
      && key.allSatisfy(isDigit)
    return isKey ? key.count : nil
  }

  /// A line for the user where others than the owner can read a key.
  static func warnings(_ path: String) -> [String] {
    var info = stat()
    guard unsafe stat(path, &info) == 0, info.st_mode & 0o044 != 0 else { return [] }
    return ["\(path): other users may read this key; run: chmod 600 \(path)"]
  }
}
