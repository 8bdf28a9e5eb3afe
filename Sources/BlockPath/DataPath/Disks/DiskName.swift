/// The name of a disk: `SCHEME:rest`, or a path.
///
/// A scheme is a word before the first colon, of two or more of the characters a to z, 0 to 9, + and -,
/// and begins with a letter. Any other name is a path: `/dev/x`, `disks/a`, `./a:b`, `C:x`, `8:0`.
public struct DiskName: Equatable, Sendable {
  /// The scheme; nil for a path.
  public let scheme: String?
  /// The part after the scheme's colon, or the path.
  public let rest: String

  /// Splits a name.
  public init(_ text: String) {
    let word = text.utf8.prefix { $0 != UInt8(ascii: ":") }
    let letters = UInt8(ascii: "a")...UInt8(ascii: "z")
    let digits = UInt8(ascii: "0")...UInt8(ascii: "9")
    let isScheme =
      word.count >= 2 && word.endIndex < text.utf8.endIndex
      && word.first.map(letters.contains) == true
      && word.allSatisfy {
        letters.contains($0) || digits.contains($0) || $0 == UInt8(ascii: "+")
          || $0 == UInt8(ascii: "-")
      }
    scheme = isScheme ? String(decoding: word, as: UTF8.self) : nil
    rest =
      isScheme
      ? String(decoding: text.utf8[text.utf8.index(after: word.endIndex)...], as: UTF8.self) : text
  }

  /// The path of a file or block device, in a form that is read as a path again; nil for another kind
  /// of disk.
  public var path: String? {
    guard let scheme else { return rest }
    guard scheme == DiskKind.file.scheme else { return nil }
    return DiskName(rest).scheme == nil ? rest : "./\(rest)"
  }
}
