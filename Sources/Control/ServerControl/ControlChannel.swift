import CDMThin
import DeviceMapper
import Glibc

/// A connection to the control socket of a server, over which lines of the control protocol are
/// exchanged.
final class ControlChannel {
  /// The longest answer, in bytes, with all lines before it.
  private static let answerBytesMax = 64 << 20

  /// How long to wait for an answer before probing whether the server still runs, in milliseconds.
  var patience: Int32 = 30_000
  /// How long to wait for the answer to a probe. A command with many changes may delay it.
  var probePatience: (query: Int32, change: Int32) = (30_000, 270_000)

  private let path: String
  private(set) var descriptor: Int32 = -1
  private var received: [UInt8] = []
  /// The bytes received since the last request was sent.
  private var answerBytes = 0
  /// Whether it is a probe, which only makes the first exchange.
  private var isProbe = false

  init(path: String) { self.path = path }

  deinit {
    if descriptor >= 0 { close(descriptor) }
  }

  /// Whether there is a connection.
  var isConnected: Bool { descriptor >= 0 }
  /// Whether there are received bytes that were not read yet.
  var hasBytes: Bool { !received.isEmpty }

  private func hangUp() {
    if descriptor >= 0 { close(descriptor) }
    descriptor = -1
    received = []
  }

  // MARK: - Connecting

  private func connect(_ verb: ControlVerb, _ device: String) throws(DeviceMapperError) {
    let fd = dmthin_stream_socket(AF_UNIX)
    var status = unsafe fd < 0 ? -1 : dmthin_connect_unix(fd, path)
    // The server's backlog is full.
    for _ in 0..<50 where status != 0 && fd >= 0 && errno == EAGAIN {
      usleep(100_000)
      status = unsafe dmthin_connect_unix(fd, path)
    }
    var user: UInt32 = 0
    if status == 0 { status = unsafe dmthin_peer_user(fd, &user) }
    guard status == 0 else {
      let code = errno
      if fd >= 0 { close(fd) }
      throw DeviceMapperError(
        verb.operation, device: device, code: code,
        messages: [unsafe "no server answers at \(path): \(String(cString: strerror(code)))"])
    }
    // The server of another user could return anything; even root must not trust it.
    guard user == 0 || user == geteuid() else {
      close(fd)
      throw DeviceMapperError(
        verb.operation, device: device, code: EPERM,
        messages: [
          "the server at \(path) is of user \(user), who is neither root nor this user, and is not "
            + "trusted; to use it anyway, run the command as that user"
        ])
    }
    descriptor = fd
    received = []
    try greet(verb, device)
  }

  /// Makes the first exchange, which selects a version that both sides speak.
  private func greet(_ verb: ControlVerb, _ device: String) throws(DeviceMapperError) {
    answerBytes = 0
    guard send(ControlProtocol.greeting.line, verb), let line = receiveLine(verb) else {
      let code = errno
      hangUp()
      guard code == ECONNRESET || code == EPIPE else { throw lost(verb, device, code) }
      throw DeviceMapperError(
        verb.operation, device: device, code: EPROTONOSUPPORT,
        messages: [
          "the program at \(path) hung up at the first line: it is an older dmthin serve than this program, "
            + "or none; use the dmthin that it was started with, or end it and start this one"
        ])
    }
    var refusal: DeviceMapperError?
    do throws(ControlMessage.Malformed) {
      let answer = try ControlMessage(line: line)
      switch answer.word {
      case ControlProtocol.hello:
        let version: UInt32 = try answer.number("version")
        if ControlProtocol.versions.contains(version) { return }
      case "error": refusal = try answer.error(verb.operation)
      default: break
      }
    } catch {}
    hangUp()
    throw refusal.map {
      DeviceMapperError(verb.operation, device: device, code: $0.code, messages: $0.messages)
    } ?? malformed(verb, device)
  }

  // MARK: - Lines

  /// Sends a request; connects first if necessary.
  /// - Returns: whether it had to connect.
  func send(_ request: ControlMessage, _ verb: ControlVerb, _ device: String)
    throws(DeviceMapperError) -> Bool
  {
    let line = request.line
    guard line.count <= ControlMessage.requestBytesMax else {
      throw DeviceMapperError(verb.operation, device: device, code: E2BIG)
    }
    let isNew = descriptor < 0
    if isNew { try connect(verb, device) }
    answerBytes = 0
    guard send(line, verb) else { throw lost(verb, device, errno) }
    return isNew
  }

  /// The next line that the server sends.
  func receive(_ verb: ControlVerb, _ device: String) throws(DeviceMapperError) -> ControlMessage {
    guard let line = receiveLine(verb) else { throw lost(verb, device, errno) }
    return try understood(line, verb, device)
  }

  /// A line that was already received; nil if there is none.
  func receiveIfThere(_ verb: ControlVerb, _ device: String) throws(DeviceMapperError)
    -> ControlMessage?
  {
    guard descriptor >= 0 else { return nil }
    answerBytes = 0
    while !received.contains(ControlMessage.lineEnd) {
      switch receiveBytes(verb) {
      case nil: return nil
      case true?: continue
      case false?: throw lost(verb, device, errno)
      }
    }
    guard let line = receiveLine(verb) else { throw lost(verb, device, errno) }
    return try understood(line, verb, device)
  }

  private func understood(_ line: [UInt8], _ verb: ControlVerb, _ device: String)
    throws(DeviceMapperError) -> ControlMessage
  {
    do throws(ControlMessage.Malformed) {
      return try ControlMessage(line: line)
    } catch {
      throw malformed(verb, device)
    }
  }

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

  /// The next line; nil, with errno set, on failure. A signal interrupts only waiting.
  private func receiveLine(_ verb: ControlVerb) -> [UInt8]? {
    var searched = 0
    while true {
      if let end = received[searched...].firstIndex(of: ControlMessage.lineEnd) {
        defer { received.removeSubrange(...end) }
        return Array(received[..<end])
      }
      searched = received.count
      switch receiveBytes(verb) {
      case nil: guard wait(for: POLLIN, verb) else { return nil }
      case true?: continue
      case false?: return nil
      }
    }
  }

  /// Receives available bytes. Nil if there are none; false, with errno set, if the connection has
  /// ended.
  private func receiveBytes(_ verb: ControlVerb) -> Bool? {
    guard answerBytes < Self.answerBytesMax else {
      errno = EMSGSIZE
      return false
    }
    var n = 0
    repeat {
      n = unsafe withUnsafeTemporaryAllocation(byteCount: 65_536, alignment: 1) { chunk in
        let n = unsafe recv(descriptor, chunk.baseAddress, chunk.count, 0)
        if n > 0 { unsafe received += UnsafeRawBufferPointer(rebasing: chunk[..<n]) }
        return n
      }
    } while n < 0 && errno == EINTR && !verb.waits
    if n < 0, errno == EAGAIN { return nil }
    if n == 0 { errno = ECONNRESET }
    answerBytes += max(0, n)
    return n > 0
  }

  // MARK: - Waiting

  /// Waits until there is something to receive, or for a signal.
  /// - Parameter milliseconds: nil means for ever.
  /// - Returns: false after the time limit.
  func waitForBytes(milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    if !received.isEmpty { return true }
    let ready = Self.poll(descriptor, POLLIN, milliseconds.map { max(0, $0) } ?? -1)
    guard ready >= 0 else { throw DeviceMapperError(.wait, device: path, code: errno) }
    return ready > 0
  }

  /// Waits until the socket accepts or has bytes. That may take long, so from time to time a second
  /// connection probes whether the server answers at all.
  /// - Returns: false with errno set: ETIMEDOUT if it does not answer, EINTR after a signal that
  ///   interrupts waiting.
  private func wait(for events: Int32, _ verb: ControlVerb) -> Bool {
    while true {
      switch Self.poll(descriptor, events, patience) {
      case 1: return true
      case 0:
        guard !isProbe, isAlive(within: probeLimit(verb)) else {
          // The answer may have come in the meantime.
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
    return unsafe Glibc.poll(&entry, 1, milliseconds)
  }

  /// Whether the server answers a first line, which takes it no time.
  private func isAlive(within milliseconds: Int32) -> Bool {
    let probe = ControlChannel(path: path)
    probe.patience = milliseconds
    probe.isProbe = true
    do throws(DeviceMapperError) {
      try probe.connect(.version, "")
      return true
    } catch {
      // A server that has too many clients has at least answered this one.
      return error.code != ETIMEDOUT && error.code != EAGAIN
    }
  }

  private func probeLimit(_ verb: ControlVerb) -> Int32 {
    verb.isQuery ? probePatience.query : probePatience.change
  }

  // MARK: - Errors

  /// Closes the connection after the error `code`, and returns the error to throw.
  private func lost(_ verb: ControlVerb, _ device: String, _ code: Int32) -> DeviceMapperError {
    hangUp()
    // The caller waits for a signal too.
    let messages = code == EINTR ? [] : [sentence(verb, code)]
    return DeviceMapperError(verb.operation, device: device, code: code, messages: messages)
  }

  private func sentence(_ verb: ControlVerb, _ code: Int32) -> String {
    guard code == ETIMEDOUT else {
      return unsafe "the server at \(path) has gone: \(String(cString: strerror(code)))"
    }
    let seconds = (patience + probeLimit(verb)) / 1000
    let advice =
      verb.isQuery
      ? "try again" : "whether the command was executed is unknown: check before you try again"
    return "the program at \(path) has not answered for \(seconds) seconds; \(advice)"
  }

  /// Closes the connection after a malformed answer, and returns the error to throw.
  func malformed(_ verb: ControlVerb, _ device: String) -> DeviceMapperError {
    hangUp()
    return DeviceMapperError(
      verb.operation, device: device, code: EPROTO,
      messages: ["the program at \(path) is not dmthin serve"])
  }
}
