/// How the driver stores device names and uuids with bytes that udev does not allow: such a byte
/// becomes `\xHH`, in lower case.
public enum NameMangling: String, CaseIterable, Sendable {
  /// Names are stored unchanged.
  case none
  /// Every such byte is mangled, backslashes too.
  case hex
  /// Every such byte is mangled, unless the name is already mangled.
  case auto

  /// The mode with this name, in either case; nil for other words.
  public init?(_ word: String) { self.init(rawValue: word.lowercased()) }

  /// A name that is only partly mangled.
  public struct MixedName: Error, Hashable, Sendable {
    /// The name.
    public let name: String
  }

  /// `name` in the form that the driver stores.
  public func mangled(_ name: String) throws(MixedName) -> String {
    guard self != .none else { return name }
    let bytes = Array(name.utf8)
    var result: [UInt8] = []
    var isMangled = false
    var needsMangling = false
    var at = 0
    while at < bytes.count {
      if self == .auto, Self.escape(bytes, at) != nil {
        isMangled = true
        result += bytes[at..<at + 4]
        at += 4
        continue
      }
      if Self.isAllowed(bytes[at]) {
        result.append(bytes[at])
      } else {
        needsMangling = true
        result += Self.escaped(bytes[at])
      }
      at += 1
    }
    guard !(isMangled && needsMangling) else { throw MixedName(name: name) }
    return String(decoding: result, as: UTF8.self)
  }

  /// The user's form of a name that the driver stores.
  public func unmangled(_ name: String) -> String { self == .none ? name : Self.decoded(name) }

  /// `name` with each `\xHH` replaced by the byte that it stands for.
  public static func decoded(_ name: String) -> String {
    guard name.utf8.contains(UInt8(ascii: "\\")) else { return name }
    let bytes = Array(name.utf8)
    var result: [UInt8] = []
    var at = 0
    while at < bytes.count {
      if let byte = escape(bytes, at) {
        result.append(byte)
        at += 4
      } else {
        result.append(bytes[at])
        at += 1
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// A path as one word of a table line: blanks and backslashes become `\xHH`. `decoded` reverses
  /// it.
  public static func word(_ path: String) -> String {
    var result: [UInt8] = []
    for scalar in path.unicodeScalars {
      let bytes = UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter
      let needsEscape = bytes.contains { KernelText.isBlank($0) || $0 == UInt8(ascii: "\\") }
      for byte in bytes { result += needsEscape ? escaped(byte) : [byte] }
    }
    return String(decoding: result, as: UTF8.self)
  }

  private static func escaped(_ byte: UInt8) -> [UInt8] {
    [UInt8(ascii: "\\"), UInt8(ascii: "x"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
  }

  private static let digits = Array("0123456789abcdef".utf8)

  private static func isAllowed(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "a")...UInt8(ascii: "z"):
      true
    default: "#+-.:=@_".utf8.contains(byte)
    }
  }

  /// The byte for the `\xHH` at `at`.
  private static func escape(_ bytes: [UInt8], _ at: Int) -> UInt8? {
    guard at + 4 <= bytes.count, bytes[at] == UInt8(ascii: "\\"),
      bytes[at + 1] == UInt8(ascii: "x"), let high = digit(bytes[at + 2]),
      let low = digit(bytes[at + 3])
    else { return nil }
    return high << 4 | low
  }

  private static func digit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}
