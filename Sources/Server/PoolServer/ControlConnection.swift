import DataPath
import DeviceMapper
import EventLoop
import Glibc
import ServerControl
import Targets

/// A client of the control socket, which sends commands and may receive events.
final class ControlConnection: EventSource {
  private unowned let door: ControlDoor
  private var received: [UInt8] = []
  /// Bytes of `received` already searched for the end of a line.
  private var searched = 0
  private var answer = OutgoingBytes()
  private var isClosed = false
  /// Both sides have agreed on a version.
  private var hasGreeted = false
  /// No more input is read; the connection closes after the last line is sent.
  private var isEnding = false
  /// Whether events are sent to it.
  var isSubscribed = false
  /// Whether events were dropped since the last one sent.
  private var areEventsLost = false
  /// The most bytes of unsent events.
  private static let eventBytesMax = 256 << 10
  /// The device of the current command, and the client's id of the request.
  private var target: (name: String, id: UInt64?)?
  /// A command is in progress; the next one waits.
  private var isBusy = false
  /// Commands are being read from `received`.
  private var isProcessing = false
  /// Starts the next command from the loop, because a command can end inside other work.
  private lazy var nextTimer = LoopTimer { [unowned self] in process() }
  /// Cancels the current command, if it only waits for an event.
  private var cancel: (() -> Void)?
  /// The time of the last progress in sending or receiving.
  private(set) var lastProgress: UInt64
  /// Devices that are suspended until the connection ends.
  private var held: [MappedDevice] = []

  /// Whether a command is in progress that continues without the client.
  var isWorking: Bool { isBusy && cancel == nil }
  /// Whether it waits for an event.
  var isWaiting: Bool { isBusy && cancel != nil || isSubscribed }
  /// Whether a device is suspended until the connection ends.
  var isHolding: Bool { !held.isEmpty }
  /// Whether the client owes the rest of a request, its first line, or the reading of an answer.
  var isStuck: Bool { !isBusy && (!received.isEmpty || !hasGreeted) || !answer.isEmpty }
  /// The bytes of the current request, parsed, and of the answer being made.
  private var bytesUnderWay = 0
  /// The bytes of memory used for requests and answers.
  var bytesInUse: Int { received.capacity + bytesUnderWay + answer.count }

  init(_ descriptor: Int32, _ door: ControlDoor) {
    self.door = door
    lastProgress = door.loop.time
    super.init(descriptor: descriptor)
  }

  /// Resumes `device`, which is about to be suspended, when the connection ends.
  func hold(_ device: MappedDevice) { held.append(device) }
  /// Keeps `device` suspended when the connection ends.
  func release(_ device: MappedDevice) { held.removeAll { $0 === device } }

  override func ready(_ events: EventLoop.Events) {
    if events.contains(.writable) { send() }
    if !isClosed, events.contains(.readable) { receive() }
    if !isClosed, !events.isDisjoint(with: .closed), !events.contains(.readable) { close() }
  }

  private func receive() {
    let room = ControlMessage.requestBytesMax - received.count
    guard room > 0, door.hasRoom(min(room, 65_536)) else { return close() }
    let count = unsafe withUnsafeTemporaryAllocation(byteCount: min(room, 65_536), alignment: 1) {
      chunk in
      let count = unsafe recv(descriptor, chunk.baseAddress, chunk.count, 0)
      if count > 0 { unsafe received += UnsafeRawBufferPointer(rebasing: chunk[..<count]) }
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
    while !isBusy, !isClosed, !isEnding, answer.isEmpty,
      let end = received[searched...].firstIndex(of: ControlMessage.lineEnd)
    {
      let line = received[..<end]
      let bytes = ControlMessage.memoryBytes(of: line)
      guard door.hasRoom(bytes) else { return close() }
      bytesUnderWay = bytes
      isBusy = true
      guard hasGreeted else {
        greet(line)
        take(upTo: end)
        continue
      }
      do throws(ControlMessage.Malformed) {
        let request = try ControlMessage(line: line)
        take(upTo: end)
        let cancel = try ControlCommand(door, self, request).run { [weak self] in self?.reply($0) }
        if isBusy { self.cancel = cancel }
      } catch {
        self.end(with: ControlCommand.refusal(error).line)
      }
    }
    if !isBusy, answer.isEmpty { searched = received.count }
    if received.isEmpty { received = [] }
    watch()
  }

  private func take(upTo end: Int) {
    guard end < received.count else { return }
    received.removeSubrange(...end)
    searched = 0
  }

  private func greet(_ line: ArraySlice<UInt8>) {
    switch ControlProtocol.receive(line) {
    case .accepted(let answer):
      hasGreeted = true
      reply(answer.line)
    case .refused(let line): self.end(with: line)
    }
  }

  /// Sends the reason and closes the connection.
  private func end(with line: [UInt8]) {
    isEnding = true
    received = []
    searched = 0
    reply(line)
  }

  // MARK: - Events and progress

  /// Sends lines about events. A client that does not read them is told that some were lost.
  func push(_ lines: [[UInt8]]) {
    guard !isClosed, !isEnding else { return }
    if answer.isEmpty { lastProgress = door.loop.time }
    for line in lines {
      guard answer.left + line.count <= Self.eventBytesMax, door.hasRoom(line.count) else {
        areEventsLost = true
        continue
      }
      answer.append(line)
    }
    send()
  }

  /// Records the start of a command for the device `name` that may take long.
  func begins(_ name: String, _ id: UInt64?) { target = (name, id) }

  /// Sends the progress of the current command, if it is for the device `name`.
  func tellProgress(_ name: String, _ title: String, _ done: UInt64, _ total: UInt64) {
    guard isBusy, let target, target.name == name, answer.isEmpty else { return }
    var line = ControlMessage("progress")
    line.put("id", target.id)
    line.put("device", name)
    line.put("title", title)
    line.put("done", done)
    if total > 0 { line.put("total", total) }
    push([line.line])
  }

  /// Records that the answer being made takes this many bytes so far. Returns false if they are too
  /// many, or the client has gone.
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
    target = nil
    bytesUnderWay = 0
    guard !isClosed else { return }
    guard door.hasRoom(line.count) else { return close() }
    answer.append(line)
    lastProgress = door.loop.time
    send()
  }

  private func goOn() {
    if !isProcessing, !isClosed, !nextTimer.isSet { door.loop.set(nextTimer, after: 0) }
  }

  private func send() {
    let before = answer.left
    switch answer.send(to: descriptor) {
    case .done:
      if isEnding { return close() }
      if areEventsLost {
        areEventsLost = false
        return push([ControlEvent(.lost).message.line])
      }
      if !isProcessing { watch() }
      goOn()
    case .waits:
      if answer.left < before { lastProgress = door.loop.time }
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
