/// Parses and prints tables as dmsetup does.
public enum TableText {
  /// A line that does not begin with two numbers and a type.
  public struct FormatError: Error, Hashable, Sendable {
    /// The line number, counted from 1, with empty lines and comments.
    public let line: Int
    /// The source: the name of a file, empty for a command line, or `on stdin`.
    public let source: String

    /// Dmsetup's words.
    public var description: String { "Invalid format on line \(line) of table \(source)." }
  }

  /// Parses a table. Lines that are empty or begin with `#` are skipped.
  public static func parse(_ text: String, source: String = "") throws(FormatError) -> [TableLine] {
    var lines: [TableLine] = []
    var number = 0
    for line in text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
      number += 1
      let content = line.drop { isBlank($0) }
      guard let first = content.first, first != UInt8(ascii: "#") else { continue }
      guard let parsed = parseLine(content) else {
        throw FormatError(line: number, source: source)
      }
      lines.append(parsed)
    }
    return lines
  }

  private static func parseLine(_ text: Substring.UTF8View) -> TableLine? {
    var rest = text
    guard let start = number(&rest), let length = number(&rest) else { return nil }
    let type = word(&rest)
    guard !type.isEmpty else { return nil }
    rest = rest.drop { isBlank($0) }
    return TableLine(start: start, length: length, type: type, parameters: String(rest) ?? "")
  }

  /// Parses digits with an optional sign: a too large number becomes the largest, a negative one
  /// wraps.
  private static func number(_ rest: inout Substring.UTF8View) -> UInt64? {
    rest = rest.drop { isBlank($0) }
    let sign = rest.first
    if sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") { rest = rest.dropFirst() }
    let digits = rest.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    guard !digits.isEmpty else { return nil }
    rest = rest.dropFirst(digits.count)
    guard let value = UInt64(Substring(digits)) else { return .max }
    return sign == UInt8(ascii: "-") ? 0 &- value : value
  }

  private static func word(_ rest: inout Substring.UTF8View) -> String {
    rest = rest.drop { isBlank($0) }
    let word = rest.prefix { !isBlank($0) }
    rest = rest.dropFirst(word.count)
    return String(word) ?? ""
  }

  private static func isBlank(_ byte: UInt8) -> Bool {
    byte == 0x20 || (0x09...0x0d).contains(byte)
  }
}

/// Devices with their tables on one line: `name,uuid,minor,flags,table[,table...];...`. A backslash
/// escapes the next character.
public enum ConciseTable {
  /// A device of the list.
  public struct Device: Hashable, Sendable {
    /// Name.
    public var name: String
    /// Uuid; empty if it has none.
    public var uuid: String
    /// The requested minor number.
    public var minor: UInt32?
    /// Whether it is read-only.
    public var isReadOnly: Bool
    /// Its table; empty for a device without a table.
    public var table: [TableLine]

    /// A device.
    public init(
      name: String, uuid: String = "", minor: UInt32? = nil, isReadOnly: Bool = false,
      table: [TableLine]
    ) {
      self.name = name
      self.uuid = uuid
      self.minor = minor
      self.isReadOnly = isReadOnly
      self.table = table
    }
  }

  /// A malformed list, in lines for the user. The devices before the fault were passed on.
  public struct FormatError: Error, Hashable, Sendable {
    /// Dmsetup's words.
    public let messages: [String]
  }

  /// Parses a list, and passes on each device once its text has been read. As in dmsetup, the
  /// devices before a fault are passed on before it is reported.
  public static func parse<E: Error>(
    _ text: String, _ body: (Result<Device, FormatError>) throws(E) -> Void
  ) throws(E) {
    var parser = ConciseParser(text)
    while let device = parser.next() {
      try body(device)
      if case .failure = device { return }
    }
  }

  /// The list form of devices.
  public static func text(_ devices: [Device]) -> String {
    devices.map { device in
      var fields = [
        escaped(device.name), escaped(device.uuid), device.minor.map { "\($0)" } ?? "",
        device.isReadOnly ? "ro" : "rw",
      ]
      fields += device.table.map {
        "\($0.start) \($0.length) \(escaped($0.type)) \(escaped($0.parameters))"
      }
      return fields.joined(separator: ",")
    }.joined(separator: ";")
  }

  /// A field with backslashes before separators.
  public static func escaped(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      if [",", ";", "\\"].contains(character) { result.append("\\") }
      result.append(character)
    }
  }
}

/// Parses the devices of a concise table one by one.
private struct ConciseParser {
  private var rest: ArraySlice<UInt8>

  init(_ text: String) { rest = ArraySlice(text.utf8) }

  /// The next device; nil at the end.
  mutating func next() -> Result<ConciseTable.Device, ConciseTable.FormatError>? {
    guard !rest.isEmpty else { return nil }
    var fields: [String] = []
    var field: [UInt8] = []
    func fault(_ message: String) -> Result<ConciseTable.Device, ConciseTable.FormatError> {
      let all = fields + [String(decoding: field, as: UTF8.self)]
      return .failure(.init(messages: [message, Self.report(all)]))
    }
    scan: while let byte = rest.popFirst() {
      switch byte {
      case UInt8(ascii: "\\"):
        guard let next = rest.popFirst() else {
          return fault("Backslash must be followed by another character at end of string.")
        }
        field.append(next)
      case UInt8(ascii: ";"):
        guard fields.count >= 4 else {
          return fault("Five comma-separated fields are required for each device")
        }
        break scan
      case UInt8(ascii: ",") where fields.count < 4:
        fields.append(String(decoding: field, as: UTF8.self))
        field = []
      case UInt8(ascii: ","):
        field.append(UInt8(ascii: "\n"))
      default:
        field.append(byte)
      }
    }
    guard fields.count == 4 else {
      let isCutOff = field.isEmpty && !fields.isEmpty
      return fault(
        (isCutOff ? "Incomplete entry: five" : "Five")
          + " comma-separated fields are required for each device")
    }
    return Self.device(fields, table: String(decoding: field, as: UTF8.self))
  }

  private static func device(_ fields: [String], table: String)
    -> Result<ConciseTable.Device, ConciseTable.FormatError>
  {
    guard ["", "ro", "rw"].contains(fields[3]) else {
      return .failure(
        .init(messages: [
          "Invalid flags parameter '\(fields[3])' must be 'ro' or 'rw' or empty."
        ]))
    }
    do throws(TableText.FormatError) {
      // Text that is not a number counts as 0.
      let digits = fields[2].utf8.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
      return .success(
        ConciseTable.Device(
          name: fields[0], uuid: fields[1],
          minor: fields[2].isEmpty ? nil : UInt32(Substring(digits)) ?? 0,
          isReadOnly: fields[3] == "ro", table: try TableText.parse(table)))
    } catch {
      return .failure(.init(messages: [error.description]))
    }
  }

  /// The parsed fields, as dmsetup shows them.
  private static func report(_ fields: [String]) -> String {
    let names = ["name", "uuid", "minor", "flags", "table"]
    let parts = names.enumerated().map { index, name in
      "\(name): \(index < fields.count ? fields[index] : "(null)")"
    }
    return "Parsed \(fields.count) fields: \(parts.joined(separator: " "))"
  }
}
