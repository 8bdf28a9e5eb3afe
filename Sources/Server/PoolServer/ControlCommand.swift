import DataPath
import DeviceMapper
import EventLoop
import Glibc
import ServerControl
import Targets

/// Executes a request of the control protocol.
struct ControlCommand {
  /// Receives the lines of the answer.
  typealias Reply = ([UInt8]) -> Void
  /// Cancels a command that waits for an event.
  typealias Cancel = () -> Void

  let door: ControlDoor
  /// The connection that sent the command.
  let connection: ControlConnection
  private let request: ControlMessage
  /// The client's id of the request; its answers carry it too.
  private let id: UInt64?
  private var mapper: UserspaceDeviceMapper { door.mapper }

  init(_ door: ControlDoor, _ connection: ControlConnection, _ request: ControlMessage)
    throws(ControlMessage.Malformed)
  {
    self.door = door
    self.connection = connection
    self.request = request
    id = try request.numberIfThere("id")
  }

  /// A line of the answer.
  private func line(_ word: String = "ok") -> ControlMessage {
    var line = ControlMessage(word)
    line.put("id", id)
    return line
  }

  private func line(_ error: DeviceMapperError) -> ControlMessage {
    var line = ControlMessage(error)
    line.put("id", id)
    return line
  }

  /// The answer to a malformed request.
  static func refusal(_ fault: ControlMessage.Malformed) -> ControlMessage {
    ControlProtocol.refusal(EINVAL, "no request: \(fault)")
  }

  /// Executes the request, and calls `reply` once, either before it returns or later. Returns a
  /// function that cancels a command that only waits; nil for any other command, which continues
  /// even if the client has gone.
  /// - Throws: if the request is malformed; `reply` is not called then.
  func run(_ reply: @escaping Reply) throws(ControlMessage.Malformed) -> Cancel? {
    guard let verb = ControlVerb(rawValue: request.word) else {
      // The request of a newer program, which decides what to do without the command.
      reply(
        line(
          DeviceMapperError(
            .version, device: "", code: ENOSYS,
            messages: ["this server has no command '\(request.word)'"])
        ).line)
      return nil
    }
    switch verb {
    case .wait: return try wait(reply)
    case .info, .status, .table, .dependencies: try query(verb, reply)
    case .list: list(reply)
    case .removeAll: removeAll(deferred: try request.flag("deferred"), reply)
    case .targets: reply(targets())
    case .version: answer(reply) { $0.put("driver", UserspaceDeviceMapper.driverVersion) }
    case .listeners:
      answer(reply) { for name in door.listeners() { $0.put("listener", name) } }
    case .subscribe:
      connection.isSubscribed = true
      answer(reply) { _ in }
    case .path:
      let path = mapper.path(of: try request.deviceNumber("number"))
      if let path { answer(reply) { $0.put("path", path) } } else { reply(line("none").line) }
    case .create: try create(reply)
    case .suspend, .resume: try suspendOrResume(verb, reply)
    case .reload, .clear, .remove, .rename, .setUUID, .message:
      let command = try command(verb)
      door.loop.begin {
        do throws(DeviceMapperError) {
          var answer = line()
          if let text = try command() { answer.put("result", text) }
          reply(answer.line)
        } catch {
          reply(line(error).line)
        }
        door.volumes.changed()
      }
    }
    return nil
  }

  private func answer(_ reply: Reply, _ build: (inout ControlMessage) -> Void) {
    var answer = line()
    build(&answer)
    reply(answer.line)
  }

  /// A command that is done when it returns, and may give a text; a disk can have it wait.
  private typealias Command = () throws(DeviceMapperError) -> String?

  private func command(_ verb: ControlVerb) throws(ControlMessage.Malformed) -> Command {
    let device = try request.reference()
    let (mapper, door) = (mapper, door)
    /// Tells of it, by the device that it was when it began.
    func told(
      _ what: ControlEvent.What, _ body: @escaping () throws(DeviceMapperError) -> Void
    ) -> Command {
      { () throws(DeviceMapperError) in
        let found = mapper.find(device)
        try body()
        if let found { door.happened(what, found) }
        return nil
      }
    }
    switch verb {
    case .reload:
      let lines = try request.lines()
      let isReadOnly = try request.flag("read_only")
      return told(.reloaded) { () throws(DeviceMapperError) in
        try mapper.load(device, lines, readOnly: isReadOnly)
      }
    case .clear:
      return told(.cleared) { () throws(DeviceMapperError) in try mapper.clear(device) }
    case .remove:
      let isDeferred = try request.flag("deferred")
      return { () throws(DeviceMapperError) in
        try mapper.remove(device, deferred: isDeferred)
        return nil
      }
    case .rename:
      let name = try request.text("name")
      return told(.renamed) { () throws(DeviceMapperError) in
        try mapper.rename(device, to: name)
      }
    case .setUUID:
      let uuid = try request.text("uuid")
      return { () throws(DeviceMapperError) in
        try mapper.setUUID(device, to: uuid)
        return nil
      }
    case .message:
      let sector: UInt64 = try request.number("sector")
      let text = try request.text("text")
      return { () throws(DeviceMapperError) in
        try mapper.message(device, sector: sector, text)
      }
    default: preconditionFailure("\(verb) is no quick command")
    }
  }

  /// The completion of a command that may have waited for I/O.
  private func completion(
    _ what: ControlEvent.What, _ device: DeviceReference, _ reply: @escaping Reply
  ) -> UserspaceDeviceMapper.Completion {
    { result in
      door.volumes.changed()
      switch result {
      case .success:
        if let found = mapper.find(device) { door.happened(what, found) }
        reply(line().line)
      case .failure(let error): reply(line(error).line)
      }
    }
  }

  private func create(_ reply: @escaping Reply) throws(ControlMessage.Malformed) {
    var creation = DeviceCreation(name: try request.text("name"))
    let uuid = try request.textIfThere("uuid") ?? ""
    creation.uuid = uuid.isEmpty ? nil : uuid
    creation.major = try request.numberIfThere("major")
    creation.minor = try request.numberIfThere("minor")
    creation.isReadOnly = try request.flag("read_only")
    let lines = try request.lines()
    creation.table = try request.flag("table") ? lines : nil
    connection.begins(creation.name, id)
    mapper.create(creation, completion(.created, .name(creation.name), reply))
  }

  private func suspendOrResume(_ verb: ControlVerb, _ reply: @escaping Reply)
    throws(ControlMessage.Malformed)
  {
    let device = try request.reference()
    let options = SuspendOptions(rawValue: try request.numberIfThere("options") ?? 0)
    if let found = mapper.find(device) {
      connection.begins(found.name, id)
      if verb == .suspend, options.contains(.whileConnected) {
        // A device that is already suspended is not resumed when this connection ends.
        if !found.isSuspended, !found.isSuspending { connection.hold(found) }
      } else {
        // From here on the state stays, even if a connection ends.
        door.release(found)
      }
    }
    if verb == .suspend {
      mapper.suspend(device, options, completion(.suspended, device, reply))
    } else {
      mapper.resume(device, options, completion(.resumed, device, reply))
    }
  }

  // MARK: - Queries

  private func query(_ verb: ControlVerb, _ reply: @escaping Reply)
    throws(ControlMessage.Malformed)
  {
    let device = try request.reference()
    let options = QueryOptions(rawValue: try request.numberIfThere("options") ?? 0)
    switch verb {
    case .info:
      guard let info = mapper.info(device, options) else { return reply(line("none").line) }
      answer(reply) { $0.put(info) }
    case .dependencies:
      guard let found = mapper.dependencies(device, options) else {
        return reply(line("none").line)
      }
      answer(reply) { answer in
        answer.put(found.info)
        for number in found.devices { answer.put("dependency", number) }
      }
    case .status: door.loop.begin { reply(answer(door.mapper.status(device, options)).line) }
    default: reply(answer(mapper.table(device, options)).line)
    }
  }

  /// Answers with the status once the event number differs.
  private func wait(_ reply: @escaping Reply) throws(ControlMessage.Malformed) -> Cancel {
    let device = try request.reference()
    let options = QueryOptions(rawValue: try request.numberIfThere("options") ?? 0)
    let number: UInt32 = try request.number("event_number")
    return mapper.wait(device, eventNumber: number, options) { result in
      switch result {
      case .success(let status): reply(answer(status).line)
      case .failure(let error): reply(line(error).line)
      }
    }
  }

  private func answer(_ table: DeviceTable?) -> ControlMessage {
    guard let table else { return line("none") }
    var answer = line()
    answer.put(table.info)
    answer.put(table.lines)
    return answer
  }

  // MARK: - Many devices

  /// The devices listed per step.
  private static let devicesPerStep = 256

  /// Lists every device that exists when it starts, unsorted. Works in steps, because there may be
  /// thousands.
  private func list(_ reply: @escaping Reply) {
    var devices: [MappedDevice] = []
    mapper.forEachDevice { devices.append($0) }
    var rest = devices[...]
    var lines: [UInt8] = []
    inSteps {
      for device in rest.prefix(Self.devicesPerStep)
      where door.mapper.find(.number(device.number)) === device {
        var item = line("item")
        item.put("name", device.name)
        item.put("number", device.number)
        item.put("event_number", device.eventNumber)
        item.put("uuid", device.uuid)
        lines += item.line
      }
      rest = rest.dropFirst(Self.devicesPerStep)
      return connection.makes(lines.capacity) && !rest.isEmpty
    } then: {
      reply(lines + line().line)
    }
  }

  private func removeAll(deferred isDeferred: Bool, _ reply: @escaping Reply) {
    let removal = RemovalOfAll(mapper, isDeferred: isDeferred)
    door.loop.begin {
      inSteps {
        removal.step()
      } then: {
        door.volumes.changed()
        reply(line().line)
      }
    }
  }

  /// Calls `step` until it returns false; other work runs between the steps.
  private func inSteps(_ step: @escaping () -> Bool, then done: @escaping () -> Void) {
    guard step() else { return done() }
    let loop = door.loop
    loop.set(LoopTimer { loop.begin { inSteps(step, then: done) } }, after: 0)
  }

  private func targets() -> [UInt8] {
    var lines: [UInt8] = []
    for target in mapper.targets() {
      var item = line("item")
      item.put("name", target.name)
      item.put("major", target.version.major)
      item.put("minor", target.version.minor)
      item.put("patch", target.version.patch)
      lines += item.line
    }
    return lines + line().line
  }
}
