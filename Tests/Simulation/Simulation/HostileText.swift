/// Makes text with a few faults, or words in random order, from a seed, for testing parsers of
/// tables, messages and protocols.
public struct HostileText {
  /// A line of a table, with any length.
  public struct Line: Equatable, Sendable {
    /// The type of target.
    public var type: String
    /// A length in sectors.
    public var length: UInt64
    /// The text after the type.
    public var parameters: String
  }

  /// Words that may be mistaken for numbers, names and flags.
  public static let words = [
    "", "0", "1", "2", "5", "8", "128", "-1", "+", "+8", "0x8", "4294967295", "4294967296",
    "18446744073709551615", "18446744073709551616", "18446744073709551624", "x", "\u{a0}", "é",
    "\0", "98:0", "98:16", "/dev/x", "-", "/", ":", "::", ":1:a:b",
    String(repeating: "9", count: 1000), String(repeating: ":", count: 1000),
  ]

  /// Sound lines without start and length, which are mutated.
  public let sound: [String]
  private let types: [String]
  /// The words inserted as faults.
  public let words: [String]
  /// The source of randomness.
  public var random: SplitMix64

  /// - Parameters:
  ///   - sound: lines without start and length; enough of each is kept to get deep into parsers.
  ///   - words: words with a meaning for the types.
  ///   - types: types for random words; by default those of `sound`.
  public init(_ sound: [String], words: [String] = [], types: [String] = [], seed: UInt64) {
    self.sound = sound
    self.words = Self.words + words
    self.types = types
    random = SplitMix64(seed: seed)
  }

  /// A random element of a list.
  public mutating func any<T>(_ list: [T]) -> T {
    list[Int.random(in: 0..<list.count, using: &random)]
  }

  /// A sound line with up to three faults, or in one of four cases words in random order.
  public mutating func line() -> Line {
    let length: UInt64 = any([0, 8, 16, 4096, .max])
    var words = any(sound).split(separator: " ", omittingEmptySubsequences: false)
      .map { String($0) }
    if Int.random(in: 0..<4, using: &random) == 0 {
      let type = types.isEmpty ? words[0] : any(types)
      words = [type] + (0..<Int.random(in: 0..<12, using: &random)).map { _ in any(self.words) }
    }
    for _ in 0..<Int.random(in: 0...3, using: &random) {
      let at = Int.random(in: 1...words.count, using: &random)
      switch Int.random(in: 0..<4, using: &random) {
      case 0 where at < words.count: words.remove(at: at)
      case 1: words.insert(any(self.words), at: at)
      case 2 where at < words.count: words[at] = mutated(words[at])
      default: if at < words.count { words[at] = any(self.words) }
      }
    }
    return Line(
      type: words[0], length: length, parameters: words.dropFirst().joined(separator: " "))
  }

  /// A text with a byte changed, inserted or removed.
  public mutating func mutated(_ text: String) -> String {
    String(decoding: mutated(Array(text.utf8)), as: UTF8.self)
  }

  /// Bytes of which one is changed, inserted or removed.
  public mutating func mutated(_ bytes: [UInt8]) -> [UInt8] {
    var bytes = bytes
    let byte = UInt8.random(in: 0...255, using: &random)
    let at = Int.random(in: 0...bytes.count, using: &random)
    switch Int.random(in: 0..<3, using: &random) {
    case 0 where at < bytes.count: bytes[at] = byte
    case 1 where at < bytes.count: bytes.remove(at: at)
    default: bytes.insert(byte, at: at)
    }
    return bytes
  }
}
