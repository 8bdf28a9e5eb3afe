import DataPath
import EventLoop
import Glibc
import ServerControl

/// Answers `GET /metrics` in Prometheus' text format, one request per connection.
///
/// The text is made a piece at a time, between other work, and sent to all clients that ask within
/// a second. At most two texts are kept: while a client is still receiving an earlier text than the
/// last one, all others get the last one.
final class MetricsDoor {
  private static let connectionsMax = 16
  /// The time limit for receiving a request and sending the answer, in nanoseconds.
  fileprivate static let connectionNanoseconds: UInt64 = 10_000_000_000
  private static let cachedNanoseconds: UInt64 = 1_000_000_000

  fileprivate let loop: EventLoop
  private let begin: () -> MetricsText
  private var doors: [AcceptingDoor] = []
  private var connections: [MetricsConnection] = []
  /// The text that is being made.
  private var unfinished: MetricsText?
  /// A piece of it is being made.
  private var isStepping = false
  /// The last answer, and when it was made.
  private var answer: (bytes: [UInt8], time: UInt64)?
  /// The number of texts started.
  private(set) var textsMade = 0
  private lazy var stepTimer = LoopTimer { [unowned self] in step() }
  private lazy var tickTimer = LoopTimer { [unowned self] in tick() }

  /// Listens at `place`: a path if it contains a slash, otherwise an address, which may resolve to
  /// several. `begin` starts a text.
  /// - Throws: as `Listener` does.
  init(_ place: String, _ loop: EventLoop, _ begin: @escaping () -> MetricsText)
    throws(SystemError)
  {
    self.loop = loop
    self.begin = begin
    let listeners =
      place.contains("/") ? [try Listener.unix(path: place)] : try Listener.tcp(place)
    for listener in listeners {
      doors.append(try AcceptingDoor(listener, loop) { [unowned self] in letIn($0) })
    }
  }

  // Some may be open if another failed.
  deinit { for door in doors { door.close() } }

  private func letIn(_ fd: Int32) {
    // The oldest has had its time.
    if connections.count >= Self.connectionsMax { connections[0].close() }
    let connection = MetricsConnection(fd, self)
    guard (try? loop.add(connection, .readable)) != nil else {
      Glibc.close(fd)
      return
    }
    connections.append(connection)
    if !tickTimer.isSet { loop.set(tickTimer, after: Self.cachedNanoseconds) }
  }

  fileprivate func forget(_ connection: MetricsConnection) {
    connections.removeAll { $0 === connection }
  }

  // MARK: - The text

  /// Answers `connection`, now or when the text is complete.
  fileprivate func tell(_ connection: MetricsConnection) {
    if let answer, loop.time &- answer.time < Self.cachedNanoseconds || keepsEarlier {
      return connection.respond(answer.bytes, text: textsMade)
    }
    connection.isWaiting = true
    guard unfinished == nil, !isStepping else { return }
    answer = nil
    unfinished = begin()
    textsMade += 1
    loop.set(stepTimer, after: 0)
  }

  /// Whether an earlier text than the last one is still being sent.
  private var keepsEarlier: Bool {
    connections.contains { $0.text.map { $0 < textsMade } ?? false }
  }

  /// A volume's status may have to wait for the metadata.
  private func step() {
    loop.begin { [weak self] in self?.stepAndWait() }
  }

  private func stepAndWait() {
    // It is nowhere else meanwhile, or each piece would cost a copy of all of it.
    guard var text = unfinished.take() else { return }
    isStepping = true
    let goesOn = text.step()
    isStepping = false
    if goesOn {
      unfinished = text
      return loop.set(stepTimer, after: 0)
    }
    let bytes = MetricsConnection.response("200 OK", text.text)
    answer = (bytes, loop.time)
    for connection in connections where connection.isWaiting {
      connection.respond(bytes, text: textsMade)
    }
  }

  private func tick() {
    let now = loop.time
    for connection in connections
    where now &- connection.startTime > Self.connectionNanoseconds { connection.close() }
    guard connections.isEmpty else { return loop.set(tickTimer, after: Self.cachedNanoseconds) }
    // The answer is dropped, because the next request may be long in coming.
    answer = nil
  }

  func close() {
    loop.cancel(stepTimer)
    loop.cancel(tickTimer)
    for door in doors { door.close() }
    for connection in connections { connection.close() }
  }
}

private final class MetricsConnection: EventSource {
  /// The longest request, in bytes.
  private static let requestBytesMax = 16_384

  private unowned let door: MetricsDoor
  let startTime: UInt64
  /// Whether its request has come and the text is being made.
  var isWaiting = false
  private var request: [UInt8] = []
  private var answer = OutgoingBytes()
  /// The number of the text that it is receiving.
  private(set) var text: Int?
  private var isClosed = false

  init(_ descriptor: Int32, _ door: MetricsDoor) {
    self.door = door
    startTime = door.loop.time
    super.init(descriptor: descriptor)
  }

  override func ready(_ events: EventLoop.Events) {
    if !answer.isEmpty {
      send()
    } else if isWaiting {
      // Input after a request is not read; it may be the end of the connection.
      if !events.isDisjoint(with: .closed) { close() }
    } else {
      receive()
    }
  }

  private func receive() {
    var chunk = [UInt8](repeating: 0, count: 4096)
    let n = unsafe recv(descriptor, &chunk, chunk.count, 0)
    if n < 0 && (errno == EAGAIN || errno == EINTR) { return }
    guard n > 0, request.count < Self.requestBytesMax else { return close() }
    request += chunk[..<n]
    let text = String(decoding: request, as: UTF8.self)
    guard text.contains("\r\n\r\n") || text.contains("\n\n") else { return }
    door.loop.change(self, [])
    let words = text.prefix { $0 != "\r\n" && $0 != "\n" }.split(separator: " ")
    if words.count >= 2, words[0] == "GET", words[1] == "/metrics" {
      door.tell(self)
    } else {
      respond(Self.response("404 Not Found", "see /metrics\n"))
    }
  }

  static func response(_ status: String, _ body: String) -> [UInt8] {
    let head = """
      HTTP/1.1 \(status)\r
      Content-Type: text/plain; version=0.0.4; charset=utf-8\r
      Content-Length: \(body.utf8.count)\r
      Connection: close\r
      \r

      """
    return Array(head.utf8) + Array(body.utf8)
  }

  /// Sends an answer and closes the connection.
  func respond(_ bytes: [UInt8], text: Int? = nil) {
    isWaiting = false
    self.text = text
    answer = OutgoingBytes(bytes)
    send()
  }

  private func send() {
    switch answer.send(to: descriptor) {
    case .waits: door.loop.change(self, .writable)
    case .failed: close()
    case .done:
      shutdown(descriptor, Int32(SHUT_WR))
      close()
    }
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    door.loop.remove(self)
    Glibc.close(descriptor)
    door.forget(self)
  }
}
