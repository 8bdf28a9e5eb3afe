import BlockIO
import DataPath
import DeviceMapper
import EventLoop

extension TargetType {
  /// Delays reads, writes and flushes.
  static let delay = TargetType("delay", version: (1, 3, 0), DelayTarget.self) {
    (context) throws(TargetError) in try DelayDriver(context)
  }
}

private struct PartState: RequestState {
  /// When it goes down, in nanoseconds of the loop's time.
  var deadline: UInt64
  /// Its place in the order in which all came.
  var order: UInt64
}

extension BlockRequest {
  fileprivate var delayed: PartState {
    get { state[PartState.self] }
    set { state[PartState.self] = newValue }
  }
}

/// Delays requests before they go down, each kind to its own device.
///
/// Invariants: requests of a kind wait equally long, so that each queue is in the order of deadlines. While
/// any wait the timer is set for the earliest.
private final class DelayDriver: TargetDriver {
  /// A kind of requests.
  private final class Kind {
    let device: OpenDevice
    let below: BlockDestination
    let first: UInt64
    /// The number added to the device's offset, modulo 2^64.
    let shift: UInt64
    let milliseconds: UInt32
    var waiting = RequestQueue()

    init(_ device: OpenDevice, _ target: DelayTarget.Class, start: UInt64) {
      self.device = device
      below = device.direct
      first = target.destination.sector
      shift = first &* 512 &- start &* 512
      milliseconds = target.delay
    }
  }

  private let reads: Kind
  private let writes: Kind
  private let flushes: Kind
  /// The number of kinds in the table line.
  private let kindCount: Int
  private var count: UInt64 = 0
  /// False while the device is suspended: the remaining requests must get through.
  private var mayDelay = true
  private var timer: LoopTimer?
  private var timerDeadline: UInt64 = 0

  init(_ context: DriverContext<DelayTarget>) throws(TargetError) {
    let (classes, start) = (context.target.classes, context.line.start)
    kindCount = classes.count
    // A kind that the line leaves out is like the one before it.
    let devices = [
      try context.device(.reads), context.devices[.writes], context.devices[.flushes],
    ].compactMap { $0 }
    func kind(_ index: Int) -> Kind {
      let index = min(index, min(devices.count, classes.count) - 1)
      return Kind(devices[index], classes[index], start: start)
    }
    (reads, writes, flushes) = (kind(0), kind(1), kind(2))
    super.init(context)
    timer = LoopTimer { [unowned self] in
      release(until: loop.time)
      setTimer()
    }
  }

  override func close() {
    if let timer { loop.cancel(timer) }
    super.close()
  }

  override var areas: [Area] { [reads, writes, flushes].map { Area($0.device, $0.first, length) } }

  // MARK: - I/O

  override func map(_ part: RequestPointer) {
    switch unsafe part.pointee.operation {
    case .read: unsafe take(part, reads)
    case .flush: unsafe take(part, flushes)
    case .write, .discard, .writeZeroes: unsafe take(part, writes)
    }
  }

  private func take(_ part: RequestPointer, _ kind: Kind) {
    if unsafe part.pointee.operation != .flush { unsafe part.pointee.offset &+= kind.shift }
    guard mayDelay, kind.milliseconds > 0 else { return unsafe kind.below.submit(part) }
    let nanoseconds = UInt64(kind.milliseconds) &* 1_000_000
    count &+= 1
    let deadline = loop.time &+ nanoseconds
    unsafe part.pointee.delayed = PartState(deadline: deadline, order: count)
    unsafe kind.waiting.append(part)
    if timer?.isSet != true || deadline < timerDeadline { setTimer() }
  }

  private func setTimer() {
    let heads = unsafe [reads.waiting.first, writes.waiting.first, flushes.waiting.first]
    guard let timer,
      let first = unsafe heads.compactMap({ unsafe $0?.pointee.delayed.deadline }).min()
    else {
      return
    }
    timerDeadline = first
    let now = loop.time
    loop.set(timer, after: first > now ? first - now : 0)
  }

  /// Sends down the requests that are due, in the order of their arrival.
  private func release(until time: UInt64) {
    func order(_ kind: Kind) -> UInt64 {
      guard let part = unsafe kind.waiting.first, unsafe part.pointee.delayed.deadline <= time
      else {
        return .max
      }
      return unsafe part.pointee.delayed.order
    }
    while true {
      let (read, write, flush) = (order(reads), order(writes), order(flushes))
      let next = min(read, write, flush)
      if next == .max { return }
      if next == read {
        send(reads)
      } else if next == write {
        send(writes)
      } else {
        send(flushes)
      }
    }
  }

  private func send(_ kind: Kind) {
    if let part = unsafe kind.waiting.takeFirst() { unsafe kind.below.submit(part) }
  }

  override func place(_ offset: UInt64) -> Place? {
    Place(writes.device, offset &+ writes.shift, endByte - offset)
  }

  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    loadExtent(of: reads.below, shift: reads.shift, in: range, ready)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    forEachExtent(of: reads.below, shift: reads.shift, in: range, body)
  }

  // MARK: - Suspend and resume

  override func presuspend(noFlush: Bool, _ ready: @escaping () -> Void) {
    mayDelay = false
    if let timer { loop.cancel(timer) }
    release(until: .max)
    ready()
  }

  override func resume() { mayDelay = true }

  // MARK: - Queries

  override func table() -> String {
    [reads, writes, flushes].prefix(kindCount)
      .map { "\($0.device.number) \($0.first) \($0.milliseconds)" }.joined(separator: " ")
  }

  override func status(noFlush: Bool) -> String {
    "\(reads.waiting.count) \(writes.waiting.count) \(flushes.waiting.count)"
  }
}
