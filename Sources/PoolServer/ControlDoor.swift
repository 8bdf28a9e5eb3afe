import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import Glibc
import PoolManager
import ServerControl
import Targets

/// The control socket: device-mapper's commands for the userspace device-mapper, one line each. Only
/// the server's own user and root are let in.
final class ControlDoor {
  private let connectionsMax: Int
  /// Bytes of requests and answers, of all connections.
  private static let bytesMax = 8 << 20
  /// How long a request may take to come, and an answer to be taken, in nanoseconds.
  private static let stallNanoseconds: UInt64 = 30_000_000_000
  private static let tickNanoseconds: UInt64 = 1_000_000_000

  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  /// To be told of what may have changed.
  let volumes: VolumeExports
  /// What NBD clients can connect to.
  let listeners: () -> [String]
  private var door: AcceptingDoor?
  private var connections: [ControlConnection] = []
  /// Events of all devices so far.
  private(set) var eventCount: UInt64 = 0
  private var watchers: [(id: UInt64, body: () -> Void)] = []
  private var lastWatcher: UInt64 = 0
  private lazy var eventTimer = LoopTimer { [unowned self] in tellWatchers() }
  private lazy var tickTimer = LoopTimer { [unowned self] in tick() }
  private let runFolder: RunFolder

  init(
    path: String, _ loop: EventLoop, _ mapper: UserspaceDeviceMapper, _ volumes: VolumeExports,
    connectionsMax: Int = 64, listeners: @escaping () -> [String] = { [] }
  ) throws(SystemError) {
    self.loop = loop
    self.listeners = listeners
    self.connectionsMax = connectionsMax
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
    guard isKnown, connections.count < connectionsMax || dropLeastNeeded() else {
      Glibc.close(fd)
      return
    }
    let connection = ControlConnection(fd, self)
    do throws(SystemError) {
      try loop.add(connection, .readable)
      connections.append(connection)
      if !tickTimer.isSet { loop.set(tickTimer, after: Self.tickNanoseconds) }
    } catch {
      Glibc.close(fd)
    }
  }

  /// Makes room for another: the one goes that has asked for nothing for longest, or has not sent or
  /// taken something whole, or else the one that has waited for an event for longest. Nobody has to go in
  /// the midst of a command, or of several for which a device is suspended.
  private func dropLeastNeeded() -> Bool {
    let free = connections.filter { !$0.isWorking && !$0.isHolding }
    let idle = free.filter { !$0.isWaiting }
    let oldest = (idle.isEmpty ? free : idle).min { $0.lastProgress < $1.lastProgress }
    oldest?.close()
    return oldest != nil
  }

  /// Whether another `bytes` are within the limit for all connections.
  func hasRoom(_ bytes: Int) -> Bool {
    connections.reduce(bytes) { $0 + $1.bytesInUse } <= Self.bytesMax
  }

  /// Ends connections in the midst of a request or an answer for too long.
  private func tick() {
    let now = loop.time
    for connection in connections where connection.isStuck {
      if now &- connection.lastProgress > Self.stallNanoseconds { connection.close() }
    }
    if !connections.isEmpty { loop.set(tickTimer, after: Self.tickNanoseconds) }
  }

  /// A device is told by anybody to be suspended for good, or to be resumed.
  func release(_ device: MappedDevice) {
    for connection in connections { connection.release(device) }
  }

  func forget(_ connection: ControlConnection) {
    connections.removeAll { $0 === connection }
  }

  /// Resumes what one who has gone has left suspended, after what it has begun.
  fileprivate func resume(_ device: MappedDevice) {
    guard mapper.find(.number(device.number)) === device else { return }
    mapper.resume(.number(device.number), []) { [weak self] _ in self?.volumes.changed() }
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

  /// How many are connected.
  var connectionCount: Int { connections.count }

  /// How many wait for an event of any device.
  var watcherCount: Int { watchers.count }

  /// Lets nobody in any more, and closes what is open.
  func close() {
    door?.close()
    loop.cancel(eventTimer)
    loop.cancel(tickTimer)
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
  private var cancel: (() -> Void)?
  /// When it last sent or took something.
  private(set) var lastProgress: UInt64
  /// Devices that it has suspended for as long as it is there.
  private var held: [MappedDevice] = []

  /// Whether a command is under way that goes on by itself.
  var isWorking: Bool { isBusy && cancel == nil }
  /// Whether it waits for an event.
  var isWaiting: Bool { isBusy && cancel != nil }
  /// Whether a device is suspended for as long as it is there.
  var isHolding: Bool { !held.isEmpty }
  /// Whether the rest of a request or of an answer is due from the other side.
  var isStuck: Bool { !isBusy && (!received.isEmpty || !answer.isEmpty) }
  /// Bytes of the request that is being carried out, taken apart, and of the answer that is being made.
  private var bytesUnderWay = 0
  /// Bytes of memory for requests and answers.
  var bytesInUse: Int { received.capacity + bytesUnderWay + answer.count }

  init(_ descriptor: Int32, _ door: ControlDoor) {
    self.door = door
    lastProgress = door.loop.time
    super.init(descriptor: descriptor)
  }

  /// `device`, which is about to be suspended, is to be resumed when the connection ends.
  func hold(_ device: MappedDevice) { held.append(device) }
  /// `device` is no longer to be resumed when the connection ends.
  func release(_ device: MappedDevice) { held.removeAll { $0 === device } }

  override func ready(_ events: EventLoop.Events) {
    if events.contains(.writable) { send() }
    if !isClosed, events.contains(.readable) { receive() }
    if !isClosed, !events.isDisjoint(with: .closed), !events.contains(.readable) { close() }
  }

  private func receive() {
    let room = ControlMessage.requestBytesMax - received.count
    guard room > 0, door.hasRoom(min(room, 65_536)) else { return close() }
    let count = withUnsafeTemporaryAllocation(byteCount: min(room, 65_536), alignment: 1) { chunk in
      let count = recv(descriptor, chunk.baseAddress, chunk.count, 0)
      if count > 0 { received += UnsafeRawBufferPointer(rebasing: chunk[..<count]) }
      return count
    }
    guard count > 0 else {
      if count == 0 || errno != EAGAIN && errno != EINTR { close() }
      return
    }
    lastProgress = door.loop.time
    process()
  }

  private func process() {
    isProcessing = true
    defer { isProcessing = false }
    while !isBusy, !isClosed, answer.isEmpty,
      let end = received[searched...].firstIndex(of: ControlMessage.lineEnd)
    {
      let line = received[..<end]
      let bytes = ControlMessage.memoryBytes(of: line)
      guard door.hasRoom(bytes) else { return close() }
      bytesUnderWay = bytes
      isBusy = true
      do throws(ControlMessage.Malformed) {
        let request = try ControlMessage(line: line)
        received.removeSubrange(...end)
        searched = 0
        let cancel = try ControlCommand(door, self).run(request) { [weak self] in self?.reply($0) }
        if isBusy { self.cancel = cancel }
      } catch {
        close()
      }
    }
    if !isBusy, answer.isEmpty { searched = received.count }
    if received.isEmpty { received = [] }
    watch()
  }

  /// An answer is being made that takes so many bytes by now. False where they are too many, or there is
  /// nobody any more to tell it to.
  func makes(_ bytes: Int) -> Bool {
    guard !isClosed else { return false }
    bytesUnderWay = 0
    let hasRoom = door.hasRoom(bytes)
    bytesUnderWay = bytes
    if !hasRoom { close() }
    return hasRoom
  }

  private func reply(_ line: [UInt8]) {
    isBusy = false
    cancel = nil
    bytesUnderWay = 0
    guard !isClosed else { return }
    guard door.hasRoom(line.count) else { return close() }
    answer = OutgoingBytes(line)
    lastProgress = door.loop.time
    send()
  }

  private func goOn() {
    if !isProcessing, !isClosed, !nextTimer.isSet { door.loop.set(nextTimer, after: 0) }
  }

  private func send() {
    switch answer.send(to: descriptor) {
    case .done: goOn()
    case .waits:
      lastProgress = door.loop.time
      watch()
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
    cancel?()
    cancel = nil
    door.loop.cancel(nextTimer)
    door.loop.remove(self)
    Glibc.close(descriptor)
    door.forget(self)
    let left = held
    held = []
    for device in left { door.resume(device) }
  }
}
