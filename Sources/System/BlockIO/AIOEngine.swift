import CDMThin
import Claio
public import Glibc

/// The engine over libaio.
@safe public final class AIOEngine: IOEngine {
  private let depth: Int
  private let event: Int32
  private let context: io_context_t
  private let readsRing: Bool
  private let controls: UnsafeMutablePointer<iocb>
  /// The batch is `first..<end`.
  private let batch: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
  private var first = 0
  private var end = 0
  private let events: UnsafeMutablePointer<io_event>

  /// An engine for `depth` operations.
  /// - Parameter event: an eventfd that counts completions; -1 for none. The caller closes it, after the
  ///   engine has gone.
  /// - Throws: the error number of the system, which limits the contexts of all processes.
  public init(depth: Int, event: Int32 = -1) throws(AIOEngine.Refused) {
    var context: io_context_t?
    let status = unsafe io_setup(Int32(depth), &context)
    guard status == 0, let context = unsafe context else { throw Refused(code: -status) }
    self.depth = depth
    self.event = event
    unsafe self.context = context
    readsRing = unsafe dmthin_aio_ring_is_known(UnsafeRawPointer(context)) != 0
    unsafe controls = .allocate(capacity: depth)
    unsafe controls.initialize(repeating: iocb(), count: depth)
    unsafe batch = .allocate(capacity: depth)
    unsafe batch.initialize(repeating: nil, count: depth)
    unsafe events = .allocate(capacity: depth)
    unsafe events.initialize(repeating: io_event(), count: depth)
  }

  /// The system gives no context.
  public struct Refused: Error {
    /// Its error number.
    public let code: Int32
  }

  /// Waits for what is in flight.
  deinit {
    unsafe io_destroy(context)
    unsafe controls.deallocate()
    unsafe batch.deallocate()
    unsafe events.deallocate()
  }

  /// See `IOEngine`.
  public func prepare(
    _ slot: Int, _ operation: IOOperation, descriptor: Int32,
    _ vectors: UnsafeMutablePointer<iovec>, count: Int, offset: UInt64
  ) {
    let control = unsafe controls + slot
    let place = Int64(clamping: offset)
    switch (operation, count) {
    case (.flush, _): unsafe io_prep_fdsync(control, descriptor)
    case (.read, 1):
      unsafe io_prep_pread(control, descriptor, vectors[0].iov_base, vectors[0].iov_len, place)
    case (.read, _): unsafe io_prep_preadv(control, descriptor, vectors, Int32(count), place)
    case (_, 1):
      unsafe io_prep_pwrite(control, descriptor, vectors[0].iov_base, vectors[0].iov_len, place)
    default: unsafe io_prep_pwritev(control, descriptor, vectors, Int32(count), place)
    }
    if operation == .durableWrite {
      unsafe control.pointee.aio_rw_flags = .init(truncatingIfNeeded: dmthin_rwf_dsync)
    }
    if event >= 0 { unsafe io_set_eventfd(control, event) }
    unsafe control.pointee.data = UnsafeMutableRawPointer(bitPattern: slot + 1)
    if first == end { (first, end) = (0, 0) }
    if end == depth {
      unsafe batch.update(from: batch + first, count: end - first)
      (first, end) = (0, end - first)
    }
    unsafe batch[end] = control
    end += 1
  }

  /// See `IOEngine`.
  public func send() -> Int {
    guard first < end else { return 0 }
    while true {
      let sent = unsafe io_submit(context, end - first, batch + first)
      if sent == -EINTR { continue }
      if sent > 0 { first += Int(sent) }
      return sent == 0 ? -Int(EIO) : Int(sent)
    }
  }

  /// See `IOEngine`.
  public func takeUnsent() -> Int? {
    guard first < end else { return nil }
    first += 1
    return unsafe Int(bitPattern: batch[first - 1]?.pointee.data) - 1
  }

  /// See `IOEngine`.
  public var hasCompletions: Bool {
    unsafe readsRing && dmthin_aio_ring_has_events(UnsafeRawPointer(context)) != 0
  }

  /// See `IOEngine`.
  public func take(
    _ completions: UnsafeMutablePointer<IOCompletion>, max: Int, waits: Bool
  ) -> Int {
    let most = min(max, depth)
    var count = 0
    // What the kernel has left in memory costs no system call.
    if readsRing {
      count = unsafe Int(
        dmthin_aio_ring_take(UnsafeMutableRawPointer(context), events, Int32(most)))
    }
    if count == 0, waits || !readsRing {
      var none = timespec()
      repeat {
        count =
          unsafe waits
          ? Int(io_getevents(context, 1, most, events, nil))
          : Int(io_getevents(context, 0, most, events, &none))
      } while count == -Int(EINTR)
    }
    for i in 0..<Swift.max(0, count) {
      unsafe completions[i] = IOCompletion(
        slot: Int(bitPattern: events[i].data) - 1,
        result: Int(Int64(bitPattern: UInt64(events[i].res))))
    }
    return Swift.max(0, count)
  }
}
