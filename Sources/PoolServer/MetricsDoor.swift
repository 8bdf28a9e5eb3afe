import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import Glibc
import Targets

/// Answers `GET /metrics` with what Prometheus reads, one request to a connection.
final class MetricsDoor: EventSource {
  private static let connectionsMax = 16

  fileprivate let loop: EventLoop
  fileprivate let text: () -> String
  private let listeners: [Listener]
  private var others: [MetricsDoor] = []
  private var connections: [MetricsConnection] = []

  /// Listens at `place`: a path if there is a slash in it, an address otherwise.
  convenience init(_ place: String, _ loop: EventLoop, _ text: @escaping () -> String)
    throws(SystemError)
  {
    let listeners =
      place.contains("/") ? [try Listener.unix(path: place)] : try Listener.tcp(place)
    guard let first = listeners.first else { throw SystemError("address", EADDRNOTAVAIL) }
    try self.init(first, loop, text)
    for listener in listeners.dropFirst() {
      others.append(try MetricsDoor(listener, loop, text))
    }
  }

  private init(_ listener: Listener, _ loop: EventLoop, _ text: @escaping () -> String)
    throws(SystemError)
  {
    self.loop = loop
    self.text = text
    listeners = [listener]
    super.init(descriptor: listener.descriptor)
    try loop.add(self, .readable)
  }

  override func ready(_ events: EventLoop.Events) {
    while true {
      let fd = dmthin_accept(descriptor)
      guard fd >= 0 else { return }
      // The oldest has had its time.
      if connections.count >= Self.connectionsMax { connections[0].close() }
      let connection = MetricsConnection(fd, self)
      guard (try? loop.add(connection, .readable)) != nil else {
        Glibc.close(fd)
        continue
      }
      connections.append(connection)
    }
  }

  fileprivate func forget(_ connection: MetricsConnection) {
    connections.removeAll { $0 === connection }
  }

  func close() {
    loop.remove(self)
    listeners.forEach { $0.close() }
    others.forEach { $0.close() }
    connections.forEach { $0.close() }
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

/// What is told of pools, volumes and clients, in the words of the kernel's status.
struct MetricsText {
  private(set) var text = ""

  init(_ mapper: UserspaceDeviceMapper, _ server: BlockServer) {
    var pools: [(name: String, words: [String])] = []
    var volumes: [(name: String, words: [String])] = []
    for device in mapper.all {
      for line in mapper.status(.number(device.number), .noFlush)?.lines ?? [] {
        let words = line.parameters.split(separator: " ").map { String($0) }
        if line.type == "thin-pool" { pools.append((device.name, words)) }
        if line.type == "thin" { volumes.append((device.name, words)) }
      }
    }
    addPools(pools)
    add("thin_mapped_sectors", "gauge", "Sectors mapped in a thin volume.")
    for (name, words) in volumes { value("thin_mapped_sectors", "volume", name, words.first) }
    addServer(server)
  }

  private mutating func addPools(_ pools: [(name: String, words: [String])]) {
    let fractions = [
      (1, "metadata_blocks", "Metadata blocks of 4 KiB"), (2, "data_blocks", "Data blocks"),
    ]
    for (index, metric, help) in fractions {
      for (part, which) in ["used", "total"].enumerated() {
        add("pool_\(metric)_\(which)", "gauge", "\(help), \(which).")
        for (name, words) in pools where words.count > index {
          let numbers = words[index].split(separator: "/")
          value(
            "pool_\(metric)_\(which)", "pool", name,
            numbers.count == 2 ? String(numbers[part]) : nil)
        }
      }
    }
    add("pool_writable", "gauge", "1 in mode rw, 0 in any other.")
    for (name, words) in pools {
      value("pool_writable", "pool", name, words.contains("rw") ? "1" : "0")
    }
    add("pool_needs_check", "gauge", "Whether the metadata has to be checked.")
    for (name, words) in pools {
      value("pool_needs_check", "pool", name, words.contains("needs_check") ? "1" : "0")
    }
  }

  private mutating func addServer(_ server: BlockServer) {
    let counters = server.counters
    for (metric, help, count) in [
      ("accepted", "Connections accepted.", counters.accepted),
      ("dropped", "Connections dropped by the server.", counters.dropped),
      ("reads", "Requests to read.", counters.reads),
      ("writes", "Requests to write.", counters.writes),
      ("flushes", "Requests to flush.", counters.flushes),
      ("discards", "Requests to discard.", counters.discards),
      ("zeroes", "Requests to write zeros.", counters.zeroes),
      ("read_bytes", "Bytes that clients asked to read.", counters.bytesRead),
      ("written_bytes", "Bytes that clients asked to write.", counters.bytesWritten),
      ("errors", "Requests that ended with an error.", counters.errors),
    ] {
      add("nbd_\(metric)_total", "counter", help)
      text += "dmthin_nbd_\(metric)_total \(count)\n"
    }
    add("nbd_connections", "gauge", "Connections.")
    text += "dmthin_nbd_connections \(server.connectionCount)\n"
    add("nbd_buffer_bytes", "gauge", "Bytes in buffers.")
    text += "dmthin_nbd_buffer_bytes \(server.bytesInUse)\n"
  }

  private mutating func add(_ metric: String, _ type: String, _ help: String) {
    text += "# HELP dmthin_\(metric) \(help)\n# TYPE dmthin_\(metric) \(type)\n"
  }

  private mutating func value(
    _ metric: String, _ label: String, _ name: String, _ number: String?
  ) {
    // What has failed says so instead of numbers.
    guard let number, UInt64(number) != nil else { return }
    let escaped = name.reduce(into: "") { result, character in
      if character == "\\" || character == "\"" { result.append("\\") }
      result += character == "\n" ? "\\n" : String(character)
    }
    text += "dmthin_\(metric){\(label)=\"\(escaped)\"} \(number)\n"
  }
}
