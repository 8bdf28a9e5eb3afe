import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import Glibc
import ServerControl
import Targets

/// The control socket: device-mapper's commands for the userspace device-mapper, one line each. Only
/// the server's own user and root are let in.
final class ControlDoor: EventSource {
  private static let connectionsMax = 64

  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  private let listener: Listener
  private var connections: [ControlConnection] = []
  /// Called after each command that may have changed something.
  var changed: () -> Void = {}

  init(_ listener: Listener, _ loop: EventLoop, _ mapper: UserspaceDeviceMapper)
    throws(SystemError)
  {
    self.listener = listener
    self.loop = loop
    self.mapper = mapper
    super.init(descriptor: listener.descriptor)
    try loop.add(self, .readable)
  }

  override func ready(_ events: EventLoop.Events) {
    while true {
      let fd = dmthin_accept(descriptor)
      guard fd >= 0 else { return }
      var user: UInt32 = .max
      let isKnown = dmthin_peer_user(fd, &user) == 0 && (user == 0 || user == geteuid())
      guard isKnown, connections.count < Self.connectionsMax else {
        Glibc.close(fd)
        continue
      }
      let connection = ControlConnection(fd, self)
      do throws(SystemError) {
        try loop.add(connection, .readable)
        connections.append(connection)
      } catch {
        Glibc.close(fd)
      }
    }
  }

  func forget(_ connection: ControlConnection) {
    connections.removeAll { $0 === connection }
  }

  /// Lets nobody in any more, and closes what is open.
  func close() {
    loop.remove(self)
    listener.close()
    for connection in connections { connection.close() }
  }
}

/// One who gives commands.
final class ControlConnection: EventSource {
  private static let requestBytesMax = 1 << 20

  private unowned let door: ControlDoor
  private var received: [UInt8] = []
  private var answer: [UInt8] = []
  private var sent = 0
  private var isClosed = false
  /// A command is under way; the next one waits.
  private var isBusy = false

  init(_ descriptor: Int32, _ door: ControlDoor) {
    self.door = door
    super.init(descriptor: descriptor)
  }

  override func ready(_ events: EventLoop.Events) {
    if events.contains(.writable) { send() }
    if events.contains(.readable) { receive() }
    if !isClosed, !events.isDisjoint(with: .closed), !events.contains(.readable) { close() }
  }

  private func receive() {
    var chunk = [UInt8](repeating: 0, count: 65_536)
    let n = recv(descriptor, &chunk, chunk.count, 0)
    guard n > 0 else {
      if n == 0 || errno != EAGAIN && errno != EINTR { close() }
      return
    }
    received += chunk[..<n]
    guard received.count <= Self.requestBytesMax else { return close() }
    process()
  }

  private func process() {
    while !isBusy, !isClosed, answer.isEmpty, let end = received.firstIndex(of: 10) {
      let line = Array(received[..<end])
      received.removeSubrange(...end)
      isBusy = true
      do throws(ControlMessage.Malformed) {
        let request = try ControlMessage(line: line)
        try ControlCommand(door.mapper, door.changed).run(request) { [weak self] in
          self?.reply($0)
        }
      } catch {
        close()
      }
    }
    watch()
  }

  private func reply(_ message: ControlMessage) {
    isBusy = false
    guard !isClosed else { return }
    answer = message.line
    sent = 0
    send()
  }

  private func send() {
    while sent < answer.count {
      let n = answer.withUnsafeBytes { raw in
        Glibc.send(
          descriptor, raw.baseAddress.map { $0 + sent }, raw.count - sent,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n < 0 && errno == EAGAIN { return watch() }
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return close() }
      sent += n
    }
    answer = []
    sent = 0
    process()
  }

  private func watch() {
    guard !isClosed else { return }
    door.loop.change(self, answer.isEmpty ? .readable : .writable)
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    door.loop.remove(self)
    Glibc.close(descriptor)
    door.forget(self)
  }
}
