import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import Glibc
import PoolManager
import ServerControl
import Targets

/// The control socket: device-mapper's commands for the userspace device-mapper, in the lines of the
/// control protocol. Only the server's own user and root are let in.
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
  private var isTelling = false
  /// What has happened and was not told yet.
  private var happenings: [(what: ControlEvent.What, device: MappedDevice)] = []
  /// More are not kept: they are told to be lost.
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
    guard isKnown else {
      return turnAway(fd, EPERM, "the server takes commands of its own user and of root only")
    }
    guard connections.count < connectionsMax || dropLeastNeeded() else {
      return turnAway(fd, EBUSY, "\(connections.count) connections are in the midst of commands")
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
  func resume(_ device: MappedDevice) {
    guard mapper.find(.number(device.number)) === device else { return }
    mapper.resume(.number(device.number), []) { [weak self] _ in self?.volumes.changed() }
  }

  // MARK: - Events

  /// Something happened to a device. Events are raised in the midst of things: subscribers are told later.
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

  /// Tells whoever waits for a command on the device `name` how far it is.
  /// - Parameter total: steps in all, 0 where that is not known.
  func progress(_ name: String, _ title: String, done: UInt64, total: UInt64) {
    for connection in connections { connection.tellProgress(name, title, done, total) }
  }

  /// How many are connected.
  var connectionCount: Int { connections.count }

  /// Lets nobody in any more, and closes what is open.
  func close() {
    door?.close()
    loop.cancel(eventTimer)
    loop.cancel(tickTimer)
    for connection in connections { connection.close() }
    try? runFolder.clear()
  }
}
