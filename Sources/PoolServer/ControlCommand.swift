import DataPath
import DeviceMapper
import ServerControl
import Targets

/// Carries out a line of the control protocol.
struct ControlCommand {
  /// Is given the line of the answer.
  typealias Reply = ([UInt8]) -> Void
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
    case .list: list(reply)
    case .removeAll: removeAll(deferred: try request.flag(), reply)
    case .targets: reply(targets().line)
    case .version: reply(ControlMessage(["ok", UserspaceDeviceMapper.driverVersion]).line)
    case .listeners: reply(ControlMessage(["ok"] + door.listeners()).line)
    case .armEvents: reply(ControlMessage(["ok", "\(door.eventCount)"]).line)
    case .path:
      let number = DeviceNumber(major: try request.number(), minor: try request.number())
      reply((mapper.path(of: number).map { ControlMessage(["ok", $0]) } ?? .none).line)
    case .create, .suspend, .resume: try slowCommand(verb, request, reply)
    case .reload, .clear, .remove, .rename, .setUUID, .message:
      let command = try command(verb, request)
      door.loop.begin {
        reply(answer(command).line)
        door.volumes.changed()
      }
    }
    return nil
  }

  /// A command that is done when it returns, and may give a text; a disk can have it wait.
  private typealias Command = () throws(DeviceMapperError) -> String?

  private func answer(_ command: Command) -> ControlMessage {
    do throws(DeviceMapperError) {
      var answer = ControlMessage(["ok"])
      if let text = try command() { answer.put(text) }
      return answer
    } catch {
      return ControlMessage(error)
    }
  }

  private func command(_ verb: ControlVerb, _ request: ControlMessage)
    throws(ControlMessage.Malformed) -> Command
  {
    var request = request
    let mapper = mapper
    let device = try request.reference()
    switch verb {
    case .reload:
      let isReadOnly = try request.flag()
      let lines = try request.lines()
      return { () throws(DeviceMapperError) in
        try mapper.load(device, lines, readOnly: isReadOnly)
        return nil
      }
    case .clear:
      return { () throws(DeviceMapperError) in
        try mapper.clear(device)
        return nil
      }
    case .remove:
      let isDeferred = try request.flag()
      return { () throws(DeviceMapperError) in
        try mapper.remove(device, deferred: isDeferred)
        return nil
      }
    case .rename, .setUUID:
      let text = try request.text()
      return { () throws(DeviceMapperError) in
        if verb == .rename {
          try mapper.rename(device, to: text)
        } else {
          try mapper.setUUID(device, to: text)
        }
        return nil
      }
    case .message:
      let sector: UInt64 = try request.number()
      let text = try request.text()
      return { () throws(DeviceMapperError) in
        try mapper.message(device, sector: sector, text)
      }
    default: throw ControlMessage.Malformed()
    }
  }

  /// Commands that may wait for I/O.
  private func slowCommand(
    _ verb: ControlVerb, _ request: ControlMessage, _ reply: @escaping Reply
  ) throws(ControlMessage.Malformed) {
    var request = request
    let done: UserspaceDeviceMapper.Completion = { result in
      door.volumes.changed()
      switch result {
      case .success: reply(ControlMessage(["ok"]).line)
      case .failure(let error): reply(ControlMessage(error).line)
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
      guard let info = mapper.info(device, options) else {
        return reply(ControlMessage.none.line)
      }
      var answer = ControlMessage(["ok"])
      answer.put(info)
      reply(answer.line)
    case .dependencies:
      guard let found = mapper.dependencies(device, options) else {
        return reply(ControlMessage.none.line)
      }
      var answer = ControlMessage(["ok"])
      answer.put(found.info)
      for number in found.devices {
        answer.put(number.major)
        answer.put(number.minor)
      }
      reply(answer.line)
    case .status: door.loop.begin { reply(answer(door.mapper.status(device, options)).line) }
    default: reply(answer(mapper.table(device, options)).line)
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
      case .success(let status): reply(answer(status).line)
      case .failure(let error): reply(ControlMessage(error).line)
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
      reply(ControlMessage(["ok", "1"]).line)
      return {}
    }
    let loop = door.loop
    guard let milliseconds else { return door.watch { reply(ControlMessage(["ok", "1"]).line) } }
    var timer: LoopTimer?
    let forget = door.watch {
      if let set = timer { loop.cancel(set) }
      timer = nil
      reply(ControlMessage(["ok", "1"]).line)
    }
    let end = LoopTimer {
      timer = nil
      forget()
      reply(ControlMessage(["ok", "0"]).line)
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

  // MARK: - Many devices

  /// Devices of a list that are told in a step.
  private static let devicesPerStep = 256

  /// Every device that there is when it is begun, in no order: there may be very many.
  private func list(_ reply: @escaping Reply) {
    var devices: [MappedDevice] = []
    mapper.forEachDevice { devices.append($0) }
    var rest = devices[...]
    var line = ControlMessage(["ok"]).line
    inSteps {
      var entries = ControlMessage([])
      for device in rest.prefix(Self.devicesPerStep)
      where door.mapper.find(.number(device.number)) === device {
        entries.put(device.name)
        entries.put(device.number.major)
        entries.put(device.number.minor)
        entries.put(device.eventNumber)
        entries.put(device.uuid)
      }
      rest = rest.dropFirst(Self.devicesPerStep)
      if !entries.fields.isEmpty {
        line[line.count - 1] = UInt8(ascii: "\t")
        line += entries.line
      }
      return connection.makes(line.capacity) && !rest.isEmpty
    } then: {
      reply(line)
    }
  }

  private func removeAll(deferred isDeferred: Bool, _ reply: @escaping Reply) {
    let removal = RemovalOfAll(mapper, isDeferred: isDeferred)
    door.loop.begin {
      inSteps {
        removal.step()
      } then: {
        door.volumes.changed()
        reply(ControlMessage(["ok"]).line)
      }
    }
  }

  /// Calls `step` until it returns false, and others have their turn in between.
  private func inSteps(_ step: @escaping () -> Bool, then done: @escaping () -> Void) {
    guard step() else { return done() }
    let loop = door.loop
    loop.set(LoopTimer { loop.begin { inSteps(step, then: done) } }, after: 0)
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
