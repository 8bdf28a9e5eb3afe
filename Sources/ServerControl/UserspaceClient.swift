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

  private let path: String
  private var descriptor: Int32 = -1
  private var received: [UInt8] = []

  /// A client of the server whose control socket is at `path`; it connects with the first command.
  public init(path: String) { self.path = path }

  deinit {
    if descriptor >= 0 { close(descriptor) }
  }

  // MARK: - Talking

  /// Sends a request, and gives the fields of its answer; nil where the device does not exist.
  private func ask(
    _ operation: DeviceMapperError.Operation, _ device: String,
    _ build: (inout ControlMessage) -> Void = { _ in }
  ) throws(DeviceMapperError) -> ControlMessage? {
    var request = ControlMessage([operation.rawValue])
    build(&request)
    try connect(operation, device)
    guard send(request.line), let line = receiveLine() else {
      let code = errno
      close(descriptor)
      descriptor = -1
      throw DeviceMapperError(
        operation, device: device, code: code,
        messages: ["the server at \(path) has gone: \(String(cString: strerror(code)))"])
    }
    let failure: DeviceMapperError
    do throws(ControlMessage.Malformed) {
      var answer = try ControlMessage(line: line)
      switch try answer.text() {
      case "ok": return answer
      case "none": return nil
      case "error": failure = try answer.error()
      default: throw ControlMessage.Malformed()
      }
    } catch {
      throw malformed(operation, device)
    }
    throw failure
  }

  private func malformed(_ operation: DeviceMapperError.Operation, _ device: String)
    -> DeviceMapperError
  {
    DeviceMapperError(
      operation, device: device, code: EPROTO,
      messages: ["what answers at \(path) is no dmthin serve"])
  }

  private func connect(_ operation: DeviceMapperError.Operation, _ device: String)
    throws(DeviceMapperError)
  {
    guard descriptor < 0 else { return }
    let fd = dmthin_stream_socket(AF_UNIX)
    var status = fd < 0 ? -1 : dmthin_connect_unix(fd, path)
    if status != 0, errno == EAGAIN {
      // The server has its hands full.
      usleep(100_000)
      status = dmthin_connect_unix(fd, path)
    }
    guard status == 0 else {
      let code = errno
      if fd >= 0 { close(fd) }
      throw DeviceMapperError(
        operation, device: device, code: code,
        messages: ["no server answers at \(path): \(String(cString: strerror(code)))"])
    }
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
    descriptor = fd
    received = []
  }

  private func send(_ bytes: [UInt8]) -> Bool {
    var done = 0
    while done < bytes.count {
      let n = bytes.withUnsafeBytes { raw in
        Glibc.send(
          descriptor, raw.baseAddress.map { $0 + done }, raw.count - done,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return false }
      done += n
    }
    return true
  }

  /// The next line; nil, with errno set, where none comes.
  private func receiveLine() -> [UInt8]? {
    var searched = 0
    while true {
      if let end = received[searched...].firstIndex(of: 10) {
        defer { received.removeSubrange(...end) }
        return Array(received[..<end])
      }
      searched = received.count
      guard searched < Self.answerBytesMax else {
        errno = EMSGSIZE
        return nil
      }
      var chunk = [UInt8](repeating: 0, count: 65_536)
      let n = recv(descriptor, &chunk, chunk.count, 0)
      guard n > 0 else {
        if n == 0 { errno = ECONNRESET }
        return nil
      }
      received += chunk[..<n]
    }
  }

  /// Reads an answer with `body`.
  private func read<Value>(
    _ answer: ControlMessage, _ operation: DeviceMapperError.Operation, _ device: String,
    _ body: (inout ControlMessage) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value {
    var answer = answer
    do throws(ControlMessage.Malformed) {
      _ = try answer.text()
      return try body(&answer)
    } catch {
      throw malformed(operation, device)
    }
  }

  // MARK: - Commands

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

  public func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    _ = try ask(.reload, "\(device) ") { message in
      message.put(device)
      message.put(readOnly)
      message.put(table)
    }
  }

  public func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    _ = try ask(.clear, "\(device) ") { $0.put(device) }
  }

  public func suspend(_ device: DeviceReference, _ options: SuspendOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.suspend, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
    }
  }

  public func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  {
    _ = try ask(.resume, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
    }
  }

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

  public func removeAll(deferred: Bool) throws(DeviceMapperError) {
    _ = try ask(.removeAll, "") { $0.put(deferred) }
  }

  public func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError) {
    try rename(device, name, isUUID: false)
  }

  public func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    try rename(device, uuid, isUUID: true)
  }

  private func rename(_ device: DeviceReference, _ text: String, isUUID: Bool)
    throws(DeviceMapperError)
  {
    _ = try ask(.rename, "\(device) ") { message in
      message.put(device)
      message.put(text)
      message.put(isUUID)
    }
  }

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
    _ operation: DeviceMapperError.Operation, _ device: DeviceReference, _ options: QueryOptions,
    eventNumber: UInt32? = nil,
    _ body: (inout ControlMessage) throws(ControlMessage.Malformed) -> Value
  ) throws(DeviceMapperError) -> Value? {
    let answer = try ask(operation, "\(device) ") { message in
      message.put(device)
      message.put(options.rawValue)
      if let eventNumber { message.put(eventNumber) }
    }
    guard let answer else { return nil }
    return try read(answer, operation, "\(device) ", body)
  }

  public func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    try query(.info, device, options) { message throws(ControlMessage.Malformed) in
      try message.info()
    }
  }

  public func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.status, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  public func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.table, device, options) { message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  public func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(.wait, device, options, eventNumber: eventNumber) {
      message throws(ControlMessage.Malformed) in
      DeviceTable(info: try message.info(), lines: try message.lines())
    }
  }

  public func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  {
    try query(.deps, device, options) { message throws(ControlMessage.Malformed) in
      let info = try message.info()
      var devices: [DeviceNumber] = []
      while !message.isAtEnd {
        devices.append(DeviceNumber(major: try message.number(), minor: try message.number()))
      }
      return DeviceDependencies(info: info, devices: devices)
    }
  }

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
      return entries
    }
  }

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

  public func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? {
    try targets().first { $0.name == type }
  }

  public func driverVersion() throws(DeviceMapperError) -> String {
    guard let answer = try ask(.version, "") else { return "" }
    return try read(answer, .version, "") { message throws(ControlMessage.Malformed) in
      try message.text()
    }
  }

  /// There are no nodes.
  public func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {}

  public func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? {
    let info = try? self.info(.number(number), [])
    return info.map { prefersMapped ? $0.name : "dm-\(number.minor)" }
  }
}
