public import DeviceMapper
import Glibc

/// What a request asks for: its word.
public enum ControlVerb: String, CaseIterable, Sendable {
  case create, reload, clear, suspend, resume, remove, rename, message
  case removeAll = "remove_all"
  case setUUID = "set_uuid"
  case info, status, table, list, targets, version, wait
  case dependencies = "deps"
  /// The path by which a device below a table was opened.
  case path
  /// What NBD clients can connect to.
  case listeners
  /// To be told of events, on the same connection, from now on.
  case subscribe
}

/// The first exchange on a control socket, in which both sides find a version that they share.
///
/// Version 1 had none: its lines were fields without names. It is refused in its own form, so that programs
/// of then can tell their users why.
public enum ControlProtocol {
  /// Versions that this program speaks, ascending.
  public static let versions: [UInt32] = [2]
  /// The word of the first line, of either side.
  public static let hello = "hello"

  /// The client's first line.
  public static var greeting: ControlMessage {
    var message = ControlMessage(hello)
    for version in versions { message.put("version", version) }
    return message
  }

  /// What a server makes of a client's first line.
  public enum Reception: Equatable, Sendable {
    /// Both speak a version; the line to answer with.
    case accepted(ControlMessage)
    /// They do not; the last line to answer with, newline included.
    case refused([UInt8])
  }

  /// Answers a client's first line, which is given without its newline.
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

  /// An answer to nothing that was asked: why the server hangs up.
  public static func refusal(_ code: Int32, _ sentence: String) -> ControlMessage {
    var message = ControlMessage("error")
    message.put("code", code)
    message.put("message", sentence)
    return message
  }

  /// What a program that speaks version 1 understands: word, operation, device, number, message.
  static var refusalOfVersionOne: [UInt8] {
    let sentence =
      "this server speaks version \(versions.last ?? 0) of the control protocol, and this program an "
      + "older one, or none: use the dmthin that the server was started with"
    return Array("error\tversion\t\t\(EPROTONOSUPPORT)\t\(sentence)\n".utf8)
  }
}

/// Something that a server tells the clients that have subscribed.
public struct ControlEvent: Equatable, Sendable {
  /// What happened to a device.
  public enum What: String, Sendable {
    /// Its target raised an event: a pool has changed its mode, or runs low on space.
    case event
    case created, removed, renamed, suspended, resumed
    /// Another table waits for its resume.
    case reloaded
    /// The table that waited was dropped.
    case cleared
    /// Events came faster than they were read, and some are left out: look at everything.
    case lost
  }

  /// What happened.
  public var what: What
  /// The device's name; empty where events were lost.
  public var name: String
  /// The device's number.
  public var number: DeviceNumber?
  /// The device's event number.
  public var eventNumber: UInt32?
  /// The status of the device's targets, upon an event of theirs.
  public var status: [TableLine] = []

  /// An event of which no more is known.
  public init(_ what: What, name: String = "", number: DeviceNumber? = nil) {
    self.what = what
    self.name = name
    self.number = number
  }

  /// The line that tells it.
  public var message: ControlMessage {
    var message = ControlMessage("event")
    message.put("what", what.rawValue)
    if what != .lost { message.put("name", name) }
    if let number { message.put("number", number) }
    message.put("event_number", eventNumber)
    message.put(status)
    return message
  }

  /// The event that a line tells; nil where a newer server tells what is not known here.
  public init?(_ message: ControlMessage) throws(ControlMessage.Malformed) {
    guard let what = What(rawValue: try message.text("what")) else { return nil }
    self.init(what, name: try message.textIfThere("name") ?? "")
    if !message.all("number").isEmpty { number = try message.deviceNumber("number") }
    eventNumber = try message.numberIfThere("event_number")
    status = try message.lines()
  }
}
