public import DeviceMapper
import Glibc

/// The verb of a request: its word.
public enum ControlVerb: String, CaseIterable, Sendable {
  case create, reload, clear, suspend, resume, remove, rename, message
  case removeAll = "remove_all"
  case setUUID = "set_uuid"
  case info, status, table, list, targets, version, wait
  case dependencies = "deps"
  /// The path by which a device used by a table was opened.
  case path
  /// The NBD addresses of the server.
  case listeners
  /// Subscribes this connection to events.
  case subscribe
}

/// The first exchange on a control socket, which selects a version that both sides speak.
///
/// Version 1 had none: its lines were fields without names. It is refused in its own format, so
/// that its programs can tell their users why.
public enum ControlProtocol {
  /// Versions that this program speaks, ascending.
  public static let versions: [UInt32] = [2]
  /// The first word of both sides.
  public static let hello = "hello"

  /// The client's first line.
  public static var greeting: ControlMessage {
    var message = ControlMessage(hello)
    for version in versions { message.put("version", version) }
    return message
  }

  /// The server's response to a client's first line.
  public enum Reception: Equatable, Sendable {
    /// Both sides share a version; the line to answer with.
    case accepted(ControlMessage)
    /// They share none; the last line to send, newline included.
    case refused([UInt8])
  }

  /// Answers a client's first line, passed without its newline.
  public static func receive(_ line: some Sequence<UInt8>) -> Reception {
    guard let message = try? ControlMessage(line: line), message.word == hello else {
      return .refused(refusalOfVersionOne)
    }
    let offered = message.all("version").compactMap { UInt32($0) }
    guard let version = versions.last(where: offered.contains) else {
      let range = versions.map { "\($0)" }.joined(separator: ", ")
      return .refused(
        refusal(
          EPROTONOSUPPORT,
          "this server speaks version \(range) of the control protocol, and this program does not: use "
            + "the dmthin that the server was started with"
        ).line)
    }
    var answer = ControlMessage(hello)
    answer.put("version", version)
    return .accepted(answer)
  }

  /// The line that explains why the server closes the connection.
  public static func refusal(_ code: Int32, _ sentence: String) -> ControlMessage {
    var message = ControlMessage("error")
    message.put("code", code)
    message.put("message", sentence)
    return message
  }

  /// A refusal that version 1 understands: word, operation, device, number, message.
  static var refusalOfVersionOne: [UInt8] {
    let sentence =
      "this server speaks version \(versions.last ?? 0) of the control protocol, and this program an "
      + "older one, or none: use the dmthin that the server was started with"
    return Array("error\tversion\t\t\(EPROTONOSUPPORT)\t\(sentence)\n".utf8)
  }
}

/// An event that a server sends to clients that have subscribed.
public struct ControlEvent: Equatable, Sendable {
  /// The kind of event.
  public enum What: String, Sendable {
    /// Its target raised an event: a pool has changed its mode, or runs low on space.
    case event
    case created, removed, renamed, suspended, resumed
    /// A new table is in the inactive slot.
    case reloaded
    /// The inactive table was dropped.
    case cleared
    /// Events came faster than they were read, and some were dropped: query everything again.
    case lost
  }

  /// The kind of event.
  public var what: What
  /// The device's name; empty if events were lost.
  public var name: String
  /// The device's number.
  public var number: DeviceNumber?
  /// The device's event number.
  public var eventNumber: UInt32?
  /// The status of the device's targets, for an event of a target.
  public var status: [TableLine] = []

  /// An event without further facts.
  public init(_ what: What, name: String = "", number: DeviceNumber? = nil) {
    self.what = what
    self.name = name
    self.number = number
  }

  /// The line for this event.
  public var message: ControlMessage {
    var message = ControlMessage("event")
    message.put("what", what.rawValue)
    if what != .lost { message.put("name", name) }
    if let number { message.put("number", number) }
    message.put("event_number", eventNumber)
    message.put(status)
    return message
  }

  /// Parses a line; nil for an event of a newer server.
  public init?(_ message: ControlMessage) throws(ControlMessage.Malformed) {
    guard let what = What(rawValue: try message.text("what")) else { return nil }
    self.init(what, name: try message.textIfThere("name") ?? "")
    if !message.all("number").isEmpty { number = try message.deviceNumber("number") }
    eventNumber = try message.numberIfThere("event_number")
    status = try message.lines()
  }
}
