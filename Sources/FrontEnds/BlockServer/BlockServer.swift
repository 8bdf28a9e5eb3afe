import BlockIO
import CDMThin
public import DataPath
public import EventLoop
import Glibc

/// Serves exports by NBD, on the thread of an event loop.
///
/// A connection is read from only as long as there are requests and buffers for what comes; it waits
/// otherwise, and the client with it. Replies of a pass go out together at its end.
@safe public final class BlockServer: PassHook {
  /// What is exported; can change at any time.
  public let exports: ExportList
  /// What clients may take up.
  @safe @exclusivity(unchecked) public private(set) var limits: ServerLimits
  /// How connections are encrypted.
  public let security: Security
  /// What was done so far.
  public var counters: ServerCounters { tally }
  // What changes at every request is not public itself: only of what other modules cannot reach does the
  // compiler know that no two accesses overlap, and it leaves out the check when the program runs.
  var tally = ServerCounters()

  /// A part of a read that is a hole, or is not.
  struct Run {
    var count: Int
    var isZero: Bool
  }
  static let runsMax = 64
  static let vectorsMax = 512
  /// States of ranges in an answer, and runs of a destination that are looked at for a request.
  static let statesMax = 1024
  /// Bytes in `zeroes`.
  static let zeroBytes = 1 << 20

  /// Scratch memory of the connection that is at work.
  let runs = UnsafeMutablePointer<Run>.allocate(capacity: runsMax)
  let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: vectorsMax)

  /// States of ranges: pairs of 32 bits.
  let states = UnsafeMutableRawPointer.allocate(byteCount: 8 * statesMax, alignment: 16)
  /// What is received, until it is understood.
  let scratch = UnsafeMutableRawPointer.allocate(
    byteCount: Connection.receiveBytes, alignment: 4096)
  /// Zeros, which are only read.
  private(set) lazy var zeroes = AlignedBuffer(count: Self.zeroBytes)

  let loop: EventLoop
  let turns: Turns
  let buffers: ServerBuffers
  private let handshakes: HandshakeRates
  /// Bytes in buffers of all connections.
  public var bytesInUse: Int { bytesCharged }
  private var bytesCharged = 0
  /// Bytes that connections have for as long as they are there.
  private var bytesFixed = 0
  /// Of the bytes in buffers, what connections have beyond their shares.
  private var bytesBeyondShares = 0
  /// What each connection may have without regard to the others.
  private let share: Int
  /// New requests and options are refused: the end is near.
  private(set) var isStopping = false

  private var doors: [AcceptingDoor] = []
  private var connections: [Connection] = []
  /// Connections with replies to send.
  @safe @exclusivity(unchecked) private var dirty: [Connection] = []
  /// Those of them that are being looked after; empty between passes, and kept for its memory.
  @safe @exclusivity(unchecked) private var sending: [Connection] = []
  /// Connections that wait for others to give buffers back.
  @safe @exclusivity(unchecked) private var waiting: [Connection] = []
  /// Connections that have ended, until none of their methods can be running any more.
  private var buried: [Connection] = []
  private var ended: (() -> Void)?
  private lazy var timer = LoopTimer { [unowned self] in self.tick() }
  private lazy var releaseTimer = LoopTimer { [unowned self] in self.buffers.releaseSome() }
  private static let tickNanoseconds: UInt64 = 250_000_000

  /// A server of `exports` on `loop`; `add` lets clients in.
  public init(
    _ loop: EventLoop, exports: ExportList, limits: ServerLimits = ServerLimits(),
    security: Security = .plain
  ) {
    self.loop = loop
    self.exports = exports
    self.limits = limits
    share = limits.bytes / 2 / max(1, limits.connections)
    self.security = security
    turns = Turns(loop)
    buffers = ServerBuffers(bytesMax: limits.bytes)
    handshakes = HandshakeRates(loop)
    super.init()
    unsafe runs.initialize(repeating: Run(count: 0, isZero: false), count: Self.runsMax)
    unsafe vectors.initialize(repeating: iovec(), count: Self.vectorsMax)
    loop.add(self)
  }

  deinit {
    unsafe runs.deallocate()
    unsafe vectors.deallocate()
    unsafe states.deallocate()
    unsafe scratch.deallocate()
  }

  /// Connections that are open.
  public var connectionCount: Int { connections.count }

  /// What clients can connect to: full paths of unix sockets, and addresses with ports.
  public var listenerNames: [String] { doors.map(\.address) }

  // MARK: - Letting in

  /// Lets clients in by a listener, which is the server's then.
  /// - Throws: `SystemError` where it cannot be watched.
  public func add(_ listener: Listener) throws(SystemError) {
    doors.append(try AcceptingDoor(listener, loop) { [unowned self] in adopt($0) })
  }

  /// Takes a connected stream socket as a client's; it is closed when the connection ends.
  public func adopt(_ descriptor: Int32) {
    tally.accepted += 1
    guard !isStopping, connections.count < limits.connections || dropOldestHandshake() else {
      tally.dropped += 1
      close(descriptor)
      return
    }
    let connection = Connection(descriptor, self)
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
    Listener.set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY)
    Listener.set(descriptor, SOL_SOCKET, SO_KEEPALIVE)
    guard connection.begin() else {
      tally.dropped += 1
      return
    }
    connections.append(connection)
    if !timer.isSet { loop.set(timer, after: Self.tickNanoseconds) }
  }

  /// Lets in no more than so many connections at a time from now on: there is no room for more.
  public func allow(connections: Int) { limits.connections = min(limits.connections, connections) }

  /// Makes room for a new client where one has not said yet what it wants, and has had some time to.
  private func dropOldestHandshake() -> Bool {
    let now = loop.time
    let oldest = connections.filter { $0.isShakingHands && now &- $0.startTime > 1_000_000_000 }
      .min { $0.startTime < $1.startTime }
    oldest?.drop()
    return oldest != nil
  }

  // MARK: - Buffers

  /// Whether `bytes` more fit for a connection that has `used`: in its share, or in what is there for
  /// all. Of that nothing is waited for while nothing is in use, however large.
  func hasRoom(_ bytes: Int, used: Int) -> Bool {
    let beyond = beyondShare(bytes, used: used)
    return beyond == 0 || bytesBeyondShares == 0
      || bytesBeyondShares + beyond <= limits.bytes - share * limits.connections - bytesFixed
  }

  private func beyondShare(_ bytes: Int, used: Int) -> Int {
    max(0, used + bytes - share) - max(0, used - share)
  }

  /// A connection that has `used` gets `bytes` more.
  func charge(_ bytes: Int, used: Int) {
    bytesCharged += bytes
    bytesBeyondShares += beyondShare(bytes, used: used)
  }

  /// A connection has `bytes` more for as long as it is there.
  func fix(_ bytes: Int) { bytesFixed += bytes }

  /// A connection gives `bytes` back and has `used` then.
  func refund(_ bytes: Int, used: Int) {
    bytesCharged -= bytes
    bytesBeyondShares -= beyondShare(bytes, used: used)
    // Those who wait are looked after at the end of the pass.
    if !waiting.isEmpty { loop.passAgain() }
  }

  func wait(_ connection: Connection) { waiting.append(connection) }

  // MARK: - Sending

  /// Has `connection.flush` called at the end of the pass.
  func markDirty(_ connection: Connection) {
    dirty.append(connection)
    loop.passAgain()
  }

  public override func endOfPass() {
    if !dirty.isEmpty {
      // A connection that gets something to send meanwhile has its turn in the next pass.
      swap(&dirty, &sending)
      for connection in sending { connection.flush() }
      sending.removeAll(keepingCapacity: true)
    }
    if !waiting.isEmpty { wake() }
    buried.removeAll(keepingCapacity: true)
    if buffers.keepsTooMuch, !releaseTimer.isSet { loop.set(releaseTimer, after: 0) }
    if isStopping, connections.isEmpty { end() }
  }

  /// Lets those go on who wait, in turn, as far as there is room; those out of turn who have it in
  /// their own shares.
  private func wake() {
    func isDue(_ connection: Connection, _ isFirst: Bool) -> Bool {
      let (wanted, used) = (connection.bytesWanted, connection.bytesInUse)
      return used + wanted <= share || isFirst && hasRoom(wanted, used: used)
    }
    guard isDue(waiting[0], true) || waiting.contains(where: { isDue($0, false) }) else { return }
    let connections = waiting
    waiting.removeAll(keepingCapacity: true)
    var isFirst = true
    for connection in connections where connection.phase != .ended {
      if isDue(connection, isFirst) {
        connection.isWaitingForServer = false
        // It may get in line again.
        connection.goOn()
      } else {
        isFirst = false
        waiting.append(connection)
      }
    }
  }

  /// A connection has ended, and nothing of it is in use any more.
  func forget(_ connection: Connection, wasDropped: Bool) {
    if wasDropped { tally.dropped += 1 }
    buried.append(connection)
    handshakes.forget(connection)
    connections.removeAll { $0 === connection }
    connectionsGone += 1
    if !timer.isSet { loop.set(timer, after: Self.tickNanoseconds) }
    waiting.removeAll { $0 === connection }
    loop.passAgain()
  }

  // MARK: - Time

  /// Looks after clients that do nothing.
  private func tick() {
    let now = loop.time
    for connection in connections where connection.isShakingHands {
      if now &- connection.startTime > limits.handshakeNanoseconds { connection.drop() }
    }
    if !waiting.isEmpty {
      let holders = connections.filter { $0.isHoldingUp(now) }
      // One at a time: what it held may be enough.
      holders.max { $0.bytesInUse < $1.bytesInUse }?.drop()
    }
    if let deadline, now >= deadline {
      for connection in connections { connection.drop() }
    }
    returnMemory()
    if !connections.isEmpty || isStopping || buffers.keepsAny || connectionsGone > 0 {
      loop.set(timer, after: Self.tickNanoseconds)
    }
  }

  /// Called from time to time while there are clients, to have others give back memory that is unused.
  public var memoryReturned: (() -> Void)?
  /// Connections that have ended since memory of the allocator's was given back.
  private var connectionsGone = 0
  private var returnTime: UInt64 = 0

  /// Gives the system back what clients took that have gone, or have become quiet.
  private func returnMemory() {
    buffers.trim()
    memoryReturned?()
    guard connectionsGone > 0, loop.time &- returnTime > 2_000_000_000 else { return }
    returnTime = loop.time
    connectionsGone = 0
    malloc_trim(0)
  }

  // MARK: - Handshakes

  /// Whether `connection` may begin a handshake of TLS now; it is told later, by `startTLS`, where not.
  func admitsHandshake(_ connection: Connection) -> Bool { handshakes.admit(connection) }

  // MARK: - Stopping

  private var deadline: UInt64?

  /// Stops: refuses new connections, completes what is in progress for up to `nanoseconds`, and closes
  /// connections. Calls `done` from the loop when all of them are closed.
  public func stop(within nanoseconds: UInt64 = 5_000_000_000, done: @escaping () -> Void) {
    guard !isStopping else { return }
    isStopping = true
    ended = done
    deadline = loop.time &+ nanoseconds
    for door in doors { door.close() }
    doors.removeAll()
    for connection in connections { connection.finish() }
    loop.set(timer, after: Self.tickNanoseconds)
    loop.passAgain()
  }

  /// Having been told to stop, does not wait for clients any longer.
  public func hurry() {
    guard isStopping, ended != nil else { return }
    deadline = loop.time
    loop.set(timer, after: 0)
  }

  private func end() {
    guard let done = ended else { return }
    ended = nil
    loop.cancel(timer)
    loop.cancel(releaseTimer)
    loop.remove(self)
    done()
  }
}
