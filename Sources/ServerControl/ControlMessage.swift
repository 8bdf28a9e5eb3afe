/// A line of the control protocol: a word, then fields `name=value`, with tabs between them. A backslash
/// stands before a backslash, and before `t` and `n` for a tab and a newline.
///
/// A field that is not known is skipped by whoever reads the line, so that a newer program may say more. A
/// field that stands more than once is a list.
public struct ControlMessage: Equatable, Sendable {
  /// What is wrong with a line.
  public struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
    /// What was expected and found, in a sentence.
    public let description: String

    init(_ description: String) { self.description = description }
  }

  /// A field.
  public struct Field: Equatable, Sendable {
    /// 1 to 32 lower-case letters, digits and underscores.
    public let name: String
    /// Any text.
    public let value: String
  }

  /// Requests are no longer than this, in bytes.
  public static let requestBytesMax = 1 << 20
  /// Fields of a line are no more than this.
  public static let fieldsMax = 1 << 16
  /// Bytes of a word, and of a name, are no more than this.
  static let nameBytesMax = 32
  /// What a line ends with: a newline.
  public static let lineEnd = UInt8(ascii: "\n")

  /// What the line is: a verb, or the kind of an answer.
  public let word: String
  /// The fields in their order.
  public private(set) var fields: [Field] = []

  /// A line without fields.
  public init(_ word: String) { self.word = word }

  /// Understands a line, without its newline.
  /// - Throws: `Malformed` where it has no word, a field without a name, too many fields, something else
  ///   that is escaped, or what is not UTF-8.
  public init(line: some Sequence<UInt8>) throws(Malformed) {
    var word: String?
    var fields: [Field] = []
    var bytes: [UInt8] = []
    /// Where the name of the field ends.
    var equals: Int?
    var isEscaped = false
    func end() throws(Malformed) {
      if word == nil {
        guard Self.isName(bytes[...]) else { throw Malformed("a line begins with a word") }
        word = String(decoding: bytes, as: UTF8.self)
      } else {
        guard let equals, Self.isName(bytes[..<equals]) else {
          throw Malformed("a field has the form name=value")
        }
        guard let value = String(validating: bytes[(equals + 1)...], as: UTF8.self) else {
          throw Malformed("a field is text in UTF-8")
        }
        guard fields.count < Self.fieldsMax else {
          throw Malformed("a line has \(Self.fieldsMax) fields at most")
        }
        fields.append(
          Field(name: String(decoding: bytes[..<equals], as: UTF8.self), value: value))
      }
      bytes.removeAll(keepingCapacity: true)
      equals = nil
    }
    for byte in line {
      if isEscaped {
        switch byte {
        case UInt8(ascii: "t"): bytes.append(9)
        case UInt8(ascii: "n"): bytes.append(10)
        case UInt8(ascii: "\\"): bytes.append(byte)
        default: throw Malformed("a backslash stands before another, before t or n")
        }
        isEscaped = false
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
      } else if byte == 9 {
        try end()
      } else {
        if byte == UInt8(ascii: "="), equals == nil, word != nil { equals = bytes.count }
        bytes.append(byte)
      }
    }
    guard !isEscaped else { throw Malformed("a line ends in the midst of a field") }
    try end()
    self.word = word ?? ""
    self.fields = fields
  }

  private static func isName(_ bytes: ArraySlice<UInt8>) -> Bool {
    (1...nameBytesMax).contains(bytes.count)
      && bytes.allSatisfy {
        $0 == UInt8(ascii: "_") || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0)
          || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
      }
  }

  /// The most memory that it takes to understand a line, in bytes.
  public static func memoryBytes(of line: some Sequence<UInt8>) -> Int {
    // A field is two texts with their bytes on the heap, in an array that grows by doubling.
    line.reduce(256) { $0 + ($1 == 9 ? 2 * MemoryLayout<Field>.stride + 96 : 2) }
  }

  /// The line, with its newline.
  public var line: [UInt8] {
    var bytes = Array(word.utf8)
    for field in fields {
      bytes.append(9)
      bytes += field.name.utf8
      bytes.append(UInt8(ascii: "="))
      for byte in field.value.utf8 {
        switch byte {
        case 9: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
        case 10: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
        case UInt8(ascii: "\\"): bytes += [byte, byte]
        default: bytes.append(byte)
        }
      }
    }
    bytes.append(Self.lineEnd)
    return bytes
  }

  // MARK: - Fields

  /// Adds a field.
  public mutating func put(_ name: String, _ text: String) {
    fields.append(Field(name: name, value: text))
  }

  /// Adds a number, unless there is none.
  public mutating func put(_ name: String, _ number: (some BinaryInteger)?) {
    if let number { put(name, "\(number)") }
  }

  /// Adds a field that says yes; no is said by leaving it out.
  public mutating func put(_ name: String, if flag: Bool) {
    if flag { put(name, "1") }
  }

  /// All values of a field.
  public func all(_ name: String) -> [String] {
    fields.lazy.filter { $0.name == name }.map(\.value)
  }

  /// The value of a field; nil where it does not stand there.
  /// - Throws: where it stands there more than once.
  public func textIfThere(_ name: String) throws(Malformed) -> String? {
    var found: String?
    for field in fields where field.name == name {
      guard found == nil else { throw Malformed("the field '\(name)' stands there twice") }
      found = field.value
    }
    return found
  }

  /// The value of a field that has to be there.
  public func text(_ name: String) throws(Malformed) -> String {
    guard let text = try textIfThere(name) else {
      throw Malformed("the field '\(name)' is missing")
    }
    return text
  }

  /// A number; nil where the field does not stand there.
  public func numberIfThere<Value: FixedWidthInteger>(
    _ name: String, _ type: Value.Type = Value.self
  ) throws(Malformed) -> Value? {
    guard let text = try textIfThere(name) else { return nil }
    guard let number = Value(text) else {
      throw Malformed("'\(name)': expected a number of \(Value.min) to \(Value.max)")
    }
    return number
  }

  /// A number that has to be there.
  public func number<Value: FixedWidthInteger>(
    _ name: String, _ type: Value.Type = Value.self
  ) throws(Malformed) -> Value {
    guard let number = try numberIfThere(name, type) else {
      throw Malformed("the field '\(name)' is missing")
    }
    return number
  }

  /// A yes or no, which is no where the field does not stand there.
  public func flag(_ name: String) throws(Malformed) -> Bool {
    switch try textIfThere(name) {
    case nil, "0": return false
    case "1": return true
    default: throw Malformed("'\(name)': expected 0 or 1")
    }
  }
}
