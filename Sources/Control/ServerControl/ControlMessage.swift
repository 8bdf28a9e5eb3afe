/// A line of the control protocol: a word, then fields `name=value`, separated by tabs. A backslash
/// is written `\\`, a tab `\t`, and a newline `
/// `.
///
/// Readers skip an unknown field, so that a newer program can send more. A repeated field is a
/// list.
public struct ControlMessage: Equatable, Sendable {
  /// A malformed line.
  public struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
    /// A sentence about what was expected and found.
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

  /// The longest request, in bytes.
  public static let requestBytesMax = 1 << 20
  /// The most fields of a line.
  public static let fieldsMax = 1 << 16
  /// The most bytes of a word, and of a name.
  static let nameBytesMax = 32
  /// The end of a line: a newline.
  public static let lineEnd = UInt8(ascii: "\n")

  /// The verb of a request, or the kind of an answer.
  public let word: String
  /// The fields in order.
  public private(set) var fields: [Field] = []

  /// A line without fields.
  public init(_ word: String) { self.word = word }

  /// Parses a line, without its newline.
  /// - Throws: `Malformed` if it has no word, a field without a name, too many fields, an unknown
  ///   escape, or bytes that are not UTF-8.
  public init(line: some Sequence<UInt8>) throws(Malformed) {
    var word: String?
    var fields: [Field] = []
    var bytes: [UInt8] = []
    /// The end of the field's name.
    var equals: Int?
    var isEscaped = false
    func end() throws(Malformed) {
      if word == nil {
        guard Self.isName(bytes[...]) else {
          throw Malformed("expected a word at the beginning of the line")
        }
        word = String(decoding: bytes, as: UTF8.self)
      } else {
        guard let equals, Self.isName(bytes[..<equals]) else {
          throw Malformed("expected a field of the form name=value")
        }
        guard let value = String(validating: bytes[(equals + 1)...], as: UTF8.self) else {
          throw Malformed("expected a field in UTF-8")
        }
        guard fields.count < Self.fieldsMax else {
          throw Malformed("expected at most \(Self.fieldsMax) fields")
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
        default: throw Malformed("expected a backslash, t or n after a backslash")
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
    guard !isEscaped else { throw Malformed("the line ends inside an escape") }
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

  /// The most memory needed to parse a line, in bytes.
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

  /// Adds a number; nil adds nothing.
  public mutating func put(_ name: String, _ number: (some BinaryInteger)?) {
    if let number { put(name, "\(number)") }
  }

  /// Adds a field for true; false is expressed by leaving it out.
  public mutating func put(_ name: String, if flag: Bool) {
    if flag { put(name, "1") }
  }

  /// All values of a field.
  public func all(_ name: String) -> [String] {
    fields.lazy.filter { $0.name == name }.map(\.value)
  }

  /// The value of a field; nil if it is missing.
  /// - Throws: if it occurs more than once.
  public func textIfThere(_ name: String) throws(Malformed) -> String? {
    var found: String?
    for field in fields where field.name == name {
      guard found == nil else { throw Malformed("the field '\(name)' occurs twice") }
      found = field.value
    }
    return found
  }

  /// The value of a required field.
  public func text(_ name: String) throws(Malformed) -> String {
    guard let text = try textIfThere(name) else {
      throw Malformed("the field '\(name)' is missing")
    }
    return text
  }

  /// A number; nil if the field is missing.
  public func numberIfThere<Value: FixedWidthInteger>(
    _ name: String, _ type: Value.Type = Value.self
  ) throws(Malformed) -> Value? {
    guard let text = try textIfThere(name) else { return nil }
    guard let number = Value(text) else {
      throw Malformed("'\(name)': expected a number of \(Value.min) to \(Value.max)")
    }
    return number
  }

  /// A required number.
  public func number<Value: FixedWidthInteger>(
    _ name: String, _ type: Value.Type = Value.self
  ) throws(Malformed) -> Value {
    guard let number = try numberIfThere(name, type) else {
      throw Malformed("the field '\(name)' is missing")
    }
    return number
  }

  /// A flag; false if the field is missing.
  public func flag(_ name: String) throws(Malformed) -> Bool {
    switch try textIfThere(name) {
    case nil, "0": return false
    case "1": return true
    default: throw Malformed("'\(name)': expected 0 or 1")
    }
  }
}
