public import DeviceMapper

/// What a request asks for: its first field.
public enum ControlVerb: String, Sendable {
  case create, reload, clear, suspend, resume, remove, rename, message
  case removeAll = "remove_all"
  case setUUID = "set_uuid"
  case info, status, table, list, targets, version, wait
  case dependencies = "deps"
  /// The path by which a device below a table was opened.
  case path
  /// What NBD clients can connect to.
  case listeners
  /// How many events there were, of all devices.
  case armEvents = "arm_events"
  /// Until there are more.
  case awaitEvents = "await_events"
}

/// A line of the control protocol: fields with tabs between them. A backslash stands before a
/// backslash, and before `t` and `n` for a tab and a newline.
///
/// A request is a verb and what it needs; the answer is `ok` and what was asked for, `none` where a
/// device does not exist, or `error` with the operation, the device, the error number and messages.
public struct ControlMessage: Equatable, Sendable {
  /// What is wrong with a line.
  public struct Malformed: Error, Equatable, Sendable {
    /// Says no more than that.
    public init() {}
  }

  /// Requests are no longer than this, in bytes.
  public static let requestBytesMax = 1 << 20
  /// What a line ends with: a newline.
  public static let lineEnd = UInt8(ascii: "\n")

  /// The fields.
  public private(set) var fields: [String]
  private var next = 0

  /// A message of some fields.
  public init(_ fields: [String]) { self.fields = fields }

  /// Understands a line, without its newline.
  /// - Throws: `Malformed` where it is not UTF-8, or something else is escaped.
  public init(line: some Sequence<UInt8>) throws(Malformed) {
    var fields: [String] = []
    var field: [UInt8] = []
    var isEscaped = false
    func end() throws(Malformed) {
      guard let text = String(validating: field, as: UTF8.self) else { throw Malformed() }
      fields.append(text)
      field.removeAll(keepingCapacity: true)
    }
    for byte in line {
      if isEscaped {
        switch byte {
        case UInt8(ascii: "t"): field.append(9)
        case UInt8(ascii: "n"): field.append(10)
        case UInt8(ascii: "\\"): field.append(byte)
        default: throw Malformed()
        }
        isEscaped = false
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
      } else if byte == 9 {
        try end()
      } else {
        field.append(byte)
      }
    }
    guard !isEscaped else { throw Malformed() }
    try end()
    self.fields = fields
  }

  /// The most memory that it takes to understand a line, in bytes.
  public static func memoryBytes(of line: some Sequence<UInt8>) -> Int {
    // A field is a text with its bytes on the heap, in an array that grows by doubling.
    line.reduce(256) { $0 + ($1 == 9 ? 2 * MemoryLayout<String>.stride + 48 : 2) }
  }

  /// The line, with its newline.
  public var line: [UInt8] {
    var bytes: [UInt8] = []
    for (i, field) in fields.enumerated() {
      if i > 0 { bytes.append(9) }
      for byte in field.utf8 {
        switch byte {
        case 9: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
        case 10: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
        case UInt8(ascii: "\\"): bytes += [byte, byte]
        default: bytes.append(byte)
        }
      }
    }
    bytes.append(10)
    return bytes
  }

  // MARK: - Writing

  /// Adds a text.
  public mutating func put(_ text: String) { fields.append(text) }
  /// Adds a number.
  public mutating func put(_ number: some BinaryInteger) { fields.append("\(number)") }
  /// Adds a yes or no.
  public mutating func put(_ flag: Bool) { fields.append(flag ? "1" : "0") }
  /// Adds a number that may not be there.
  public mutating func put(_ number: UInt32?) { fields.append(number.map { "\($0)" } ?? "") }

  /// Adds how a device is named.
  public mutating func put(_ reference: DeviceReference) {
    switch reference {
    case .name(let name): put("name:\(name)")
    case .uuid(let uuid): put("uuid:\(uuid)")
    case .number(let number): put("number:\(number)")
    }
  }

  /// Adds a table or a status; it has to be the last.
  public mutating func put(_ lines: [TableLine]) {
    for line in lines {
      put(line.start)
      put(line.length)
      put(line.type)
      put(line.parameters)
    }
  }

  /// Adds a device's state.
  public mutating func put(_ info: DeviceInfo) {
    put(info.name)
    put(info.uuid)
    put(info.number.major)
    put(info.number.minor)
    put(info.openCount)
    put(info.eventNumber)
    put(info.targetCount)
    for flag in [
      info.isSuspended, info.isReadOnly, info.hasLiveTable, info.hasInactiveTable,
      info.isDeferredRemove, info.isInternallySuspended,
    ] { put(flag) }
  }

  // MARK: - Reading, from the front

  /// Whether all fields have been read.
  public var isAtEnd: Bool { next >= fields.count }

  /// The next field.
  public mutating func text() throws(Malformed) -> String {
    guard next < fields.count else { throw Malformed() }
    defer { next += 1 }
    return fields[next]
  }

  /// A number.
  public mutating func number<Value: FixedWidthInteger>(
    _ type: Value.Type = Value.self
  ) throws(Malformed) -> Value {
    guard let number = Value(try text()) else { throw Malformed() }
    return number
  }

  /// A number that may not be there.
  public mutating func optionalNumber() throws(Malformed) -> UInt32? {
    let field = try text()
    if field.isEmpty { return nil }
    guard let number = UInt32(field) else { throw Malformed() }
    return number
  }

  /// A yes or no.
  public mutating func flag() throws(Malformed) -> Bool {
    switch try text() {
    case "0": return false
    case "1": return true
    default: throw Malformed()
    }
  }

  /// How a device is named.
  public mutating func reference() throws(Malformed) -> DeviceReference {
    let field = try text()
    guard let colon = field.firstIndex(of: ":") else { throw Malformed() }
    let rest = String(field[field.index(after: colon)...])
    switch field[..<colon] {
    case "name": return .name(rest)
    case "uuid": return .uuid(rest)
    case "number":
      let words = rest.split(separator: ":", omittingEmptySubsequences: false)
      guard words.count == 2, let major = UInt32(words[0]), let minor = UInt32(words[1]) else {
        throw Malformed()
      }
      return .number(DeviceNumber(major: major, minor: minor))
    default: throw Malformed()
    }
  }

  /// The rest as a table or a status.
  public mutating func lines() throws(Malformed) -> [TableLine] {
    var lines: [TableLine] = []
    while !isAtEnd {
      lines.append(
        TableLine(
          start: try number(), length: try number(), type: try text(), parameters: try text()))
    }
    return lines
  }

  /// A device's state.
  public mutating func info() throws(Malformed) -> DeviceInfo {
    var info = DeviceInfo(
      name: try text(), uuid: try text(),
      number: DeviceNumber(major: try number(), minor: try number()))
    info.openCount = try number()
    info.eventNumber = try number()
    info.targetCount = try number()
    info.isSuspended = try flag()
    info.isReadOnly = try flag()
    info.hasLiveTable = try flag()
    info.hasInactiveTable = try flag()
    info.isDeferredRemove = try flag()
    info.isInternallySuspended = try flag()
    return info
  }
}

extension ControlMessage {
  /// The answer that a failed command gets.
  public init(_ error: DeviceMapperError) {
    self.init(
      ["error", error.operation.rawValue, error.device, "\(error.code)"] + error.messages)
  }

  /// The error that an answer after `error` tells.
  public mutating func error() throws(Malformed) -> DeviceMapperError {
    guard let operation = DeviceMapperError.Operation(rawValue: try text()) else {
      throw Malformed()
    }
    let device = try text()
    let code: Int32 = try number()
    var messages: [String] = []
    while !isAtEnd { messages.append(try text()) }
    return DeviceMapperError(operation, device: device, code: code, messages: messages)
  }
}
