import BlockIO
import CDMThin
public import EventLoop
import Glibc

/// Reads, writes and flushes through an engine, sent in one batch per pass of the loop. Requests that
/// follow each other on disk, in the order in which they came, go as one.
///
/// Invariant: a slot is in use from `prepare` to its completion; `inFlight` counts those that were sent.
/// Requests beyond the number of slots wait in `waiting`.
@safe public final class IOQueue: PassHook {
  private static let depth = 256
  /// With more on their way than this, completions come close enough together without spinning.
  private static let spinDepthMax = 4
  /// Most pieces of memory of a merged request, and its most bytes. A request by itself can have more.
  private static let piecesMax = 32
  private static let bytesMax = 1 << 20

  @safe private struct Slot {
    /// What the request consists of, linked by `next`.
    var first: RequestPointer?
    var last: RequestPointer?
    var bytes = 0
    var nextFree = -1
    /// When it was sent, in nanoseconds; 0 where others were on their way too.
    var sentTime: UInt64 = 0
  }

  private let loop: EventLoop
  /// Constant, so that a use of it counts no reference.
  private let engine: any IOEngine
  private let vectors: UnsafeMutablePointer<iovec>
  private let slots: UnsafeMutablePointer<Slot>
  /// The slots of the batch, in its order.
  private let batch: UnsafeMutablePointer<Int>
  private let completions: UnsafeMutablePointer<IOCompletion>
  private var freeSlot = 0
  private var waiting = RequestQueue()
  private var source: Source?
  /// Requests that the system has; merged ones count once.
  @safe @exclusivity(unchecked) public private(set) var inFlight = 0
  /// Of these, the flushes.
  private var flushesInFlight = 0
  /// How long reads and writes, and flushes, take of late where few are on their way, in nanoseconds.
  private var averages: (data: UInt64, flush: UInt64) = (0, 0)
  private var reapTime: UInt64 = 0
  /// Of flushes with nothing else to do: how many there were, and how long those on the spot take.
  private var flushesAlone: UInt64 = 0
  private var averageAlone: UInt64 = 0
  /// Flushes that take longer are left to another thread.
  var flushQuickNanoseconds: UInt64 = 500_000
  /// Flushes a descriptor on the spot; tests replace it.
  var flushNow: (_ descriptor: Int32) -> Int32 = Flush.perform
  /// Requests sent so far, for measurements.
  @safe @exclusivity(unchecked) public private(set) var submitted: UInt64 = 0
  /// System calls that it took to send them.
  @safe @exclusivity(unchecked) public private(set) var submissions: UInt64 = 0

  private final class Source: EventSource {
    unowned(unsafe) let queue: IOQueue
    init(_ queue: IOQueue, descriptor: Int32) {
      unsafe self.queue = queue
      super.init(descriptor: descriptor)
    }
    override func ready(_ events: EventLoop.Events) { _ = unsafe queue.reap() }
  }

  /// A queue on `loop`, over libaio; one is enough for all disks.
  /// - Throws: `SystemError` where the system gives no context or descriptor.
  public convenience init(_ loop: EventLoop) throws(SystemError) {
    try self.init(loop) { (event) throws(SystemError) in
      do throws(AIOEngine.Refused) {
        return try AIOEngine(depth: Self.depth, event: event)
      } catch {
        throw SystemError("io_setup", error.code)
      }
    }
  }

  /// A queue over an engine of `depth` slots, which counts completions with the eventfd that it gets.
  init(
    _ loop: EventLoop, _ makeEngine: (_ event: Int32) throws(SystemError) -> any IOEngine
  ) throws(SystemError) {
    let descriptor = dmthin_eventfd()
    guard descriptor >= 0 else { throw SystemError("eventfd", errno) }
    do throws(SystemError) {
      engine = try makeEngine(descriptor)
    } catch {
      Glibc.close(descriptor)
      throw error
    }
    self.loop = loop
    // Not touched before a slot needs them: 512 KiB.
    unsafe vectors = .allocate(capacity: Self.depth * RequestMemory.piecesMax)
    unsafe slots = .allocate(capacity: Self.depth)
    unsafe slots.initialize(repeating: Slot(), count: Self.depth)
    unsafe batch = .allocate(capacity: Self.depth)
    unsafe batch.initialize(repeating: 0, count: Self.depth)
    unsafe completions = .allocate(capacity: Self.depth)
    unsafe completions.initialize(repeating: IOCompletion(slot: 0, result: 0), count: Self.depth)
    super.init()
    for index in 0..<Self.depth {
      unsafe slots[index].nextFree = index + 1 < Self.depth ? index + 1 : -1
    }
    let source = Source(self, descriptor: descriptor)
    self.source = source
    // Edge: the counter of an eventfd need never be read.
    try loop.add(source, [.readable, .edge])
    loop.add(self)
  }

  /// Stops; nothing may be in flight.
  public func close() {
    precondition(inFlight == 0 && waiting.isEmpty, "requests are in flight")
    loop.remove(self)
    if let source {
      loop.remove(source)
      Glibc.close(source.descriptor)
    }
    source = nil
  }

  deinit {
    if let source { Glibc.close(source.descriptor) }
    unsafe vectors.deallocate()
    unsafe slots.deallocate()
    unsafe batch.deallocate()
    unsafe completions.deallocate()
  }

  // MARK: - Sending

  /// Takes a read, write or flush of `descriptor`, whose offset is that on disk.
  public func submit(_ request: RequestPointer, descriptor: Int32) {
    unsafe request.pointee.descriptor = descriptor
    unsafe waiting.append(request)
  }

  /// Sends what has come up.
  public override func endOfPass() {
    if flushAlone() { return }
    while freeSlot >= 0, !waiting.isEmpty {
      let prepared = prepare()
      guard send(prepared) else { return }
    }
  }

  /// Flushes on the spot if there is nothing else to do, and it has not been slow of late: libaio has
  /// another thread do it, and both have to be woken.
  private func flushAlone() -> Bool {
    guard inFlight == 0, waiting.count == 1, let request = unsafe waiting.first,
      unsafe request.pointee.operation == .flush
    else { return false }
    flushesAlone &+= 1
    guard averageAlone < flushQuickNanoseconds || flushesAlone & 63 == 0 else { return false }
    _ = unsafe waiting.takeFirst()
    let start = EventLoop.now()
    let code = unsafe flushNow(request.pointee.descriptor)
    let taken = min(EventLoop.now() &- start, 8 * flushQuickNanoseconds)
    averageAlone = averageAlone &- averageAlone / 8 &+ taken / 8
    submitted += 1
    unsafe loop.finishLater(request, code)
    return true
  }

  /// Fills slots from what waits; returns how many.
  private func prepare() -> Int {
    var prepared = 0
    while freeSlot >= 0, let request = unsafe waiting.takeFirst() {
      let index = freeSlot
      let pieces = unsafe vectors + index * RequestMemory.piecesMax
      var count = 0
      guard unsafe add(request, to: pieces, &count, max: RequestMemory.piecesMax) else {
        unsafe loop.finishLater(request, EINVAL)
        continue
      }
      freeSlot = unsafe slots[index].nextFree
      var bytes = unsafe request.pointee.byteCount
      var last = unsafe request
      while let next = unsafe waiting.first, unsafe canFollow(last, next),
        unsafe bytes + next.pointee.byteCount <= Self.bytesMax,
        unsafe add(next, to: pieces, &count, max: Self.piecesMax)
      {
        _ = unsafe waiting.takeFirst()
        unsafe last.pointee.next = next
        unsafe last = next
        unsafe bytes += next.pointee.byteCount
      }
      unsafe slots[index].first = request
      unsafe slots[index].last = last
      unsafe slots[index].bytes = bytes
      unsafe engine.prepare(
        index, Self.call(request.pointee),
        descriptor: request.pointee.descriptor, pieces, count: count,
        offset: request.pointee.offset)
      unsafe batch[prepared] = index
      prepared += 1
    }
    return prepared
  }

  private func canFollow(_ last: RequestPointer, _ next: RequestPointer) -> Bool {
    guard unsafe last.pointee.descriptor == next.pointee.descriptor else { return false }
    if unsafe last.pointee.operation == .flush { return unsafe next.pointee.operation == .flush }
    let isData = unsafe next.pointee.operation == .read || next.pointee.operation == .write
    return unsafe isData && last.pointee.operation == next.pointee.operation
      && last.pointee.flags == next.pointee.flags && !next.pointee.flags.contains(.alone)
      && last.pointee.end == next.pointee.offset
  }

  /// Adds a request's memory to a slot's; false, with nothing added, where that has more than `max` pieces.
  private func add(
    _ request: RequestPointer, to pieces: UnsafeMutablePointer<iovec>, _ count: inout Int, max: Int
  ) -> Bool {
    let (memory, bytes) = unsafe (request.pointee.memory, request.pointee.byteCount)
    guard memory.isOnePiece else {
      guard count + memory.pieceCount(bytes) <= max else { return false }
      unsafe memory.forEachPiece(bytes) {
        unsafe pieces[count] = iovec(iov_base: $0.baseAddress, iov_len: $0.count)
        count += 1
      }
      return true
    }
    if count > 0, unsafe pieces[count - 1].end == memory.start {
      unsafe pieces[count - 1].iov_len += bytes
      return true
    }
    guard count < max else { return false }
    unsafe pieces[count] = iovec(iov_base: memory.start, iov_len: bytes)
    count += 1
    return true
  }

  private static func call(_ request: BlockRequest) -> IOOperation {
    switch request.operation {
    case .read: .read
    case .write: request.flags.contains(.durable) ? .durableWrite : .write
    default: .flush
    }
  }

  /// Sends what was prepared; false if the system takes no more for now.
  private func send(_ prepared: Int) -> Bool {
    var done = 0
    while done < prepared {
      let sent = engine.send()
      submissions += 1
      if sent > 0 {
        noteSent(done, done + sent)
        done += sent
        submitted += UInt64(sent)
        continue
      }
      if sent == -Int(EAGAIN), inFlight > 0 {
        // Sent again when something has come back.
        putBack()
        return false
      }
      // The first of the rest is refused: it ends, others may be taken.
      guard let refused = engine.takeUnsent() else { return false }
      end(refused, result: sent)
      done += 1
    }
    return true
  }

  private func noteSent(_ start: Int, _ end: Int) {
    inFlight += end - start
    let time = inFlight <= Self.spinDepthMax ? EventLoop.now() : 0
    for i in start..<end {
      let index = unsafe batch[i]
      unsafe slots[index].sentTime = time
      if unsafe slots[index].first?.pointee.operation == .flush { flushesInFlight += 1 }
    }
  }

  /// Undoes the preparation of what was not sent, so that the order stays.
  private func putBack() {
    var all = RequestQueue()
    while let index = engine.takeUnsent() {
      var part = unsafe slots[index].first
      while let request = unsafe part {
        unsafe part = request == slots[index].last ? nil : request.pointee.next
        unsafe all.append(request)
      }
      release(index)
    }
    all.append(contentsOf: waiting.takeAll())
    waiting = all
  }

  private func release(_ index: Int) {
    unsafe slots[index] = Slot(nextFree: freeSlot)
    freeSlot = index
  }

  // MARK: - Completions

  /// Whether so little is on its way that it is waited for, and takes less than that as a rule.
  public override func expects(within nanoseconds: UInt64) -> Bool {
    guard inFlight > 0, inFlight <= Self.spinDepthMax else { return false }
    return (flushesInFlight < inFlight ? averages.data : averages.flush) < nanoseconds
  }

  /// Keeps in mind how long the request of a slot took.
  private func note(_ slot: Slot, isFlush: Bool) {
    guard slot.sentTime > 0 else { return }
    // A single long delay does not say that the disk has become slow.
    let taken = min(reapTime &- min(reapTime, slot.sentTime), 1_000_000)
    let old = isFlush ? averages.flush : averages.data
    let new = old &- old / 8 &+ taken / 8
    if isFlush { averages.flush = new } else { averages.data = new }
  }

  /// Takes completions that the kernel has left in memory.
  public override func poll() -> Bool {
    guard inFlight > 0, engine.hasCompletions else { return false }
    return reap() > 0
  }

  /// Hands out what has completed; returns how many.
  private func reap() -> Int {
    var total = 0
    while inFlight > 0 {
      let count = unsafe engine.take(completions, max: Self.depth, waits: false)
      guard count > 0 else { break }
      reapTime = EventLoop.now()
      inFlight -= count
      total += count
      for i in 0..<count {
        let index = unsafe completions[i].slot
        if unsafe slots[index].first?.pointee.operation == .flush { flushesInFlight -= 1 }
        unsafe end(index, result: completions[i].result)
      }
    }
    return total
  }

  /// Ends what is in a slot, which is free then.
  private func end(_ index: Int, result: Int) {
    let slot = unsafe slots[index]
    release(index)
    guard let first = unsafe slot.first else { return }
    unsafe note(slot, isFlush: first.pointee.operation == .flush)
    let whole = unsafe result == slot.bytes || (first.pointee.operation == .flush && result == 0)
    if !whole, unsafe first != slot.last {
      // Which part failed is not known: each goes by itself, so that one bad sector costs one.
      var part: RequestPointer? = unsafe first
      while let request = unsafe part {
        unsafe part = request == slot.last ? nil : request.pointee.next
        unsafe request.pointee.flags.insert(.alone)
        unsafe waiting.append(request)
      }
      return
    }
    let code =
      unsafe whole ? 0 : result < 0 ? Int32(clamping: -result) : rest(first.pointee, result)
    var part: RequestPointer? = unsafe first
    while let request = unsafe part {
      unsafe part = request == slot.last ? nil : request.pointee.next
      unsafe request.pointee.flags.remove(.alone)
      unsafe loop.finishLater(request, code)
    }
  }

  /// A short transfer is one that met the end of the file, or an error part way, which the rest tells
  /// when it is tried: done on the spot, as it happens next to never.
  private func rest(_ request: BlockRequest, _ begun: Int) -> Int32 {
    let descriptor = request.descriptor
    var done = begun
    while done < request.byteCount {
      let place = Int64(clamping: request.offset) + Int64(done)
      let piece = unsafe request.memory.advanced(by: done).firstPiece(request.byteCount - done)
      guard let memory = piece.baseAddress else { return EIO }
      let n =
        unsafe request.operation == .read
        ? pread(descriptor, memory, piece.count, Int(place))
        : request.flags.contains(.durable)
          ? dmthin_pwrite_dsync(descriptor, memory, piece.count, place)
          : pwrite(descriptor, memory, piece.count, Int(place))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return n < 0 ? errno : EIO }
      done += n
    }
    return 0
  }
}

extension iovec {
  /// The byte behind the last.
  fileprivate var end: UnsafeMutableRawPointer? { unsafe iov_base.map { unsafe $0 + iov_len } }
}
