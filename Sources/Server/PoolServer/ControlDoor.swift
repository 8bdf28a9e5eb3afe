import CDMThin
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PoolManager
import ServerControl
import Targets

/// The control socket: serves device-mapper's commands for the userspace device-mapper in the
/// control protocol. Accepts connections of the server's own user and of root only.
final class ControlDoor {
  private let connectionsMax: Int
  /// The most bytes of requests and answers, of all connections.
  private static let bytesMax = 8 << 20
  /// The time limit for receiving a request and for sending an answer, in nanoseconds.
  private static let stallNanoseconds: UInt64 = 30_000_000_000
  private static let tickNanoseconds: UInt64 = 1_000_000_000

  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  /// Exports to update after a command.
  let volumes: VolumeExports
  /// The NBD addresses of the server.
  let listeners: () -> [String]
  private var door: AcceptingDoor?
  private var connections: [ControlConnection] = []
  private var isTelling = false
  /// What has happened and was not told yet.
  private var happenings: [(what: ControlEvent.What, device: MappedDevice)] = []
  /// The limit of unsent events. Beyond it, clients are told that events were lost.
  private static let happeningsMax = 4096
  private var areHappeningsLost = false
  private lazy var eventTimer = LoopTimer { [unowned self] in tellSubscribers() }
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
      // The files of an earlier server's clients name devices that no longer exist.
      try runFolder.clear()
    } catch {
      // Verbs would act on files that another user put there.
      throw SystemError("open", EINVAL, sentence: "\(error)")
    }
    door = try AcceptingDoor(listener, loop) { [unowned self] in letIn($0) }
  }

  private func letIn(_ fd: Int32) {
    var user: UInt32 = .max
    let isKnown = unsafe dmthin_peer_user(fd, &user) == 0 && (user == 0 || user == geteuid())
    guard isKnown else {
      return turnAway(fd, EPERM, "the server accepts commands of its own user and of root only")
    }
    guard connections.count < connectionsMax || dropLeastNeeded() else {
      return turnAway(fd, EBUSY, "\(connections.count) connections have commands in progress")
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

  private func turnAway(_ fd: Int32, _ code: Int32, _ sentence: String) {
    var bytes = OutgoingBytes(ControlProtocol.refusal(code, sentence).line)
    _ = bytes.send(to: fd)
    Glibc.close(fd)
  }

  /// Closes a connection to make room for a new one: one that has been idle or has stalled for
  /// longest, or else the one that has waited for an event for longest. A connection with a command
  /// in progress, or with a device suspended until it ends, is kept.
  private func dropLeastNeeded() -> Bool {
    let free = connections.filter { !$0.isWorking && !$0.isHolding }
    let idle = free.filter { !$0.isWaiting }
    let oldest = (idle.isEmpty ? free : idle).min { $0.lastProgress < $1.lastProgress }
    oldest?.close()
    return oldest != nil
  }

  /// Whether another `bytes` fit into the limit for all connections.
  func hasRoom(_ bytes: Int) -> Bool {
    connections.reduce(bytes) { $0 + $1.bytesInUse } <= Self.bytesMax
  }

  /// Closes connections whose request or answer has stalled for too long.
  private func tick() {
    let now = loop.time
    for connection in connections where connection.isStuck {
      if now &- connection.lastProgress > Self.stallNanoseconds { connection.close() }
    }
    if !connections.isEmpty { loop.set(tickTimer, after: Self.tickNanoseconds) }
  }

  /// A command suspends the device for good, or resumes it.
  func release(_ device: MappedDevice) {
    for connection in connections { connection.release(device) }
  }

  func forget(_ connection: ControlConnection) {
    connections.removeAll { $0 === connection }
  }

  /// Resumes a device that a closed connection left suspended, once its commands are complete.
  func resume(_ device: MappedDevice) {
    guard mapper.find(.number(device.number)) === device else { return }
    mapper.resume(.number(device.number), []) { [weak self] _ in self?.volumes.changed() }
  }

  // MARK: - Events

  /// Records an event of a device. Events are raised inside other work, so they are sent later.
  func happened(_ what: ControlEvent.What, _ device: MappedDevice) {
    guard connections.contains(where: \.isSubscribed) else { return }
    if happenings.count < Self.happeningsMax {
      happenings.append((what, device))
    } else {
      areHappeningsLost = true
    }
    if !eventTimer.isSet { loop.set(eventTimer, after: 0) }
  }

  /// A volume's status may have to wait for the metadata; what happens meanwhile is told after it.
  private func tellSubscribers() {
    guard !isTelling else { return }
    isTelling = true
    loop.begin { [weak self] in
      guard let self else { return }
      while !happenings.isEmpty || areHappeningsLost { tellOfHappenings() }
      isTelling = false
    }
  }

  private func tellOfHappenings() {
    let due = happenings
    happenings = []
    var lines = due.map { event($0.what, $0.device).message.line }
    if areHappeningsLost {
      areHappeningsLost = false
      lines.append(ControlEvent(.lost).message.line)
    }
    for connection in connections where connection.isSubscribed { connection.push(lines) }
  }

  private func event(_ what: ControlEvent.What, _ device: MappedDevice) -> ControlEvent {
    var event = ControlEvent(what, name: device.name, number: device.number)
    event.eventNumber = device.eventNumber
    guard what == .event else { return event }
    guard mapper.find(.number(device.number)) === device else {
      event.what = .removed
      return event
    }
    event.status = mapper.status(.number(device.number), .noFlush)?.lines ?? []
    return event
  }

  /// Sends progress to the clients that wait for a command on the device `name`.
  /// - Parameter total: the number of steps, 0 if unknown.
  func progress(_ name: String, _ title: String, done: UInt64, total: UInt64) {
    for connection in connections { connection.tellProgress(name, title, done, total) }
  }

  /// The number of connections.
  var connectionCount: Int { connections.count }

  /// Stops listening and closes all connections.
  func close() {
    door?.close()
    loop.cancel(eventTimer)
    loop.cancel(tickTimer)
    for connection in connections { connection.close() }
    try? runFolder.clear()
  }
}
