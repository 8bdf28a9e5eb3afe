public import DeviceMapper
import Glibc

/// A client of a running `dmthin serve`, over its control socket.
public final class UserspaceClient: DeviceMapperBackend {
  /// Settings of the backend; a server ignores them.
  public var settings = BackendSettings()
  /// Prints a warning about a command that succeeded.
  public var warn: (String) -> Void = { _ in }
  /// Reports the progress of a long command: a title, steps done, and the total (0 if unknown).
  public var progress: (String, UInt64, UInt64) -> Void = { _, _, _ in }
  /// Nil: there is no library.
  public var libraryVersion: String? { nil }

  let channel: ControlChannel
  private var lastID: UInt64 = 0
  private var isSubscribed = false

  /// A client of the server whose control socket is at `path`; it connects with the first command.
  public init(path: String) { channel = ControlChannel(path: path) }

  // MARK: - Requests

  /// An answer, with the items that came before it.
  private struct Answer {
    var message: ControlMessage
    var items: [ControlMessage] = []
  }

  /// Sends a request and returns its answer; nil if the device does not exist.
  private func ask(
    _ verb: ControlVerb, _ device: String, _ build: (inout ControlMessage) -> Void = { _ in }
  ) throws(DeviceMapperError) -> Answer? {
    var request = ControlMessage(verb.rawValue)
    lastID &+= 1
    request.put("id", lastID)
    build(&request)
    if try channel.send(request, verb, device) { isSubscribed = false }
    var items: [ControlMessage] = []
    while true {
      let message = try channel.receive(verb, device)
      var failure: DeviceMapperError?
      do throws(ControlMessage.Malformed) {
        // There is only one request at a time, so an answer without an id belongs to it.
        let isForThis = try message.numberIfThere("id", UInt64.self).map { $0 == lastID } ?? true
        switch message.word {
        case "ok" where isForThis: return Answer(message: message, items: items)
        case "none" where isForThis: return nil
        case "item" where isForThis: items.append(message)
        case "progress" where isForThis:
          progress(
            try message.text("title"), try message.number("done"),
            try message.numberIfThere("total") ?? 0)
        case "event": try take(message)
        case "error" where isForThis: failure = try message.error(verb.operation)
        // Sent by a newer server.
        default: continue
        }
      } catch {
        throw channel.malformed(verb, device)
      }
      if let failure { throw failure }
    }
  }

  /// Parses an answer with `body`.
  private func read<Value>(
    _ answer: Answer, _ verb: ControlVerb, _ device: String,
    _ body: (Answer) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value {
    do throws(ControlMessage.Malformed) {
      return try body(answer)
    } catch {
      throw channel.malformed(verb, device)
    }
  }

  // MARK: - Commands

  /// See `DeviceMapperBackend`.
  public func create(_ request: DeviceCreation) throws(DeviceMapperError) {
    _ = try ask(.create, "\(request.name) \(request.uuid ?? "")") { message in
      message.put("name", request.name)
      if let uuid = request.uuid { message.put("uuid", uuid) }
      message.put("major", request.major)
      message.put("minor", request.minor)
      message.put("read_only", if: request.isReadOnly)
      message.put("table", if: request.table != nil)
      message.put(request.table ?? [])
    }
  }

  /// See `DeviceMapperBackend`.
  public func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    _ = try ask(.reload, "\(device) ") { message in
      message.put(device)
      message.put("read_only", if: readOnly)
      message.put(table)
    }
  }

  /// See `DeviceMapperBackend`.
  public func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    _ = try ask(.clear, "\(device) ") { $0.put(device) }
  }

  /// See `DeviceMapperBackend`.
  public func suspend(_ device: DeviceReference, _ options: SuspendOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.suspend, "\(device) ") { message in
      message.put(device)
      message.put("options", options.rawValue)
    }
  }

  /// See `DeviceMapperBackend`.
  public func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.resume, "\(device) ") { message in
      message.put(device)
      message.put("options", options.rawValue)
    }
  }

  /// See `DeviceMapperBackend`.
  public func remove(_ device: DeviceReference, deferred: Bool, retry: Bool)
    throws(DeviceMapperError)
  {
    for attempt in 0... {
      do throws(DeviceMapperError) {
        _ = try ask(.remove, "\(device) ") { message in
          message.put(device)
          message.put("deferred", if: deferred)
        }
        return
      } catch {
        guard retry, error.code == EBUSY, attempt < 25 else { throw error }
        usleep(200_000)
      }
    }
  }

  /// See `DeviceMapperBackend`.
  public func removeAll(deferred: Bool) throws(DeviceMapperError) {
    _ = try ask(.removeAll, "") { $0.put("deferred", if: deferred) }
  }

  /// See `DeviceMapperBackend`.
  public func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError) {
    _ = try ask(.rename, "\(device) ") { message in
      message.put(device)
      message.put("name", name)
    }
  }

  /// See `DeviceMapperBackend`.
  public func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    _ = try ask(.setUUID, "\(device) ") { message in
      message.put(device)
      message.put("uuid", uuid)
    }
  }

  /// See `DeviceMapperBackend`.
  public func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    let answer = try ask(.message, "\(device) ") { message in
      message.put(device)
      message.put("sector", sector)
      message.put("text", text)
    }
    return answer?.message.all("result").first
  }

  // MARK: - Queries

  /// Queries a device.
  private func query<Value>(
    _ verb: ControlVerb, _ device: DeviceReference, _ options: QueryOptions,
    eventNumber: UInt32? = nil,
    _ body: (ControlMessage) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value? {
    let answer = try ask(verb, "\(device) ") { message in
      message.put(device)
      message.put("options", options.rawValue)
      message.put("event_number", eventNumber)
    }
    guard let answer else { return nil }
    return try read(answer, verb, "\(device) ") { answer throws(ControlMessage.Malformed) in
      try body(answer.message)
    }
  }

  /// See `DeviceMapperBackend`.
  public func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    try query(.info, device, options) { message throws(ControlMessage.Malformed) in
      try message.info()
    }
  }

  /// See `DeviceMapperBackend`.
  public func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.status, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// See `DeviceMapperBackend`.
  public func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.table, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// See `DeviceMapperBackend`.
  public func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.wait, device, options, eventNumber: eventNumber) {
      message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// See `DeviceMapperBackend`.
  public func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  {
    try query(.dependencies, device, options) { message throws(ControlMessage.Malformed) in
      var devices: [DeviceNumber] = []
      for text in message.all("dependency") {
        devices.append(try ControlMessage.deviceNumber(text))
      }
      return DeviceDependencies(info: try message.info(), devices: devices)
    }
  }

  /// See `DeviceMapperBackend`.
  public func list() throws(DeviceMapperError) -> [DeviceEntry] {
    guard let answer = try ask(.list, "") else { return [] }
    return try read(answer, .list, "") { answer throws(ControlMessage.Malformed) in
      var entries: [DeviceEntry] = []
      for item in answer.items {
        entries.append(
          DeviceEntry(
            name: try item.text("name"), number: try item.deviceNumber("number"),
            eventNumber: try item.number("event_number"),
            uuid: try item.textIfThere("uuid") ?? ""))
      }
      // The server lists them unsorted.
      return entries.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    }
  }

  /// See `DeviceMapperBackend`.
  public func targets() throws(DeviceMapperError) -> [TargetVersion] {
    guard let answer = try ask(.targets, "") else { return [] }
    return try read(answer, .targets, "") { answer throws(ControlMessage.Malformed) in
      var versions: [TargetVersion] = []
      for item in answer.items {
        versions.append(
          TargetVersion(
            name: try item.text("name"), major: try item.number("major"),
            minor: try item.number("minor"), patch: try item.number("patch")))
      }
      return versions
    }
  }

  /// See `DeviceMapperBackend`.
  public func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? {
    try targets().first { $0.name == type }
  }

  /// See `DeviceMapperBackend`.
  public func driverVersion() throws(DeviceMapperError) -> String {
    guard let answer = try ask(.version, "") else { return "" }
    return try read(answer, .version, "") { answer throws(ControlMessage.Malformed) in
      try answer.message.text("driver")
    }
  }

  /// The NBD addresses of the server: paths of unix sockets, and addresses with ports.
  public func listeners() throws(DeviceMapperError) -> [String] {
    try ask(.listeners, "")?.message.all("listener") ?? []
  }

  /// Does nothing, because there are no nodes.
  public func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {}

  /// See `DeviceMapperBackend`.
  public func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? {
    let info = try? self.info(.number(number), [])
    return info.map { prefersMapped ? $0.name : "dm-\(number.minor)" }
  }

  /// The path by which the server opened a device or file used by a table.
  public func path(of number: DeviceNumber) -> String? {
    let answer = try? ask(.path, "\(number) ") { message in
      message.put("number", number)
    }
    return answer?.message.all("path").first
  }

  /// Files are accepted like devices.
  public var takesFiles: Bool { true }

  // MARK: - Events

  /// Events that were received and not taken yet. The oldest are dropped if there are too many.
  private var events: [ControlEvent] = []
  private static let eventsMax = 4096

  private func take(_ message: ControlMessage) throws(ControlMessage.Malformed) {
    guard let event = try ControlEvent(message) else { return }
    guard events.count < Self.eventsMax else {
      events = [ControlEvent(.lost)]
      return
    }
    events.append(event)
  }

  /// Subscribes this connection to events.
  public func subscribe() throws(DeviceMapperError) {
    if isSubscribed && channel.isConnected { return }
    _ = try ask(.subscribe, "")
    isSubscribed = true
  }

  /// The events received since the last call, in order. Does not wait. If the server has gone, it
  /// throws after all earlier events were taken.
  public func takeEvents() throws(DeviceMapperError) -> [ControlEvent] {
    do throws(DeviceMapperError) {
      while let message = try channel.receiveIfThere(.wait, "") {
        guard message.word == "event" else { continue }
        do throws(ControlMessage.Malformed) {
          try take(message)
        } catch {
          throw channel.malformed(.wait, "")
        }
      }
    } catch {
      if events.isEmpty { throw error }
    }
    defer { events = [] }
    return events
  }
}

extension UserspaceClient: DeviceEventSource {
  /// See `DeviceEventSource`.
  public func armEvents() throws(DeviceMapperError) {
    try subscribe()
    // Earlier events do not count.
    _ = try takeEvents()
  }

  /// See `DeviceEventSource`.
  public func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    if !events.isEmpty { return true }
    return try channel.waitForBytes(milliseconds: milliseconds)
  }

  /// See `DeviceEventSource`.
  public var eventDescriptor: Int32 { channel.descriptor }
  /// See `DeviceEventSource`.
  public var hasEvents: Bool { !events.isEmpty || channel.hasBytes }
}

extension ControlVerb {
  /// Whether the verb changes nothing.
  var isQuery: Bool {
    switch self {
    case .info, .status, .table, .list, .targets, .version, .dependencies, .path, .listeners, .wait,
      .subscribe:
      true
    default: false
    }
  }

  /// Whether the verb waits for an event, so that a signal interrupts it.
  var waits: Bool { self == .wait }

  /// Its name in messages.
  var operation: DeviceMapperError.Operation {
    switch self {
    case .create: .create
    case .reload: .reload
    case .clear: .clear
    case .suspend: .suspend
    case .resume: .resume
    case .remove: .remove
    case .rename, .setUUID: .rename
    case .message: .message
    case .removeAll: .removeAll
    case .info, .path: .info
    case .status: .status
    case .table: .table
    case .list, .listeners: .list
    case .targets: .targets
    case .version: .version
    case .wait, .subscribe: .wait
    case .dependencies: .deps
    }
  }
}
