import CDMThin
import Glibc

/// A descriptor that a loop watches. Subclasses define what happens when it is ready.
open class EventSource {
  /// The descriptor. The code that opened it closes it, after `EventLoop.remove`.
  public let descriptor: Int32
  fileprivate var index = -1
  fileprivate var generation: UInt32 = 0

  /// A source over an open descriptor.
  public init(descriptor: Int32) { self.descriptor = descriptor }

  /// The descriptor is ready; called from the loop.
  open func ready(_ events: EventLoop.Events) {}
}

/// Something with work to do once per pass of the loop: what came up in the pass goes out in one batch.
open class PassHook {
  /// A hook, to be added to a loop.
  public init() {}
  /// The start of a pass; called only for the loop's start hook.
  open func startOfPass() {}
  /// The end of a pass.
  open func endOfPass() {}
  /// Whether `poll` can be expected to find something within so many nanoseconds, so that the loop
  /// should look again for a while before it sleeps.
  open func expects(within nanoseconds: UInt64) -> Bool { false }
  /// Deals with what can be seen to be ready without a system call; returns whether anything was.
  open func poll() -> Bool { false }
}

/// One call at a time in the future.
public final class LoopTimer {
  fileprivate var deadline: UInt64 = .max
  /// Its time has come, and it will be called in this pass.
  fileprivate var isDue = false
  fileprivate let body: () -> Void

  /// `body` is called from the loop. A timer keeps what `body` captures, the loop keeps timers that
  /// are set.
  public init(_ body: @escaping () -> Void) { self.body = body }

  /// Whether it is going to be called.
  public var isSet: Bool { deadline != .max }
}

/// The one thread of I/O: waits for descriptors and timers, and calls what belongs to them.
///
/// A pass: the start hook hands out what was finished, code that waited goes on, hooks send what has come
/// up (a queue its batch, connections their replies), then the loop waits. Where a hook expects something
/// within `spinNanoseconds` it looks for that, for as long, before it sleeps: being woken can take longer
/// than a fast disk does.
@safe public final class EventLoop {
  /// Why a descriptor is ready, or shall be watched.
  public struct Events: OptionSet, Sendable {
    /// Bits of epoll.
    public let rawValue: UInt32
    /// Bits of epoll.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// There is something to read, or to accept.
    public static var readable: Events { Events(rawValue: dmthin_epollin) }
    /// There is room to write.
    public static var writable: Events { Events(rawValue: dmthin_epollout) }
    /// Only changes are reported.
    public static var edge: Events { Events(rawValue: dmthin_epollet) }
    /// An error, or the other side has gone; always watched.
    public static var closed: Events {
      Events(rawValue: dmthin_epollerr | dmthin_epollhup | dmthin_epollrdhup)
    }
  }

  private static let eventsMax = 64
  private static let spinPauseNanoseconds: UInt64 = 20_000_000

  /// Stacks that are kept for the next code that may wait.
  static let idleFibersMax = 8

  private let epoll: Int32
  @safe @exclusivity(unchecked) private var sources: [EventSource?] = []
  private var freeIndexes: [Int] = []
  private var generation: UInt32 = 0
  @safe @exclusivity(unchecked) private var hooks: [PassHook] = []
  /// The same, to be called without counting references.
  @safe @exclusivity(unchecked) private var hookCalls: [Unmanaged<PassHook>] = unsafe []
  private var timers: [LoopTimer] = []
  /// Timers whose time has come, to be called in this pass.
  @safe @exclusivity(unchecked) private var dueTimers: [LoopTimer] = []
  private var nextDeadline: UInt64 = .max
  /// Kept here, and read without reference counting by who leaves work for it.
  private var startHookOwned: PassHook?
  /// The hook that is called at the start of each pass, if there is one: that of the block path, which
  /// hands out finished requests. It is set once and stays as long as the loop.
  @safe @exclusivity(unchecked)
  public private(set) unowned(unsafe) var startHook: PassHook?
  /// Code that may wait: what runs now, what goes on in this pass, and stacks without any.
  var fiber: Fiber?
  @safe @exclusivity(unchecked) private var woken: [Fiber] = []
  @safe @exclusivity(unchecked) var idleFibers: [Fiber] = []
  private var isStopping = false
  private var isAnotherPassDue = false
  private var skipped: UInt64 = 0
  /// Where the monotonic clock was when time was stopped.
  private var heldTime: UInt64?
  /// No spinning before this.
  private var spinAgainTime: UInt64 = 0

  /// How long to look for completions before sleeping, in nanoseconds; 0: never.
  public var spinNanoseconds: UInt64 = 0
  /// A turn of the spinning loop takes a microsecond; one that takes so long was interrupted.
  var preemptionNanoseconds: UInt64 = 40_000
  /// Passes made.
  public var passes: UInt64 { passesMade }
  private var passesMade: UInt64 = 0

  /// - Throws: the error number of the system, as a `SystemError`.
  public init() throws(SystemError) {
    epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
    guard epoll >= 0 else { throw SystemError("epoll_create1", errno) }
  }

  deinit { close(epoll) }

  // MARK: - Sources

  /// Watches a source, which is kept until `remove`.
  public func add(_ source: EventSource, _ interest: Events) throws(SystemError) {
    precondition(source.index < 0, "a source is watched once")
    let index = freeIndexes.popLast() ?? sources.count
    if index == sources.count { sources.append(nil) }
    generation &+= 1
    source.generation = generation
    let token = UInt64(generation) << 32 | UInt64(index)
    let watched = interest.rawValue
    guard
      dmthin_epoll_control(epoll, Int32(EPOLL_CTL_ADD), source.descriptor, watched, token) == 0
    else {
      let code = errno
      freeIndexes.append(index)
      throw SystemError("epoll_ctl", code)
    }
    source.index = index
    sources[index] = source
  }

  /// Changes what is watched for.
  public func change(_ source: EventSource, _ interest: Events) {
    guard source.index >= 0 else { return }
    let token = UInt64(source.generation) << 32 | UInt64(source.index)
    _ = dmthin_epoll_control(
      epoll, Int32(EPOLL_CTL_MOD), source.descriptor, interest.rawValue, token)
  }

  /// Stops watching. Events that were already taken from the system are not delivered any more.
  public func remove(_ source: EventSource) {
    guard source.index >= 0 else { return }
    _ = dmthin_epoll_control(epoll, Int32(EPOLL_CTL_DEL), source.descriptor, 0, 0)
    sources[source.index] = nil
    freeIndexes.append(source.index)
    source.index = -1
  }

  // MARK: - Hooks and timers

  /// Calls a hook at the end of each pass, in the order in which they were added.
  public func add(_ hook: PassHook) {
    hooks.append(hook)
    unsafe hookCalls.append(.passUnretained(hook))
  }

  /// Stops calling a hook.
  public func remove(_ hook: PassHook) {
    hooks.removeAll { $0 === hook }
    hookCalls = unsafe hooks.map { unsafe .passUnretained($0) }
  }

  /// Calls a timer once, `nanoseconds` from now. The earlier time of one that was set no longer applies.
  public func set(_ timer: LoopTimer, after nanoseconds: UInt64) {
    if !timer.isSet { timers.append(timer) }
    timer.deadline = time &+ nanoseconds
    nextDeadline = min(nextDeadline, timer.deadline)
  }

  /// Cancels a timer.
  public func cancel(_ timer: LoopTimer) {
    timer.isDue = false
    guard timer.isSet else { return }
    timer.deadline = .max
    timers.removeAll { $0 === timer }
  }

  /// Nanoseconds of the monotonic clock, for measurements.
  public static func now() -> UInt64 { dmthin_monotonic_nanoseconds() }

  /// Nanoseconds of the clock that timers and time limits go by: the monotonic one, unless it was stopped,
  /// and what was skipped.
  public var time: UInt64 { (heldTime ?? Self.now()) &+ skipped }

  /// Moves that clock ahead by so many nanoseconds, so that tests see what happens after a minute without
  /// waiting for it, and have time limits that no busy machine reaches.
  public func skip(_ nanoseconds: UInt64) { skipped &+= nanoseconds }

  /// Stops that clock, so that only `skip` moves it, and the results of tests do not depend on how busy the
  /// machine is. The limit of `run(within:until:)` goes by the monotonic clock anyway.
  public func holdTime() { heldTime = Self.now() }

  /// Calls a hook at the start of each pass too, before anything else.
  public func setStartHook(_ hook: PassHook) {
    precondition(startHookOwned == nil, "a loop has one start hook")
    startHookOwned = hook
    startHook = hook
  }

  // MARK: - Passes

  /// Code that waits goes on in this pass.
  func wake(_ fiber: Fiber) {
    woken.append(fiber)
    isAnotherPassDue = true
  }

  /// Has hooks called once more before the loop sleeps: what one hook does may be work for those
  /// before it, and work can come up without an event.
  public func passAgain() { isAnotherPassDue = true }

  // MARK: - Running

  /// Runs until `stop`.
  public func run() {
    isStopping = false
    run { self.isStopping }
  }

  /// Runs until `condition` holds, which is asked after each pass's work and before it sleeps.
  public func run(until condition: () -> Bool) {
    while true {
      settle()
      if condition() { return }
      wait()
    }
  }

  /// The same, but for no longer than `nanoseconds`.
  public func run(within nanoseconds: UInt64, until condition: () -> Bool) {
    let end = Self.now() &+ nanoseconds
    let timer = LoopTimer {}
    set(timer, after: nanoseconds)
    run(until: { condition() || Self.now() >= end })
    cancel(timer)
  }

  /// Ends `run` after this pass.
  public func stop() { isStopping = true }

  /// One pass that does not sleep.
  public func pass() {
    settle()
    dispatch(timeout: 0)
    settle()
  }

  private func wait() {
    if spinNanoseconds > 0, spin() { return }
    dispatch(timeout: timeout())
  }

  /// Calls hooks, and has code go on that was woken, until nothing more comes of it.
  private func settle() {
    passesMade &+= 1
    var rounds = 0
    repeat {
      isAnotherPassDue = false
      // What it ends in turn is for the next round. The loop can be run from within it.
      startHook?.startOfPass()
      // As many as wait now: one that wakes another each time would keep the hooks waiting.
      var left = woken.count
      while left > 0, !woken.isEmpty {
        left -= 1
        goOn(woken.removeFirst())
      }
      // Those that a hook removes are still there until all were called.
      let kept = hooks
      unsafe hookCalls.forEach { call in unsafe call._withUnsafeGuaranteedRef { $0.endOfPass() } }
      withExtendedLifetime(kept) {}
      rounds += 1
      // Others get their turn even where completions bring forth completions for ever.
    } while (!woken.isEmpty || isAnotherPassDue) && rounds < 64
  }

  /// Looks for completions for a while; true if something was dealt with.
  private func spin() -> Bool {
    guard woken.isEmpty, !isAnotherPassDue, heldTime == nil,
      hooks.contains(where: { $0.expects(within: spinNanoseconds) })
    else { return false }
    var now = time
    guard now >= spinAgainTime else { return false }
    let end = now &+ spinNanoseconds
    repeat {
      for _ in 0..<16 {
        for hook in hooks where hook.poll() { return true }
      }
      if dispatch(timeout: 0) > 0 { return true }
      let before = now
      now = time
      if now &- before > preemptionNanoseconds {
        // Others want the processor: those who sleep are given it sooner than those who spin.
        spinAgainTime = now &+ Self.spinPauseNanoseconds
        return false
      }
    } while now < min(end, nextDeadline)
    return false
  }

  private func timeout() -> Int32 {
    if !woken.isEmpty || isAnotherPassDue || !dueTimers.isEmpty { return 0 }
    guard nextDeadline != .max else { return -1 }
    let now = time
    guard nextDeadline > now else { return 0 }
    return Int32(clamping: (nextDeadline - now + 999_999) / 1_000_000)
  }

  /// Returns how many events and timers there were.
  @discardableResult
  private func dispatch(timeout: Int32) -> Int {
    let count = unsafe withUnsafeTemporaryAllocation(of: epoll_event.self, capacity: Self.eventsMax)
    {
      events -> Int in
      guard let events = events.baseAddress else { return 0 }
      let count = unsafe epoll_wait(epoll, events, Int32(Self.eventsMax), timeout)
      for i in 0..<max(0, Int(count)) {
        let token = unsafe dmthin_epoll_token(events + i)
        let index = Int(token & 0xffff_ffff)
        // The source may be gone, and its place taken, through an earlier event of the batch.
        guard index < sources.count, let source = sources[index],
          source.generation == UInt32(token >> 32)
        else { continue }
        unsafe source.ready(Events(rawValue: events[i].events))
      }
      return max(0, Int(count))
    }
    let fired =
      !dueTimers.isEmpty || nextDeadline != .max && time >= nextDeadline ? fireTimers() : 0
    return count + fired
  }

  private func fireTimers() -> Int {
    let now = time
    for timer in timers where timer.deadline <= now {
      timer.deadline = .max
      timer.isDue = true
      dueTimers.append(timer)
    }
    timers.removeAll { !$0.isSet }
    nextDeadline = timers.map(\.deadline).min() ?? .max
    var fired = 0
    var left = dueTimers.count
    while left > 0, !dueTimers.isEmpty {
      left -= 1
      let timer = dueTimers.removeFirst()
      fired += 1
      guard timer.isDue else { continue }
      timer.isDue = false
      timer.body()
    }
    return fired
  }
}
