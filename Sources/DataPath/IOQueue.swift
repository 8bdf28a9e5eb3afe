import BlockIO
import CDMThin
import Claio
import Glibc

/// Reads, writes and flushes through libaio, sent in one batch per pass of the loop. Requests that
/// follow each other on disk, in the order in which they came, go as one.
///
/// Invariant: a slot is in use from `io_submit` to its completion; `inFlight` counts them. Requests
/// beyond the number of slots wait in `waiting`.
public final class IOQueue: PassHook {
  private static let depth = 256
  /// With more on their way than this, completions come close enough together without spinning.
  private static let spinDepthMax = 4
  /// Most parts of a merged request, and its most bytes.
  private static let partsMax = 32
  private static let bytesMax = 1 << 20

  private struct Slot {
    /// What the request consists of, linked by `next`.
    var first: RequestPointer?
    var last: RequestPointer?
    var bytes = 0
    var nextFree = -1
    /// When it was sent, in nanoseconds; 0 where others were on their way too.
    var sentTime: UInt64 = 0
  }

  private let loop: EventLoop
  private var context: io_context_t?
  private let readsRing: Bool
  private let controls: UnsafeMutablePointer<iocb>
  private let vectors: UnsafeMutablePointer<iovec>
  private let slots: UnsafeMutablePointer<Slot>
  private let batch: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
  private let events: UnsafeMutablePointer<io_event>
  private var freeSlot = 0
  private var waiting = RequestQueue()
  private var source: Source?
  /// Requests that the system has; merged ones count once.
  public private(set) var inFlight = 0
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
  /// Requests sent so far, for those who measure.
  public private(set) var submitted: UInt64 = 0
  /// System calls that it took to send them.
  public private(set) var submissions: UInt64 = 0

  private final class Source: EventSource {
    unowned(unsafe) let queue: IOQueue
    init(_ queue: IOQueue, descriptor: Int32) {
      self.queue = queue
      super.init(descriptor: descriptor)
    }
    override func ready(_ events: EventLoop.Events) { _ = queue.reap() }
  }

  /// A queue on `loop`; one is enough for all disks.
  /// - Throws: `SystemError` where the system gives no context or descriptor.
  public init(_ loop: EventLoop) throws(SystemError) {
    var context: io_context_t?
    let status = io_setup(Int32(Self.depth), &context)
    guard status == 0, let context else { throw SystemError("io_setup", -status) }
    let descriptor = dmthin_eventfd()
    guard descriptor >= 0 else {
      let code = errno
      io_destroy(context)
      throw SystemError("eventfd", code)
    }
    self.loop = loop
    self.context = context
    readsRing = dmthin_aio_ring_is_known(UnsafeRawPointer(context)) != 0
    controls = .allocate(capacity: Self.depth)
    controls.initialize(repeating: iocb(), count: Self.depth)
    vectors = .allocate(capacity: Self.depth * Self.partsMax)
    vectors.initialize(repeating: iovec(), count: Self.depth * Self.partsMax)
    slots = .allocate(capacity: Self.depth)
    slots.initialize(repeating: Slot(), count: Self.depth)
    batch = .allocate(capacity: Self.depth)
    batch.initialize(repeating: nil, count: Self.depth)
    events = .allocate(capacity: Self.depth)
    events.initialize(repeating: io_event(), count: Self.depth)
    super.init()
    for index in 0..<Self.depth {
      slots[index].nextFree = index + 1 < Self.depth ? index + 1 : -1
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
    if let context { io_destroy(context) }
    context = nil
  }

  deinit {
    if let context { io_destroy(context) }
    if let source { Glibc.close(source.descriptor) }
    controls.deallocate()
    vectors.deallocate()
    slots.deallocate()
    batch.deallocate()
    events.deallocate()
  }

  // MARK: - Sending

  /// Takes a read, write or flush of `descriptor`, whose offset is that on disk.
  public func submit(_ request: RequestPointer, descriptor: Int32) {
    request.pointee.context2 = UInt64(truncatingIfNeeded: Int(descriptor))
    waiting.append(request)
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
    guard inFlight == 0, waiting.count == 1, let request = waiting.first,
      request.pointee.operation == .flush
    else { return false }
    flushesAlone &+= 1
    guard averageAlone < flushQuickNanoseconds || flushesAlone & 63 == 0 else { return false }
    _ = waiting.takeFirst()
    let start = EventLoop.now()
    let code = Flush.perform(Int32(truncatingIfNeeded: request.pointee.context2))
    let taken = min(EventLoop.now() &- start, 8 * flushQuickNanoseconds)
    averageAlone = averageAlone &- averageAlone / 8 &+ taken / 8
    submitted += 1
    loop.finishLater(request, code)
    return true
  }

  /// Fills slots from what waits; returns how many.
  private func prepare() -> Int {
    var prepared = 0
    while freeSlot >= 0, let request = waiting.takeFirst() {
      let index = freeSlot
      freeSlot = slots[index].nextFree
      let parts = vectors + index * Self.partsMax
      var count = 1
      var bytes = request.pointee.byteCount
      parts[0] = iovec(iov_base: request.pointee.buffer, iov_len: bytes)
      var last = request
      while let next = waiting.first, canFollow(last, next),
        bytes + next.pointee.byteCount <= Self.bytesMax
      {
        if extends(parts[count - 1], next) {
          parts[count - 1].iov_len += next.pointee.byteCount
        } else if count < Self.partsMax {
          parts[count] = iovec(iov_base: next.pointee.buffer, iov_len: next.pointee.byteCount)
          count += 1
        } else {
          break
        }
        _ = waiting.takeFirst()
        last.pointee.next = next
        last = next
        bytes += next.pointee.byteCount
      }
      slots[index].first = request
      slots[index].last = last
      slots[index].bytes = bytes
      fill(controls + index, request, parts, count, bytes)
      controls[index].data = UnsafeMutableRawPointer(bitPattern: index + 1)
      batch[prepared] = controls + index
      prepared += 1
    }
    return prepared
  }

  private func canFollow(_ last: RequestPointer, _ next: RequestPointer) -> Bool {
    guard last.pointee.context2 == next.pointee.context2 else { return false }
    if last.pointee.operation == .flush { return next.pointee.operation == .flush }
    let isData = next.pointee.operation == .read || next.pointee.operation == .write
    return isData && last.pointee.operation == next.pointee.operation
      && last.pointee.flags == next.pointee.flags && !next.pointee.flags.contains(.alone)
      && last.pointee.end == next.pointee.offset
  }

  private func extends(_ part: iovec, _ next: RequestPointer) -> Bool {
    part.iov_base.map { $0 + part.iov_len } == next.pointee.buffer
  }

  private func fill(
    _ control: UnsafeMutablePointer<iocb>, _ request: RequestPointer,
    _ parts: UnsafeMutablePointer<iovec>, _ count: Int, _ bytes: Int
  ) {
    let descriptor = Int32(truncatingIfNeeded: request.pointee.context2)
    let offset = Int64(clamping: request.pointee.offset)
    switch (request.pointee.operation, count) {
    case (.read, 1): io_prep_pread(control, descriptor, parts[0].iov_base, bytes, offset)
    case (.read, _): io_prep_preadv(control, descriptor, parts, Int32(count), offset)
    case (.write, 1): io_prep_pwrite(control, descriptor, parts[0].iov_base, bytes, offset)
    case (.write, _): io_prep_pwritev(control, descriptor, parts, Int32(count), offset)
    default: io_prep_fdsync(control, descriptor)
    }
    if request.pointee.operation == .write, request.pointee.flags.contains(.durable) {
      control.pointee.aio_rw_flags = .init(truncatingIfNeeded: dmthin_rwf_dsync)
    }
    if let source { io_set_eventfd(control, source.descriptor) }
  }

  /// Sends what was prepared; false if the system takes no more for now.
  private func send(_ prepared: Int) -> Bool {
    var done = 0
    while done < prepared {
      let n = io_submit(context, prepared - done, batch + done)
      submissions += 1
      if n > 0 {
        noteSent(done, done + Int(n))
        done += Int(n)
        submitted += UInt64(n)
        continue
      }
      if n == -EINTR { continue }
      if n == -EAGAIN, inFlight > 0 {
        // Sent again when something has come back.
        putBack(from: done, to: prepared)
        return false
      }
      // The first of the rest is refused: it ends, others may be taken.
      end(Int(bitPattern: batch[done]?.pointee.data) - 1, result: n == 0 ? -Int(EIO) : Int(n))
      done += 1
    }
    return true
  }

  private func noteSent(_ start: Int, _ end: Int) {
    inFlight += end - start
    let time = inFlight <= Self.spinDepthMax ? EventLoop.now() : 0
    for i in start..<end {
      let index = Int(bitPattern: batch[i]?.pointee.data) - 1
      slots[index].sentTime = time
      if slots[index].first?.pointee.operation == .flush { flushesInFlight += 1 }
    }
  }

  /// Undoes the preparation, last first, so that the order stays.
  private func putBack(from start: Int, to end: Int) {
    var all = RequestQueue()
    for i in start..<end {
      let index = Int(bitPattern: batch[i]?.pointee.data) - 1
      var part = slots[index].first
      while let request = part {
        part = request == slots[index].last ? nil : request.pointee.next
        all.append(request)
      }
      release(index)
    }
    while let request = waiting.takeFirst() { all.append(request) }
    waiting = all
  }

  private func release(_ index: Int) {
    slots[index] = Slot(nextFree: freeSlot)
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
    guard readsRing, inFlight > 0, let context,
      dmthin_aio_ring_has_events(UnsafeRawPointer(context)) != 0
    else { return false }
    return reap() > 0
  }

  /// Hands out what has completed; returns how many.
  private func reap() -> Int {
    guard let context else { return 0 }
    var total = 0
    while inFlight > 0 {
      var count = 0
      if readsRing {
        count = Int(
          dmthin_aio_ring_take(UnsafeMutableRawPointer(context), events, Int32(Self.depth)))
      } else {
        var none = timespec()
        count = Int(io_getevents(context, 0, Self.depth, events, &none))
      }
      guard count > 0 else { break }
      reapTime = EventLoop.now()
      inFlight -= count
      total += count
      for i in 0..<count {
        let index = Int(bitPattern: events[i].data) - 1
        if slots[index].first?.pointee.operation == .flush { flushesInFlight -= 1 }
        end(index, result: Int(Int64(bitPattern: UInt64(events[i].res))))
      }
    }
    return total
  }

  /// Ends what is in a slot, which is free then.
  private func end(_ index: Int, result: Int) {
    let slot = slots[index]
    release(index)
    guard let first = slot.first else { return }
    note(slot, isFlush: first.pointee.operation == .flush)
    let whole = result == slot.bytes || (first.pointee.operation == .flush && result == 0)
    if !whole, first != slot.last {
      // Which part failed is not known: each goes by itself, so that one bad sector costs one.
      var part: RequestPointer? = first
      while let request = part {
        part = request == slot.last ? nil : request.pointee.next
        request.pointee.flags.insert(.alone)
        waiting.append(request)
      }
      return
    }
    let code = whole ? 0 : result < 0 ? Int32(clamping: -result) : rest(first.pointee, result)
    var part: RequestPointer? = first
    while let request = part {
      part = request == slot.last ? nil : request.pointee.next
      request.pointee.flags.remove(.alone)
      loop.finishLater(request, code)
    }
  }

  /// A short transfer is one that met the end of the file, or an error part way, which the rest tells
  /// when it is tried: done on the spot, as it happens next to never.
  private func rest(_ request: BlockRequest, _ begun: Int) -> Int32 {
    let descriptor = Int32(truncatingIfNeeded: request.context2)
    var done = begun
    while done < request.byteCount {
      guard let memory = request.buffer else { return EIO }
      let (left, place) = (request.byteCount - done, Int64(clamping: request.offset) + Int64(done))
      let n =
        request.operation == .read
        ? pread(descriptor, memory + done, left, Int(place))
        : request.flags.contains(.durable)
          ? dmthin_pwrite_dsync(descriptor, memory + done, left, place)
          : pwrite(descriptor, memory + done, left, Int(place))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return n < 0 ? errno : EIO }
      done += n
    }
    return 0
  }
}
