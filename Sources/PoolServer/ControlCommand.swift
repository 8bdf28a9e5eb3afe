import DataPath
import DeviceMapper
import ServerControl
import Targets

/// Carries out a line of the control protocol.
struct ControlCommand {
  typealias Reply = (ControlMessage) -> Void
  /// Has a command that waits for an event forget about it.
  typealias Cancel = () -> Void

  let door: ControlDoor
  /// Whose command it is.
  let connection: ControlConnection
  private var mapper: UserspaceDeviceMapper { door.mapper }

  init(_ door: ControlDoor, _ connection: ControlConnection) {
    self.door = door
    self.connection = connection
  }

  /// Carries out `request`, and calls `reply` once: at once, or when it is done. A command that only
  /// waits can be cancelled, by what is returned; any other, for which that is nil, goes on though nobody
  /// may hear its answer.
  /// - Throws: where the request is none; `reply` is not called then.
  func run(_ request: ControlMessage, _ reply: @escaping Reply)
    throws(ControlMessage.Malformed) -> Cancel?
  {
    var request = request
    guard let verb = ControlVerb(rawValue: try request.text()) else {
      throw ControlMessage.Malformed()
    }
    switch verb {
    case .wait: return try wait(request, reply)
    case .awaitEvents: return try awaitEvents(request, reply)
    case .info, .status, .table, .dependencies: try query(verb, request, reply)
    case .list: reply(list())
    case .targets: reply(targets())
    case .version: reply(ControlMessage(["ok", UserspaceDeviceMapper.driverVersion]))
    case .listeners: reply(ControlMessage(["ok"] + door.listeners()))
    case .armEvents: reply(ControlMessage(["ok", "\(door.eventCount)"]))
    case .path:
      let number = DeviceNumber(major: try request.number(), minor: try request.number())
      reply(mapper.path(of: number).map { ControlMessage(["ok", $0]) } ?? .none)
    case .create, .suspend, .resume: try slowCommand(verb, request, reply)
    case .reload, .clear, .remove, .removeAll, .rename, .setUUID, .message:
      reply(try quickCommand(verb, request))
      door.volumes.changed()
    }
    return nil
  }

  /// Commands that are done when they return.
  private func quickCommand(_ verb: ControlVerb, _ request: ControlMessage)
    throws(ControlMessage.Malformed) -> ControlMessage
  {
    do {
      var answer = ControlMessage(["ok"])
      if let text = try command(verb, request) { answer.put(text) }
      return answer
    } catch let error as DeviceMapperError {
      return ControlMessage(error)
    } catch {
      throw ControlMessage.Malformed()
    }
  }

  private func command(_ verb: ControlVerb, _ request: ControlMessage) throws -> String? {
    var request = request
    switch verb {
    case .reload:
      let device = try request.reference()
      let isReadOnly = try request.flag()
      try mapper.load(device, try request.lines(), readOnly: isReadOnly)
    case .clear: try mapper.clear(try request.reference())
    case .remove:
      let device = try request.reference()
      try mapper.remove(device, deferred: try request.flag())
    case .removeAll: mapper.removeAll(deferred: try request.flag())
    case .rename:
      let device = try request.reference()
      try mapper.rename(device, to: try request.text())
    case .setUUID:
      let device = try request.reference()
      try mapper.setUUID(device, to: try request.text())
    case .message:
      let device = try request.reference()
      let sector: UInt64 = try request.number()
      return try mapper.message(device, sector: sector, try request.text())
    default: throw ControlMessage.Malformed()
    }
    return nil
  }

  /// Commands that may wait for I/O.
  private func slowCommand(
    _ verb: ControlVerb, _ request: ControlMessage, _ reply: @escaping Reply
  ) throws(ControlMessage.Malformed) {
    var request = request
    let done: UserspaceDeviceMapper.Completion = { result in
      door.volumes.changed()
      switch result {
      case .success: reply(ControlMessage(["ok"]))
      case .failure(let error): reply(ControlMessage(error))
      }
    }
    if verb == .create {
      var creation = DeviceCreation(name: try request.text())
      let uuid = try request.text()
      creation.uuid = uuid.isEmpty ? nil : uuid
      creation.major = try request.optionalNumber()
      creation.minor = try request.optionalNumber()
      creation.isReadOnly = try request.flag()
      let hasTable = try request.flag()
      let lines = try request.lines()
      creation.table = hasTable ? lines : nil
      mapper.create(creation, done)
      return
    }
    let device = try request.reference()
    let options = SuspendOptions(rawValue: try request.number())
    if let found = mapper.find(device) {
      if verb == .suspend, options.contains(.whileConnected) {
        // What is suspended already is not for this one to resume.
        if !found.isSuspended, !found.isSuspending { connection.hold(found) }
      } else {
        // From here on it stays as it is told, whoever goes.
        door.release(found)
      }
    }
    if verb == .suspend {
      mapper.suspend(device, options, done)
    } else {
      mapper.resume(device, options, done)
    }
  }

  // MARK: - Queries

  private func query(
    _ verb: ControlVerb, _ request: ControlMessage, _ reply: @escaping Reply
  ) throws(ControlMessage.Malformed) {
    var request = request
    let device = try request.reference()
    let options = QueryOptions(rawValue: try request.number())
    switch verb {
    case .info:
      guard let info = mapper.info(device, options) else { return reply(.none) }
      var answer = ControlMessage(["ok"])
      answer.put(info)
      reply(answer)
    case .dependencies:
      guard let found = mapper.dependencies(device, options) else { return reply(.none) }
      var answer = ControlMessage(["ok"])
      answer.put(found.info)
      for number in found.devices {
        answer.put(number.major)
        answer.put(number.minor)
      }
      reply(answer)
    case .status: reply(answer(mapper.status(device, options)))
    default: reply(answer(mapper.table(device, options)))
    }
  }

  /// Answers with the status when the event number differs.
  private func wait(_ request: ControlMessage, _ reply: @escaping Reply)
    throws(ControlMessage.Malformed) -> Cancel
  {
    var request = request
    let device = try request.reference()
    let options = QueryOptions(rawValue: try request.number())
    return mapper.wait(device, eventNumber: try request.number(), options) { result in
      switch result {
      case .success(let status): reply(answer(status))
      case .failure(let error): reply(ControlMessage(error))
      }
    }
  }

  /// Answers 1 upon an event of any device since the count that the request names, 0 when the time that
  /// it names (milliseconds; none: for ever) is up.
  private func awaitEvents(_ request: ControlMessage, _ reply: @escaping Reply)
    throws(ControlMessage.Malformed) -> Cancel
  {
    var request = request
    let known: UInt64 = try request.number()
    let milliseconds = try request.optionalNumber()
    if known != door.eventCount {
      reply(ControlMessage(["ok", "1"]))
      return {}
    }
    let loop = door.loop
    guard let milliseconds else { return door.watch { reply(ControlMessage(["ok", "1"])) } }
    var timer: LoopTimer?
    let forget = door.watch {
      if let set = timer { loop.cancel(set) }
      timer = nil
      reply(ControlMessage(["ok", "1"]))
    }
    let end = LoopTimer {
      timer = nil
      forget()
      reply(ControlMessage(["ok", "0"]))
    }
    timer = end
    loop.set(end, after: UInt64(milliseconds) * 1_000_000)
    return {
      if let set = timer { loop.cancel(set) }
      timer = nil
      forget()
    }
  }

  private func answer(_ table: DeviceTable?) -> ControlMessage {
    guard let table else { return .none }
    var answer = ControlMessage(["ok"])
    answer.put(table.info)
    answer.put(table.lines)
    return answer
  }

  private func list() -> ControlMessage {
    var answer = ControlMessage(["ok"])
    for entry in mapper.list() {
      answer.put(entry.name)
      answer.put(entry.number.major)
      answer.put(entry.number.minor)
      answer.put(entry.eventNumber ?? 0)
      answer.put(entry.uuid ?? "")
    }
    return answer
  }

  private func targets() -> ControlMessage {
    var answer = ControlMessage(["ok"])
    for target in mapper.targets() {
      answer.put(target.name)
      answer.put(target.version.major)
      answer.put(target.version.minor)
      answer.put(target.version.patch)
    }
    return answer
  }
}

extension ControlMessage {
  /// The device does not exist.
  fileprivate static var none: ControlMessage { ControlMessage(["none"]) }
}
