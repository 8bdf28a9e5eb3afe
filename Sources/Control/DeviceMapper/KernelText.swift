/// Parses text as the kernel does: words, and numbers by two rules.
package enum KernelText {
  /// A name for terminals and logs: control bytes and line ends are written as `\xHH`.
  package static func printable(_ name: String) -> String {
    guard name.unicodeScalars.contains(where: isControl) else { return name }
    return name.unicodeScalars.reduce(into: "") { text, scalar in
      guard isControl(scalar) else { return text.unicodeScalars.append(scalar) }
      let digits = String(scalar.value, radix: 16)
      text += "\\x\(digits.count == 1 ? "0" : "")\(digits)"
    }
  }

  private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value)
  }

  /// Whether a byte separates words. The kernel counts 0xa0 as a blank, even inside a character of
  /// UTF-8.
  static func isBlank(_ byte: UInt8) -> Bool {
    byte == 0x20 || (0x09...0x0d).contains(byte) || byte == 0xa0
  }

  /// Words of a message, in which a backslash makes the next byte part of a word.
  package static func words(_ text: String) -> [String] { words(text, quoting: true) }

  /// Words of a table line's parameters in dmsetup's form: backslashes are literal, because the
  /// library doubles them on their way to the kernel. Device names use `\x20` for a blank.
  package static func parameterWords(_ text: String) -> [String] { words(text, quoting: false) }

  private static func words(_ text: String, quoting: Bool) -> [String] {
    var words: [String] = []
    var word: [UInt8] = []
    var isInside = false
    var isQuoted = false
    let bytes = Array(text.utf8)
    for (index, byte) in bytes.enumerated() {
      if byte == 0 { break }
      if isQuoted {
        word.append(byte)
        isQuoted = false
      } else if quoting, byte == UInt8(ascii: "\\"), index + 1 < bytes.count {
        isQuoted = true
        isInside = true
      } else if isBlank(byte) {
        if isInside { words.append(String(decoding: word, as: UTF8.self)) }
        word.removeAll(keepingCapacity: true)
        isInside = false
      } else {
        word.append(byte)
        isInside = true
      }
    }
    if isInside { words.append(String(decoding: word, as: UTF8.self)) }
    return words
  }

  /// Parses a number strictly: decimal digits, with an optional plus before and an optional line
  /// feed after them.
  package static func strict(_ text: String, max: UInt64 = .max) -> UInt64? {
    var digits = Substring(text)
    if digits.utf8.last == UInt8(ascii: "\n") { digits = digits.dropLast() }
    if digits.utf8.first == UInt8(ascii: "+") { digits = digits.dropFirst() }
    guard let value = decimal(digits.utf8, wraps: false), value <= max else { return nil }
    return value
  }

  /// Parses a number leniently: digits only; a too large one wraps around.
  package static func scanned(_ text: String) -> UInt64? { decimal(text.utf8, wraps: true) }

  /// Parses a number leniently, and truncates it to 32 bits as the kernel does.
  package static func scanned32(_ text: String) -> UInt32? {
    scanned(text).map { UInt32(truncatingIfNeeded: $0) }
  }

  private static func decimal(_ digits: some Sequence<UInt8>, wraps: Bool) -> UInt64? {
    var value: UInt64 = 0
    var isEmpty = true
    for digit in digits {
      guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
      isEmpty = false
      let (high, low) = value.multipliedFullWidth(by: 10)
      let (sum, carry) = UInt64(low).addingReportingOverflow(UInt64(digit - UInt8(ascii: "0")))
      if !wraps, high != 0 || carry { return nil }
      value = sum
    }
    return isEmpty ? nil : value
  }

  /// Whether two words are equal, ignoring the case of ASCII letters.
  package static func isSame(_ left: String, _ right: String) -> Bool {
    left.utf8.count == right.utf8.count
      && zip(left.utf8, right.utf8).allSatisfy { lowercase($0) == lowercase($1) }
  }

  private static func lowercase(_ byte: UInt8) -> UInt8 {
    (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte + 32 : byte
  }
}

/// Arguments of a constructor, taken one by one.
package struct ArgumentList {
  private let words: [String]
  private var next = 0

  /// The arguments, starting with the first.
  package init(_ words: [String]) { self.words = words }

  /// The number of arguments left.
  package var count: Int { words.count - next }

  /// The next argument.
  package mutating func shift() -> String? {
    guard next < words.count else { return nil }
    defer { next += 1 }
    return words[next]
  }

  /// The next argument as a number of 32 bits in `range`.
  package mutating func number(in range: ClosedRange<UInt32>, orSay message: String)
    throws(TargetError) -> UInt32
  {
    guard let word = shift(), let value = KernelText.scanned32(word), range.contains(value) else {
      throw TargetError(message)
    }
    return value
  }

  /// The next argument as the number of arguments that follow.
  package mutating func groupCount(max: UInt32, orSay message: String) throws(TargetError) -> UInt32
  {
    let value = try number(in: 0...max, orSay: message)
    guard value <= count else { throw TargetError(message) }
    return value
  }
}
