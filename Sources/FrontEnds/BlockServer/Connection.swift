import DataPath
import EventLoop
import Glibc

/// One client. Bytes come in by `fill`, are understood by `process`, and replies leave by `flush`.
///
/// Invariants: a request's slot is in use from its header until its reply has been sent, so that slots
/// and the bytes charged for them bound everything a client can take up. Memory that the destination
/// may still write to stays until `requestDone`, also when the client has gone.
@safe final class Connection: RequestOwner {
  private final class Socket: EventSource {
    unowned(unsafe) let connection: Connection
    init(_ connection: Connection, descriptor: Int32) {
      unsafe self.connection = connection
      super.init(descriptor: descriptor)
    }
    override func ready(_ events: EventLoop.Events) { unsafe connection.ready(events) }
  }

  enum Phase {
    /// The client's flags are due.
    case greeting
    case options
    case tlsHandshake
    case transmission
    /// Nothing is read any more; what is under way ends, then the connection.
    case finishing
    /// Closed; requests may be on their way.
    case ended
  }

  static let receiveBytes = 128 << 10

  unowned(unsafe) let server: BlockServer
  let descriptor: Int32
  let startTime: UInt64
  private var source: Socket?
  private var interest: EventLoop.Events = .readable
  var phase = Phase.greeting
  var tls: TLSSession?

  // What was received and not yet understood: `received[start..<end]`. While the connection is at work
  // that is memory of the server's; what is left over goes to a buffer that is just large enough.
  var received: UnsafeMutableRawPointer
  private var leftover: ServerBuffers.Buffer?
  var start = 0
  var end = 0
  /// How much to receive at once: little where payloads follow that go to buffers of their own.
  var receiveLimit = Connection.receiveBytes
  /// Bytes to be thrown away: the payload of a write that was refused, an option that is too long.
  var skipping = 0

  // What the handshake has agreed on.
  var clientFlags: UInt32 = 0
  var isStructured = false
  var contextExport: [UInt8]?
  var export: Export?
  var sendsStatus = false

  /// The exports that are being listed, and the option's number.
  var listing: (exports: ArraySlice<Export>, option: UInt32)?

  // What the handshake has to say.
  @safe @exclusivity(unchecked) var greeting: [UInt8] = []
  var greetingSent = 0

  /// Slots of its requests. None of its methods calls code that could reach it again, so that accesses need
  /// not be watched: there are a dozen for each request.
  @safe @exclusivity(unchecked)
  var table: SlotTable?
  /// The write whose payload is being received, and how much of it there is.
  var payloadSlot = -1
  var payloadReceived = 0
  /// Requests that the destination has.
  var inFlight = 0
  /// Bytes of buffers.
  var bytesInUse = 0
  /// Bytes of what it has for as long as it is there, and needs to have.
  private var bytesFixed = 0
  /// What it may do in the pass `budgetPass` of the loop, in units of `Turns`.
  private var budget = 0
  private var budgetPass = UInt64.max
  /// It goes on in a later pass.
  private var isYielding = false
  /// Nothing is understood any more until there are slots or bytes.
  var isPaused = false
  var bytesWanted = 0
  var isWaitingForServer = false
  var isDirty = false
  /// Of the first reply, what has been sent.
  var sentOfFirst = 0
  private var isSendBlocked = false
  /// It has sent enough for this pass.
  private var isSendYielding = false
  private var lastProgress: UInt64
  private var wasDropped = false

  init(_ descriptor: Int32, _ server: BlockServer) {
    unsafe self.server = server
    self.descriptor = descriptor
    unsafe received = server.scratch
    startTime = server.loop.time
    lastProgress = startTime
    super.init()
    fix(Self.bytesPerConnection)
  }

  deinit { table?.deallocate() }

  /// What a connection takes that has no requests: itself, and what the handshake says.
  private static let bytesPerConnection = 16 << 10

  private func unfix() {
    unsafe server.fix(-bytesFixed)
    bytesFixed = 0
  }

  /// Takes memory that it keeps until it ends.
  func fix(_ bytes: Int) {
    bytesFixed += bytes
    unsafe server.fix(bytes)
  }

  /// Greets the client. False, and the descriptor is closed, if it cannot be watched.
  func begin() -> Bool {
    let source = Socket(self, descriptor: descriptor)
    do throws(SystemError) {
      try unsafe server.loop.add(source, interest)
    } catch {
      Glibc.close(descriptor)
      phase = .ended
      unfix()
      return false
    }
    self.source = source
    greet()
    return true
  }

  var isShakingHands: Bool {
    phase == .greeting || phase == .options || phase == .tlsHandshake
  }

  // MARK: - Receiving

  private func ready(_ events: EventLoop.Events) {
    if phase == .tlsHandshake {
      if !isYielding { continueTLS() }
    } else {
      if events.contains(.writable) || isSendBlocked { flush() }
      if isReading { receive() }
    }
    let isHungUp = !events.isDisjoint(with: .closed)
    if phase != .ended, isHungUp, !events.contains(.readable) || !isReading {
      // No client is left that could read a reply.
      close(dropped: false)
    }
    updateInterest()
  }

  private var isReading: Bool {
    // With as much as fits understood nothing can be received: what was said has to be sent first.
    !isPaused && !isYielding && !isStartingTLS && phase != .finishing && phase != .ended
      && phase != .tlsHandshake
      && end - start < Self.receiveBytes
  }

  /// Receives and understands until there is no more, or it is others' turn.
  private func receive() {
    defer { keepLeftover() }
    for _ in 0..<8 {
      let count = fill()
      if count == 0 { return finish() }
      if count < 0 {
        if errno == EINTR { continue }
        if errno != EAGAIN { close(dropped: false) }
        return
      }
      noteProgress()
      spend(count >> 14)
      process()
      guard isReading, payloadSlot >= 0 || skipping > 0 || tls?.hasPending == true else { return }
    }
  }

  /// After the handshake of TLS: something may have come along with its end.
  func receiveAgain() {
    if isReading { receive() }
  }

  /// One call that receives: first what is left of a payload, then what follows it. Returns bytes, 0
  /// at the end, or -1 with errno set.
  private func fill() -> Int {
    useScratch()
    var vectors = unsafe (iovec(), iovec())
    var count = 0
    var payloadRest = 0
    let tail = unsafe iovec(
      iov_base: received + end, iov_len: min(receiveLimit, Self.receiveBytes - end))
    if payloadSlot >= 0, let table, let buffer = unsafe table.slots[payloadSlot].buffer {
      payloadRest = unsafe table.slots[payloadSlot].length - payloadReceived
      unsafe vectors = (iovec(iov_base: buffer.bytes + payloadReceived, iov_len: payloadRest), tail)
      count = 2
    } else {
      unsafe vectors.0 = tail
      count = 1
    }
    let n: Int
    if let tls {
      n = unsafe tls.receive(vectors.0.iov_base, vectors.0.iov_len)
    } else if count == 1 {
      n = unsafe recv(descriptor, vectors.0.iov_base, vectors.0.iov_len, 0)
    } else {
      n = unsafe withUnsafePointer(to: &vectors) {
        unsafe $0.withMemoryRebound(to: iovec.self, capacity: 2) { unsafe readv(descriptor, $0, 2) }
      }
    }
    if n > 0 {
      let ofPayload = min(n, payloadRest)
      payloadReceived += ofPayload
      end += n - ofPayload
    }
    return n
  }

  /// Moves what is left over to the front of the memory that is received to.
  private func useScratch() {
    let count = end - start
    if count > 0, unsafe start > 0 || received != server.scratch {
      unsafe memmove(server.scratch, received + start, count)
    }
    unsafe received = server.scratch
    start = 0
    end = count
    dropLeftover()
  }

  /// Leaves the server's memory to others.
  private func keepLeftover() {
    let count = end - start
    guard count > 0, phase != .ended, phase != .finishing else {
      unsafe received = server.scratch
      start = 0
      end = 0
      return dropLeftover()
    }
    // It has a buffer of its own, which is no larger than it has to be.
    if let leftover, unsafe received == leftover.bytes,
      leftover.count == ServerBuffers.bytes(for: count)
    {
      return
    }
    guard let buffer = unsafe server.buffers.take(count) else { return drop() }
    unsafe memcpy(buffer.bytes, received + start, count)
    dropLeftover()
    leftover = buffer
    // Not of its share, which is for what it asks for.
    fix(buffer.count)
    unsafe received = buffer.bytes
    start = 0
    end = count
  }

  private func dropLeftover() {
    guard let buffer = leftover else { return }
    leftover = nil
    unsafe server.buffers.give(buffer)
    fix(-buffer.count)
  }

  /// Understands what has been received, as far as it goes.
  func process() {
    if unsafe budgetPass != server.loop.passes {
      budgetPass = unsafe server.loop.passes
      budget = Turns.connectionUnits
    }
    while !isPaused {
      guard budget > 0, unsafe server.turns.hasUnits else {
        // A payload that has come to its end is something to do as well: no event tells of it again.
        if start < end || isPayloadWhole, phase != .finishing, phase != .ended { yield() }
        return
      }
      if skipping > 0 {
        let count = min(skipping, end - start)
        skipping -= count
        start += count
        if skipping > 0 { return }
      }
      switch phase {
      case .greeting: guard takeClientFlags() else { return }
      case .options:
        guard greeting.isEmpty, listing == nil, !isStartingTLS, takeOption() else { return }
      case .transmission: guard takeRequest() else { return }
      case .tlsHandshake, .finishing, .ended: return
      }
    }
  }

  /// So much was done, in units of `Turns`.
  @inline(__always) func spend(_ units: Int) {
    budget &-= units
    unsafe server.turns.spend(units)
  }

  /// Looks at what a range holds, and spends the time that it takes: that depends on how scattered the
  /// mappings are, and on what of the metadata is in memory.
  func look(_ export: Export, _ range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool) {
    let begun = EventLoop.now()
    export.destination.forEachExtent(in: range, body)
    spend(Int(clamping: (EventLoop.now() &- begun) / 1000))
  }

  /// Has the rest done in a later pass.
  private func yield() {
    isPaused = true
    isYielding = true
    unsafe server.turns.later(self, isLight: budget > 0)
  }

  /// Goes on with what was left for this pass.
  func takeTurn() {
    guard isYielding else { return }
    isYielding = false
    guard phase != .ended else { return }
    if phase == .tlsHandshake { return continueTLS() }
    if isSendYielding {
      isSendYielding = false
      flush()
    }
    guard phase != .ended, !isYielding else { return }
    if listing != nil { continueList() } else if !isWaitingForServer { goOn() }
  }

  /// Goes on in a later pass with something else than what was received.
  func yieldForMore(sending: Bool = false) {
    if sending { isSendYielding = true }
    if isYielding { return }
    isYielding = true
    unsafe server.turns.later(self, isLight: false)
  }

  /// Goes on after a pause.
  func goOn() {
    guard phase != .ended, !isYielding else { return }
    isPaused = false
    process()
    keepLeftover()
    updateInterest()
  }

  // MARK: - Sending

  /// Marks that there is something to send at the end of the pass.
  @inline(__always) func markDirty() {
    guard !isDirty else { return }
    isDirty = true
    unsafe server.markDirty(self)
  }

  /// Sends what there is to send, as far as the client takes it.
  func flush() {
    isDirty = false
    guard phase != .ended, phase != .tlsHandshake, !isSendYielding else { return }
    let hadGreeting = !greeting.isEmpty
    isSendBlocked = false
    guard greeting.isEmpty ? finishRecord() : sendGreeting(), sendReplies() else { return }
    if phase == .finishing, !isSendBlocked, !isSendYielding, inFlight == 0,
      table?.firstReply ?? -1 < 0
    {
      close(dropped: false)
      return
    }
    if hadGreeting, greeting.isEmpty, isStartingTLS {
      startTLS()
    } else if hadGreeting, listing != nil {
      if greeting.isEmpty { yieldForMore() }
    } else if isPaused && !isWaitingForServer || hadGreeting {
      goOn()
    }
    updateInterest()
  }

  var isStartingTLS = false

  /// False if the connection has ended.
  private func sendGreeting() -> Bool {
    while greetingSent < greeting.count {
      let n = unsafe greeting.withUnsafeMutableBytes { bytes in
        var vector = unsafe iovec(
          iov_base: bytes.baseAddress.map { unsafe $0 + greetingSent },
          iov_len: bytes.count - greetingSent)
        return unsafe send(&vector, 1)
      }
      guard n > 0 else { return n == 0 }
      greetingSent += n
    }
    greeting.removeAll(keepingCapacity: true)
    greetingSent = 0
    return finishRecord()
  }

  /// Sends vectors. Returns the bytes taken, 0 if the client takes none for now, and -1 if the
  /// connection has ended.
  func send(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> Int {
    while true {
      let n: Int
      if let tls {
        n = unsafe tls.send(vectors, count)
      } else {
        var message = unsafe msghdr()
        unsafe message.msg_iov = vectors
        unsafe message.msg_iovlen = count
        n = unsafe sendmsg(descriptor, &message, Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n > 0 {
        noteProgress()
        return n
      }
      if n < 0 && errno == EINTR { continue }
      if n < 0 && errno != EAGAIN {
        close(dropped: false)
        return -1
      }
      isSendBlocked = true
      return 0
    }
  }

  /// Has the last record of TLS go out entirely; false if the connection has ended.
  func finishRecord() -> Bool {
    guard let tls, tls.isBlocked, !tls.finishRecord() else { return true }
    guard errno == EAGAIN || errno == EINTR else {
      close(dropped: false)
      return false
    }
    isSendBlocked = true
    return true
  }

  private func noteProgress() { lastProgress = unsafe server.loop.time }

  /// Whether it holds buffers that wait for the client alone, and has for long.
  func isHoldingUp(_ now: UInt64) -> Bool {
    unsafe bytesInUse > 0 && (payloadSlot >= 0 || isSendBlocked)
      && now &- lastProgress > server.limits.stallNanoseconds
  }

  /// Watches for what can be dealt with, and no more.
  func updateInterest() {
    guard let source, phase != .ended else { return }
    var wanted: EventLoop.Events = []
    if phase == .tlsHandshake {
      if !isYielding { wanted = tls?.wantsToWrite == true ? .writable : .readable }
    } else {
      if isReading { wanted.insert(.readable) }
      if isSendBlocked { wanted.insert(.writable) }
    }
    guard wanted != interest else { return }
    interest = wanted
    unsafe server.loop.change(source, wanted)
  }

  override func requestDone(_ request: RequestPointer) { unsafe complete(request) }

  // MARK: - Ending

  /// Reads no more; the connection ends when the replies that are due have been sent.
  func finish() {
    guard phase != .ended, phase != .finishing else { return }
    let wasTransmitting = phase == .transmission
    phase = .finishing
    abandonPayload()
    if wasTransmitting {
      markDirty()
    } else {
      // A handshake owes nothing, and may never end; but its last words are worth a try.
      _ = sendGreeting()
      if phase != .ended { close(dropped: false) }
    }
  }

  /// Ends the connection at once: the client breaks the rules, or takes too long.
  func drop() { close(dropped: true) }

  private func close(dropped: Bool) {
    guard phase != .ended else { return }
    tls?.end(politely: !dropped)
    phase = .ended
    wasDropped = dropped
    if let source { unsafe server.loop.remove(source) }
    source = nil
    Glibc.close(descriptor)
    abandonPayload()
    dropLeftover()
    while let first = table?.firstReply, first >= 0 {
      _ = table?.takeReply()
      release(first)
    }
    endIfUnused()
  }

  /// Gives up a write whose payload will not come.
  private func abandonPayload() {
    guard payloadSlot >= 0 else { return }
    let slot = payloadSlot
    payloadSlot = -1
    release(slot)
  }

  /// Is forgotten by the server once the destination has no request of it any more.
  func endIfUnused() {
    guard phase == .ended, inFlight == 0 else { return }
    export?.close()
    export = nil
    listing = nil
    unfix()
    unsafe server.forget(self, wasDropped: wasDropped)
  }
}
