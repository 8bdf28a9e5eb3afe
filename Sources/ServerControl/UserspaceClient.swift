import CDMThin
public import DeviceMapper
import Glibc

/// A running `dmthin serve`, by its control socket.
public final class UserspaceClient: DeviceMapperBackend {
  /// No answer is longer.
  private static let answerBytesMax = 64 << 20

  /// How commands are carried out; none of it matters to a server.
  public var settings = BackendSettings()
  /// Told what went wrong in a command that went on all the same.
  public var warn: (String) -> Void = { _ in }
  /// There is none.
  public var libraryVersion: String? { nil }

  /// How long to wait for an answer before asking whether the server is still there, in milliseconds.
  var patience: Int32 = 30_000
  /// How long to wait for that answer. One that changes much may take its time over it.
  var probePatience: (query: Int32, change: Int32) = (30_000, 270_000)

  private let path: String
  private var descriptor: Int32 = -1
  private var received: [UInt8] = []
  /// It is there to see whether the server answers, and asks no further.
  private var isProbe = false

  /// A client of the server whose control socket is at `path`; it connects with the first command.
  public init(path: String) { self.path = path }

  deinit {
    if descriptor >= 0 { close(descriptor) }
  }

  // MARK: - Talking

  /// Sends a request, and gives the fields of its answer; nil where the device does not exist.
  private func ask(
    _ verb: ControlVerb, _ device: String, _ build: (inout ControlMessage) -> Void = { _ in }
  ) throws(DeviceMapperError) -> ControlMessage? {
    var request = ControlMessage([verb.rawValue])
    build(&request)
    let line = request.line
    guard line.count <= ControlMessage.requestBytesMax else {
      throw DeviceMapperError(verb.operation, device: device, code: E2BIG)
    }
    if descriptor < 0 { try connect(verb, device) }
    guard send(line, verb), let answer = receiveLine(verb) else {
      let code = errno
      close(descriptor)
      descriptor = -1
      // A signal while waiting is what the caller waits for too.
      if code == EINTR { throw DeviceMapperError(verb.operation, device: device, code: code) }
      throw DeviceMapperError(
        verb.operation, device: device, code: code, messages: [lost(verb, code)])
    }
    let failure: DeviceMapperError
    do throws(ControlMessage.Malformed) {
      var answer = try ControlMessage(line: answer)
      switch try answer.text() {
      case "ok": return answer
      case "none": return nil
      case "error": failure = try answer.error()
      default: throw ControlMessage.Malformed()
      }
    } catch {
      throw malformed(verb, device)
    }
    throw failure
  }

  private func lost(_ verb: ControlVerb, _ code: Int32) -> String {
    guard code == ETIMEDOUT else {
      return "the server at \(path) has gone: \(String(cString: strerror(code)))"
    }
    let seconds = (patience + probeLimit(verb)) / 1000
    let advice =
      verb.isQuery
      ? "try again" : "whether it has done what was asked is not known: look before you try again"
    return "what listens at \(path) has given no sign of life for \(seconds) seconds; \(advice)"
  }

  private func probeLimit(_ verb: ControlVerb) -> Int32 {
    verb.isQuery ? probePatience.query : probePatience.change
  }

  private func malformed(_ verb: ControlVerb, _ device: String) -> DeviceMapperError {
    DeviceMapperError(
      verb.operation, device: device, code: EPROTO,
      messages: ["what answers at \(path) is no dmthin serve"])
  }

  private func connect(_ verb: ControlVerb, _ device: String) throws(DeviceMapperError) {
    let fd = dmthin_stream_socket(AF_UNIX)
    var status = fd < 0 ? -1 : dmthin_connect_unix(fd, path)
    // The server has its hands full.
    for _ in 0..<50 where status != 0 && fd >= 0 && errno == EAGAIN {
      usleep(100_000)
      status = dmthin_connect_unix(fd, path)
    }
    var user: UInt32 = 0
    if status == 0 { status = dmthin_peer_user(fd, &user) }
    guard status == 0 else {
      let code = errno
      if fd >= 0 { close(fd) }
      throw DeviceMapperError(
        verb.operation, device: device, code: code,
        messages: ["no server answers at \(path): \(String(cString: strerror(code)))"])
    }
    // Another's server could make believe anything, root as well.
    guard user == 0 || user == geteuid() else {
      close(fd)
      throw DeviceMapperError(
        verb.operation, device: device, code: EPERM,
        messages: [
          "the server at \(path) is of user \(user), who is neither root nor this user, and is not "
            + "trusted; run the command as that user if it is the one that you mean"
        ])
    }
    descriptor = fd
    received = []
  }

  // MARK: - Waiting

  private func send(_ line: [UInt8], _ verb: ControlVerb) -> Bool {
    var outgoing = OutgoingBytes(line)
    while true {
      switch outgoing.send(to: descriptor) {
      case .done: return true
      case .failed: return false
      case .waits: guard wait(for: POLLOUT, verb) else { return false }
      }
    }
  }

  /// The next line; nil, with errno set, where none comes. A signal ends nothing but waiting.
  private func receiveLine(_ verb: ControlVerb) -> [UInt8]? {
    var searched = 0
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while true {
      if let end = received[searched...].firstIndex(of: ControlMessage.lineEnd) {
        defer { received.removeSubrange(...end) }
        return Array(received[..<end])
      }
      searched = received.count
      guard searched < Self.answerBytesMax else {
        errno = EMSGSIZE
        return nil
      }
      let n = recv(descriptor, &chunk, chunk.count, 0)
      if n < 0, errno == EAGAIN {
        guard wait(for: POLLIN, verb) else { return nil }
        continue
      }
      if n < 0, errno == EINTR, !verb.waits { continue }
      guard n > 0 else {
        if n == 0 { errno = ECONNRESET }
        return nil
      }
      received += chunk[..<n]
    }
  }

  /// Waits until the socket takes or has bytes. That may take long, so that from time to time another
  /// connection is made, to see whether the server answers at all.
  /// - Returns: false with errno set: ETIMEDOUT where it does not, EINTR upon a signal that ends waiting.
  private func wait(for events: Int32, _ verb: ControlVerb) -> Bool {
    while true {
      switch Self.poll(descriptor, events, patience) {
      case 1: return true
      case 0:
        guard !isProbe, isAlive(within: probeLimit(verb)) else {
          // The answer may have come meanwhile.
          if Self.poll(descriptor, events, 0) == 1 { return true }
          errno = ETIMEDOUT
          return false
        }
      default: guard errno == EINTR, !verb.waits else { return false }
      }
    }
  }

  private static func poll(_ descriptor: Int32, _ events: Int32, _ milliseconds: Int32) -> Int32 {
    var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
    return Glibc.poll(&entry, 1, milliseconds)
  }

  /// Whether the server answers a question that takes no time.
  private func isAlive(within milliseconds: Int32) -> Bool {
    let probe = UserspaceClient(path: path)
    probe.patience = milliseconds
    probe.isProbe = true
    do throws(DeviceMapperError) {
      _ = try probe.driverVersion()
      return true
    } catch {
      // One that lets nobody in any more has looked who comes.
      return error.code != ETIMEDOUT && error.code != EAGAIN
    }
  }

  /// Reads with `body` what an answer says after its first field.
  private func read<Value>(
    _ answer: ControlMessage, _ verb: ControlVerb, _ device: String,
    _ body: (inout ControlMessage) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value {
    var answer = answer
    do throws(ControlMessage.Malformed) {
      return try body(&answer)
    } catch {
      throw malformed(verb, device)
    }
  }

  // MARK: - Commands

  /// As `DeviceMapperBackend` says.
  public func create(_ request: DeviceCreation) throws(DeviceMapperError) {
    _ = try ask(.create, "\(request.name) \(request.uuid ?? "")") { message in
      message.put(request.name)
      message.put(request.uuid ?? "")
      message.put(request.major)
      message.put(request.minor)
      message.put(request.isReadOnly)
      message.put(request.table != nil)
      message.put(request.table ?? [])
    }
  }

  /// As `DeviceMapperBackend` says.
  public func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    _ = try ask(.reload, "\(device) ") { message in
      message.put(device)
      message.put(readOnly)
      message.put(table)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    _ = try ask(.clear, "\(device) ") { $0.put(device) }
  }

  /// As `DeviceMapperBackend` says.
  public func suspend(_ device: DeviceReference, _ options: SuspendOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.suspend, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.resume, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func remove(_ device: DeviceReference, deferred: Bool, retry: Bool)
    throws(DeviceMapperError)
  {
    for attempt in 0... {
      do throws(DeviceMapperError) {
        _ = try ask(.remove, "\(device) ") { message in
          message.put(device)
          message.put(deferred)
        }
        return
      } catch {
        guard retry, error.code == EBUSY, attempt < 25 else { throw error }
        usleep(200_000)
      }
    }
  }

  /// As `DeviceMapperBackend` says.
  public func removeAll(deferred: Bool) throws(DeviceMapperError) {
    _ = try ask(.removeAll, "") { $0.put(deferred) }
  }

  /// As `DeviceMapperBackend` says.
  public func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError) {
    _ = try ask(.rename, "\(device) ") { message in
      message.put(device)
      message.put(name)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    _ = try ask(.setUUID, "\(device) ") { message in
      message.put(device)
      message.put(uuid)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    let answer = try ask(.message, "\(device) ") { message in
      message.put(device)
      message.put(sector)
      message.put(text)
    }
    return answer.flatMap { $0.fields.count > 1 ? $0.fields[1] : nil }
  }

  // MARK: - Queries

  /// Asks about a device.
  private func query<Value>(
    _ verb: ControlVerb, _ device: DeviceReference, _ options: QueryOptions,
    eventNumber: UInt32? = nil,
    _ body: (inout ControlMessage) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value? {
    let answer = try ask(verb, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
      if let eventNumber { message.put(eventNumber) }
    }
    guard let answer else { return nil }
    return try read(answer, verb, "\(device) ", body)
  }

  /// As `DeviceMapperBackend` says.
  public func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    try query(.info, device, options) { message throws(ControlMessage.Malformed) in
      try message.info()
    }
  }

  /// As `DeviceMapperBackend` says.
  public func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.status, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// As `DeviceMapperBackend` says.
  public func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.table, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// As `DeviceMapperBackend` says.
  public func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.wait, device, options, eventNumber: eventNumber) {
      message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  /// As `DeviceMapperBackend` says.
  public func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  {
    try query(.dependencies, device, options) { message throws(ControlMessage.Malformed) in
      let info = try message.info()
      var devices: [DeviceNumber] = []
      while !message.isAtEnd {
        devices.append(DeviceNumber(major: try message.number(), minor: try message.number()))
      }
      return DeviceDependencies(info: info, devices: devices)
    }
  }

  /// As `DeviceMapperBackend` says.
  public func list() throws(DeviceMapperError) -> [DeviceEntry] {
    guard let answer = try ask(.list, "") else { return [] }
    return try read(answer, .list, "") { message throws(ControlMessage.Malformed) in
      var entries: [DeviceEntry] = []
      while !message.isAtEnd {
        entries.append(
          DeviceEntry(
            name: try message.text(),
            number: DeviceNumber(major: try message.number(), minor: try message.number()),
            eventNumber: try message.number(), uuid: try message.text()))
      }
      // The server tells them as it finds them.
      return entries.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    }
  }

  /// As `DeviceMapperBackend` says.
  public func targets() throws(DeviceMapperError) -> [TargetVersion] {
    guard let answer = try ask(.targets, "") else { return [] }
    return try read(answer, .targets, "") { message throws(ControlMessage.Malformed) in
      var versions: [TargetVersion] = []
      while !message.isAtEnd {
        versions.append(
          TargetVersion(
            name: try message.text(), major: try message.number(), minor: try message.number(),
            patch: try message.number()))
      }
      return versions
    }
  }

  /// As `DeviceMapperBackend` says.
  public func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? {
    try targets().first { $0.name == type }
  }

  /// As `DeviceMapperBackend` says.
  public func driverVersion() throws(DeviceMapperError) -> String {
    guard let answer = try ask(.version, "") else { return "" }
    return try read(answer, .version, "") { message throws(ControlMessage.Malformed) in
      try message.text()
    }
  }

  /// What NBD clients can connect to: paths of unix sockets, and addresses with ports.
  public func listeners() throws(DeviceMapperError) -> [String] {
    guard let answer = try ask(.listeners, "") else { return [] }
    return try read(answer, .listeners, "") { message throws(ControlMessage.Malformed) in
      var names: [String] = []
      while !message.isAtEnd { names.append(try message.text()) }
      return names
    }
  }

  /// There are no nodes.
  public func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {}

  /// As `DeviceMapperBackend` says.
  public func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? {
    let info = try? self.info(.number(number), [])
    return info.map { prefersMapped ? $0.name : "dm-\(number.minor)" }
  }

  /// The path by which the server opened a device or file below a table.
  public func path(of number: DeviceNumber) -> String? {
    let answer = try? ask(.path, "\(number) ") { message in
      message.put(number.major)
      message.put(number.minor)
    }
    guard let fields = answer?.fields, fields.count == 2 else { return nil }
    return fields[1]
  }

  /// Files serve as well as devices.
  public var takesFiles: Bool { true }

  // MARK: - Events

  private var armed: UInt64 = 0
}

extension UserspaceClient: DeviceEventSource {
  /// As `DeviceEventSource` says.
  public func armEvents() throws(DeviceMapperError) {
    guard let answer = try ask(.armEvents, "") else { return }
    armed = try read(answer, .armEvents, "") { message throws(ControlMessage.Malformed) in
      try message.number()
    }
  }

  /// As `DeviceEventSource` says.
  public func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    let answer = try ask(.awaitEvents, "") { message in
      message.put(armed)
      message.put(milliseconds.map { UInt32(clamping: $0) })
    }
    guard let answer else { return false }
    return try read(answer, .awaitEvents, "") { message throws(ControlMessage.Malformed) in
      try message.flag()
    }
  }
}

extension ControlVerb {
  /// Whether it changes nothing.
  fileprivate var isQuery: Bool {
    switch self {
    case .info, .status, .table, .list, .targets, .version, .dependencies, .path, .listeners, .wait,
      .armEvents, .awaitEvents:
      true
    default: false
    }
  }

  /// Whether it waits for an event, which a signal ends.
  fileprivate var waits: Bool { self == .wait || self == .awaitEvents }

  /// What messages call it.
  fileprivate var operation: DeviceMapperError.Operation {
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
    case .wait, .armEvents, .awaitEvents: .wait
    case .dependencies: .deps
    }
  }
}
