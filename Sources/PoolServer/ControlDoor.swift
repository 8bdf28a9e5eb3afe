import BlockServer
import CDMThin
import DataPath
import Glibc
import PoolManager
import ServerControl
import Targets

/// The control socket: device-mapper's commands for the userspace device-mapper, one line each. Only
/// the server's own user and root are let in.
final class ControlDoor {
  private static let connectionsMax = 64

  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  /// To be told of what may have changed.
  let volumes: VolumeExports
  private var door: AcceptingDoor?
  private var connections: [ControlConnection] = []
  /// Events of all devices so far.
  private(set) var eventCount: UInt64 = 0
  private var watchers: [(id: UInt64, body: () -> Void)] = []
  private var lastWatcher: UInt64 = 0
  private lazy var eventTimer = LoopTimer { [unowned self] in tellWatchers() }
  private let runFolder: RunFolder

  init(
    path: String, _ loop: EventLoop, _ mapper: UserspaceDeviceMapper, _ volumes: VolumeExports
  ) throws(SystemError) {
    self.loop = loop
    self.mapper = mapper
    self.volumes = volumes
    runFolder = RunFolder(control: path)
    let listener = try Listener.unix(path: path)
    do {
      // What an earlier server's clients have left speaks of devices that are gone.
      try runFolder.clear()
    } catch {
      // Verbs would obey what others have put there.
      throw SystemError("open", EINVAL, sentence: "\(error)")
    }
    door = try AcceptingDoor(listener, loop) { [unowned self] in letIn($0) }
  }

  private func letIn(_ fd: Int32) {
    var user: UInt32 = .max
    let isKnown = dmthin_peer_user(fd, &user) == 0 && (user == 0 || user == geteuid())
    guard isKnown, connections.count < Self.connectionsMax else {
      Glibc.close(fd)
      return
    }
    let connection = ControlConnection(fd, self)
    do throws(SystemError) {
      try loop.add(connection, .readable)
      connections.append(connection)
    } catch {
      Glibc.close(fd)
    }
  }

  func forget(_ connection: ControlConnection) {
    connections.removeAll { $0 === connection }
  }

  // MARK: - Events

  /// Something happened to a device. Events are raised in the midst of things: who waits is told later.
  func eventHappened() {
    eventCount &+= 1
    if !eventTimer.isSet { loop.set(eventTimer, after: 0) }
  }

  private func tellWatchers() {
    let due = watchers
    watchers = []
    for watcher in due { watcher.body() }
  }

  /// Calls `body` upon the next event of any device. Returns what has it not called.
  func watch(_ body: @escaping () -> Void) -> () -> Void {
    lastWatcher &+= 1
    let id = lastWatcher
    watchers.append((id, body))
    return { [weak self] in self?.watchers.removeAll { $0.id == id } }
  }

  /// How many wait for an event of any device.
  var watcherCount: Int { watchers.count }

  /// Lets nobody in any more, and closes what is open.
  func close() {
    door?.close()
    loop.cancel(eventTimer)
    for connection in connections { connection.close() }
    try? runFolder.clear()
  }
}

/// One who gives commands.
final class ControlConnection: EventSource {
  private unowned let door: ControlDoor
  private var received: [UInt8] = []
  /// Of `received`, what has been searched for the end of a line.
  private var searched = 0
  private var answer = OutgoingBytes()
  private var isClosed = false
  /// A command is under way; the next one waits.
  private var isBusy = false
  /// Commands are being taken from `received`.
  private var isProcessing = false
  /// A command can end in the midst of things; the next one is begun from the loop.
  private lazy var nextTimer = LoopTimer { [unowned self] in process() }
  /// Has what is under way forgotten, where nothing but an event is waited for.
  private var cancel: () -> Void = {}

  init(_ descriptor: Int32, _ door: ControlDoor) {
    self.door = door
    super.init(descriptor: descriptor)
  }

  override func ready(_ events: EventLoop.Events) {
    if events.contains(.writable) { send() }
    if !isClosed, events.contains(.readable) { receive() }
    if !isClosed, !events.isDisjoint(with: .closed), !events.contains(.readable) { close() }
  }

  private func receive() {
    let room = ControlMessage.requestBytesMax - received.count
    guard room > 0 else { return close() }
    let count = withUnsafeTemporaryAllocation(byteCount: min(room, 65_536), alignment: 1) { chunk in
      let count = recv(descriptor, chunk.baseAddress, chunk.count, 0)
      if count > 0 { received += UnsafeRawBufferPointer(rebasing: chunk[..<count]) }
      return count
    }
    guard count > 0 else {
      if count == 0 || errno != EAGAIN && errno != EINTR { close() }
      return
    }
    process()
  }

  private func process() {
    isProcessing = true
    defer { isProcessing = false }
    while !isBusy, !isClosed, answer.isEmpty,
      let end = received[searched...].firstIndex(of: ControlMessage.lineEnd)
    {
      let line = Array(received[..<end])
      received.removeSubrange(...end)
      searched = 0
      isBusy = true
      do throws(ControlMessage.Malformed) {
        let request = try ControlMessage(line: line)
        let cancel = try ControlCommand(door).run(request) { [weak self] in self?.reply($0) }
        if isBusy { self.cancel = cancel }
      } catch {
        close()
      }
    }
    if !isBusy, answer.isEmpty { searched = received.count }
    watch()
  }

  private func reply(_ message: ControlMessage) {
    isBusy = false
    cancel = {}
    guard !isClosed else { return }
    answer = OutgoingBytes(message.line)
    send()
  }

  private func goOn() {
    if !isProcessing, !isClosed, !nextTimer.isSet { door.loop.set(nextTimer, after: 0) }
  }

  private func send() {
    switch answer.send(to: descriptor) {
    case .done: goOn()
    case .waits: watch()
    case .failed: close()
    }
  }

  private func watch() {
    guard !isClosed else { return }
    door.loop.change(self, answer.isEmpty ? .readable : .writable)
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    cancel()
    cancel = {}
    door.loop.cancel(nextTimer)
    door.loop.remove(self)
    Glibc.close(descriptor)
    door.forget(self)
  }
}
