import DeviceMapper
import ServerControl
import Targets

/// Carries out a line of the control protocol.
struct ControlCommand {
  typealias Reply = (ControlMessage) -> Void

  let mapper: UserspaceDeviceMapper
  /// Called after commands that may have changed something.
  let changed: () -> Void

  init(_ mapper: UserspaceDeviceMapper, _ changed: @escaping () -> Void) {
    self.mapper = mapper
    self.changed = changed
  }

  /// Carries out `request`, and calls `reply` once: at once, or when it is done.
  /// - Throws: where the request is none; `reply` is not called then.
  func run(_ request: ControlMessage, _ reply: @escaping Reply) throws(ControlMessage.Malformed) {
    var request = request
    guard let operation = DeviceMapperError.Operation(rawValue: try request.text()) else {
      throw ControlMessage.Malformed()
    }
    switch operation {
    case .info, .status, .table, .deps, .wait: try query(operation, request, reply)
    case .list: reply(list())
    case .targets: reply(targets())
    case .version: reply(ControlMessage(["ok", UserspaceDeviceMapper.driverVersion]))
    case .create, .suspend, .resume: try slowCommand(operation, request, reply)
    default:
      var answer: ControlMessage
      do {
        answer = ControlMessage(["ok"])
        if let text = try command(operation, request) { answer.put(text) }
      } catch let error as DeviceMapperError {
        answer = ControlMessage(error)
      } catch {
        throw ControlMessage.Malformed()
      }
      changed()
      reply(answer)
    }
  }

  /// Commands that are done when they return.
  private func command(_ operation: DeviceMapperError.Operation, _ request: ControlMessage) throws
    -> String?
  {
    var request = request
    switch operation {
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
      let text = try request.text()
      if try request.flag() {
        try mapper.setUUID(device, to: text)
      } else {
        try mapper.rename(device, to: text)
      }
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
    _ operation: DeviceMapperError.Operation, _ request: ControlMessage, _ reply: @escaping Reply
  ) throws(ControlMessage.Malformed) {
    var request = request
    let done: UserspaceDeviceMapper.Completion = { result in
      changed()
      switch result {
      case .success: reply(ControlMessage(["ok"]))
      case .failure(let error): reply(ControlMessage(error))
      }
    }
    if operation == .create {
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
    if operation == .suspend {
      mapper.suspend(device, options, done)
    } else {
      mapper.resume(device, options, done)
    }
  }

  // MARK: - Queries

  private func query(
    _ operation: DeviceMapperError.Operation, _ request: ControlMessage, _ reply: @escaping Reply
  ) throws(ControlMessage.Malformed) {
    var request = request
    let device = try request.reference()
    let options = QueryOptions(rawValue: try request.number())
    switch operation {
    case .info:
      guard let info = mapper.info(device, options) else { return reply(.none) }
      var answer = ControlMessage(["ok"])
      answer.put(info)
      reply(answer)
    case .deps:
      guard let found = mapper.dependencies(device, options) else { return reply(.none) }
      var answer = ControlMessage(["ok"])
      answer.put(found.info)
      for number in found.devices {
        answer.put(number.major)
        answer.put(number.minor)
      }
      reply(answer)
    case .wait:
      mapper.wait(device, eventNumber: try request.number()) { result in
        switch result {
        case .success: reply(answer(mapper.status(device, options)))
        case .failure(let error): reply(ControlMessage(error))
        }
      }
    case .status:
      let table = mapper.status(device, options)
      // Asking for the status of a pool can change its mode.
      changed()
      reply(answer(table))
    default: reply(answer(mapper.table(device, options)))
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
