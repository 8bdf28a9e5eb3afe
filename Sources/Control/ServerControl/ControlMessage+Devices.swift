public import DeviceMapper

// Fields of the control protocol for device-mapper's types.
extension ControlMessage {
  // MARK: - Devices

  /// Adds a device reference: `device=name:vms`, `device=uuid:...`, `device=number:254:0`.
  public mutating func put(_ reference: DeviceReference) {
    switch reference {
    case .name(let name): put("device", "name:\(name)")
    case .uuid(let uuid): put("device", "uuid:\(uuid)")
    case .number(let number): put("device", "number:\(number)")
    }
  }

  /// Reads a device reference.
  public func reference() throws(Malformed) -> DeviceReference {
    let text = try text("device")
    let colon = text.firstIndex(of: ":") ?? text.endIndex
    let rest = String(text[colon...].dropFirst())
    switch text[..<colon] {
    case "name": return .name(rest)
    case "uuid": return .uuid(rest)
    case "number": return .number(try Self.deviceNumber(rest))
    default: throw Malformed("'device': expected name:, uuid: or number: before it")
    }
  }

  /// Adds the number of a device, `MAJOR:MINOR`.
  public mutating func put(_ name: String, _ number: DeviceNumber) { put(name, "\(number)") }

  /// Reads the number of a device.
  public func deviceNumber(_ name: String) throws(Malformed) -> DeviceNumber {
    try Self.deviceNumber(try text(name))
  }

  static func deviceNumber(_ text: String) throws(Malformed) -> DeviceNumber {
    let words = text.split(separator: ":", omittingEmptySubsequences: false)
    guard words.count == 2, let major = UInt32(words[0]), let minor = UInt32(words[1]) else {
      throw Malformed("expected the number of a device, MAJOR:MINOR")
    }
    return DeviceNumber(major: major, minor: minor)
  }

  /// Adds a device's state.
  public mutating func put(_ info: DeviceInfo) {
    put("name", info.name)
    put("uuid", info.uuid)
    put("number", info.number)
    put("open_count", info.openCount)
    put("event_number", info.eventNumber)
    put("target_count", info.targetCount)
    put("suspended", if: info.isSuspended)
    put("read_only", if: info.isReadOnly)
    put("live_table", if: info.hasLiveTable)
    put("inactive_table", if: info.hasInactiveTable)
    put("deferred_remove", if: info.isDeferredRemove)
    put("internally_suspended", if: info.isInternallySuspended)
  }

  /// Reads a device's state.
  public func info() throws(Malformed) -> DeviceInfo {
    var info = DeviceInfo(
      name: try text("name"), uuid: try textIfThere("uuid") ?? "",
      number: try deviceNumber("number"))
    info.openCount = try number("open_count")
    info.eventNumber = try number("event_number")
    info.targetCount = try number("target_count")
    info.isSuspended = try flag("suspended")
    info.isReadOnly = try flag("read_only")
    info.hasLiveTable = try flag("live_table")
    info.hasInactiveTable = try flag("inactive_table")
    info.isDeferredRemove = try flag("deferred_remove")
    info.isInternallySuspended = try flag("internally_suspended")
    return info
  }

  // MARK: - Tables

  /// Adds a table or a status, with a field `line` for each target: `line=0 2048 linear 8:1 0`.
  public mutating func put(_ lines: [TableLine]) {
    for line in lines {
      put("line", "\(line.start) \(line.length) \(line.type) \(line.parameters)")
    }
  }

  /// Reads a table or a status.
  public func lines() throws(Malformed) -> [TableLine] {
    var lines: [TableLine] = []
    for field in fields where field.name == "line" {
      let words = field.value.split(
        separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
      guard words.count == 4, let start = UInt64(words[0]), let length = UInt64(words[1]) else {
        throw Malformed("'line': expected START LENGTH TYPE PARAMETERS")
      }
      lines.append(
        TableLine(
          start: start, length: length, type: String(words[2]), parameters: String(words[3])))
    }
    return lines
  }

  // MARK: - Errors

  /// The answer to a failed command.
  public init(_ error: DeviceMapperError) {
    self.init("error")
    put("operation", error.operation.rawValue)
    put("device", error.device)
    put("code", error.code)
    for message in error.messages { put("message", message) }
  }

  /// Reads the error in an answer.
  /// - Parameter operation: the requested operation, used if the answer does not have it.
  public func error(_ operation: DeviceMapperError.Operation) throws(Malformed)
    -> DeviceMapperError
  {
    // A newer server may have operations that this program does not know.
    let told = try textIfThere("operation").flatMap { DeviceMapperError.Operation(rawValue: $0) }
    return DeviceMapperError(
      told ?? operation, device: try textIfThere("device") ?? "", code: try number("code"),
      messages: all("message"))
  }
}
