import BlockServer
import DataPath
import Glibc

/// Answers `GET /metrics` with what Prometheus reads, one request to a connection.
final class MetricsDoor {
  private static let connectionsMax = 16

  fileprivate let loop: EventLoop
  fileprivate let text: () -> String
  private var doors: [AcceptingDoor] = []
  private var connections: [MetricsConnection] = []

  /// Listens at `place`: a path if there is a slash in it, an address otherwise, which may stand for
  /// several. `text` is asked for what there is to tell with each request.
  /// - Throws: as `Listener` does.
  init(_ place: String, _ loop: EventLoop, _ text: @escaping () -> String) throws(SystemError) {
    self.loop = loop
    self.text = text
    let listeners =
      place.contains("/") ? [try Listener.unix(path: place)] : try Listener.tcp(place)
    for listener in listeners {
      doors.append(try AcceptingDoor(listener, loop) { [unowned self] in letIn($0) })
    }
  }

  // Some may be open where another could not be.
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
  }

  fileprivate func forget(_ connection: MetricsConnection) {
    connections.removeAll { $0 === connection }
  }

  func close() {
    for door in doors { door.close() }
    for connection in connections { connection.close() }
  }
}

private final class MetricsConnection: EventSource {
  private unowned let door: MetricsDoor
  private var request: [UInt8] = []
  private var answer: [UInt8] = []
  private var sent = 0
  private var isClosed = false

  init(_ descriptor: Int32, _ door: MetricsDoor) {
    self.door = door
    super.init(descriptor: descriptor)
  }

  override func ready(_ events: EventLoop.Events) {
    if answer.isEmpty { receive() } else { send() }
  }

  private func receive() {
    var chunk = [UInt8](repeating: 0, count: 4096)
    let n = recv(descriptor, &chunk, chunk.count, 0)
    if n < 0 && (errno == EAGAIN || errno == EINTR) { return }
    guard n > 0, request.count < 16_384 else { return close() }
    request += chunk[..<n]
    let text = String(decoding: request, as: UTF8.self)
    guard text.contains("\r\n\r\n") || text.contains("\n\n") else { return }
    let words = text.prefix { $0 != "\r\n" && $0 != "\n" }.split(separator: " ")
    if words.count >= 2, words[0] == "GET", words[1] == "/metrics" {
      respond("200 OK", door.text())
    } else {
      respond("404 Not Found", "see /metrics\n")
    }
  }

  private func respond(_ status: String, _ body: String) {
    answer = Array(
      """
      HTTP/1.1 \(status)\r
      Content-Type: text/plain; version=0.0.4; charset=utf-8\r
      Content-Length: \(body.utf8.count)\r
      Connection: close\r
      \r

      """.utf8)
    answer += Array(body.utf8)
    send()
  }

  private func send() {
    while sent < answer.count {
      let n = answer.withUnsafeBytes { raw in
        Glibc.send(
          descriptor, raw.baseAddress.map { $0 + sent }, raw.count - sent,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n < 0 && errno == EAGAIN { return door.loop.change(self, .writable) }
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return close() }
      sent += n
    }
    shutdown(descriptor, Int32(SHUT_WR))
    close()
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    door.loop.remove(self)
    Glibc.close(descriptor)
    door.forget(self)
  }
}
