import CDMThin
public import EventLoop
import Glibc

/// Threads for calls that wait and have no queue of their own (discards, zeroing), so that the loop does
/// not wait.
///
/// Each call belongs to a lane, such as a disk. The calls of a lane are made one at a time, in the order of
/// `submit`; those of different lanes at the same time, up to `threadsMax`. So a disk whose discards are slow
/// delays itself, and other disks as soon as `threadsMax` disks are slow at a time. Lanes with calls take
/// turns.
///
/// Threads start when they are needed and end with `close`.
public final class Workers {
  /// The usual number of threads.
  public static let threadsMax = 4

  @safe private final class Shared: @unchecked Sendable {
    @safe struct Job {
      var request: RequestPointer
      var body: () -> Int32
    }
    /// Calls of a lane that have not begun, from `next` on.
    struct Lane {
      var jobs: [Job] = []
      var next = 0
      var isBusy = false
    }

    // Guarded by `lock`.
    var lanes: [Int: Lane] = [:]
    /// Lanes that have calls and are not busy, in the order of their turns.
    var ready: [Int] = []
    var done: [(request: RequestPointer, error: Int32)] = unsafe []
    /// Lanes that are busy, and so the threads that make calls.
    var busyCount = 0
    var isStopping = false
    let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    let wakeUp = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    let event: Int32

    init(event: Int32) {
      self.event = event
      unsafe pthread_mutex_init(lock, nil)
      unsafe pthread_cond_init(wakeUp, nil)
    }

    deinit {
      unsafe pthread_mutex_destroy(lock)
      unsafe pthread_cond_destroy(wakeUp)
      unsafe lock.deallocate()
      unsafe wakeUp.deallocate()
    }

    func with<Result>(_ body: () -> Result) -> Result {
      unsafe pthread_mutex_lock(lock)
      defer { unsafe pthread_mutex_unlock(lock) }
      return body()
    }

    /// Adds a call. Returns the number of threads with which no lane waits for another.
    func add(_ job: Job, _ number: Int) -> Int {
      var lane = lanes.removeValue(forKey: number) ?? Lane()
      lane.jobs.append(job)
      if !lane.isBusy && lane.jobs.count - lane.next == 1 { ready.append(number) }
      lanes[number] = lane
      unsafe pthread_cond_signal(wakeUp)
      return busyCount + ready.count
    }

    /// Takes the next call, and its lane, from `ready`.
    private func take() -> (Job, lane: Int) {
      let number = ready.removeFirst()
      guard var lane = lanes.removeValue(forKey: number) else { preconditionFailure("ready") }
      let job = lane.jobs[lane.next]
      lane.next += 1
      if lane.next == lane.jobs.count || lane.next == 256 {
        lane.jobs.removeFirst(lane.next)
        lane.next = 0
      }
      lane.isBusy = true
      busyCount += 1
      lanes[number] = lane
      return (job, number)
    }

    private func finish(_ number: Int) {
      busyCount -= 1
      lanes[number]?.isBusy = false
      if lanes[number]?.jobs.isEmpty == true { lanes[number] = nil } else { ready.append(number) }
    }

    /// What a thread does: makes calls until it is stopped and none is left.
    func work() {
      unsafe pthread_mutex_lock(lock)
      while true {
        // While stopping, the calls of a busy lane are left to the thread that has it.
        while ready.isEmpty && !isStopping { unsafe pthread_cond_wait(wakeUp, lock) }
        if ready.isEmpty { break }
        let (job, lane) = take()
        unsafe pthread_mutex_unlock(lock)
        let error = job.body()
        unsafe pthread_mutex_lock(lock)
        finish(lane)
        unsafe done.append((job.request, error))
        var one: UInt64 = 1
        _ = unsafe Glibc.write(event, &one, 8)
      }
      unsafe pthread_mutex_unlock(lock)
    }
  }

  private final class Source: EventSource {
    unowned(unsafe) let workers: Workers
    init(_ workers: Workers, descriptor: Int32) {
      unsafe self.workers = workers
      super.init(descriptor: descriptor)
    }
    override func ready(_ events: EventLoop.Events) { unsafe workers.collect() }
  }

  private let loop: EventLoop
  private let shared: Shared
  private let most: Int
  private var source: Source?
  private var threads: [pthread_t] = []
  /// The number of threads that were started.
  public var threadCount: Int { threads.count }
  /// Requests that are not done yet.
  public private(set) var inFlight = 0

  /// Threads for `loop`, `threadsMax` at most.
  /// - Throws: `SystemError` if the system has no descriptor left.
  public init(_ loop: EventLoop, threadsMax: Int = Workers.threadsMax) throws(SystemError) {
    let event = dmthin_eventfd()
    guard event >= 0 else { throw SystemError("eventfd", errno) }
    self.loop = loop
    most = threadsMax
    shared = Shared(event: event)
    let source = Source(self, descriptor: event)
    self.source = source
    try loop.add(source, [.readable, .edge])
  }

  /// Has `body` called on a thread; the request ends with the error number that it returns, or with
  /// EAGAIN if the system has no thread.
  public func submit(_ request: RequestPointer, lane: Int, _ body: @escaping () -> Int32) {
    // The first thread before the first call: if it cannot be started, nothing is left behind.
    guard !threads.isEmpty || start() else { return unsafe loop.finishLater(request, EAGAIN) }
    inFlight += 1
    let wanted = shared.with { unsafe shared.add(Shared.Job(request: request, body: body), lane) }
    // If no further thread can be started, the present ones do it later.
    if threads.count < min(wanted, most) { _ = start() }
  }

  private func start() -> Bool {
    let argument = unsafe Unmanaged.passRetained(shared)
    // Signals are the main thread's.
    var all = sigset_t()
    var old = sigset_t()
    unsafe sigfillset(&all)
    unsafe pthread_sigmask(SIG_BLOCK, &all, &old)
    var thread = pthread_t()
    let status = unsafe pthread_create(
      &thread, nil,
      { argument in
        if let argument = unsafe argument {
          unsafe Unmanaged<Shared>.fromOpaque(argument).takeRetainedValue().work()
        }
        return nil
      }, unsafe argument.toOpaque())
    unsafe pthread_sigmask(SIG_SETMASK, &old, nil)
    if status == 0 { threads.append(thread) } else { unsafe argument.release() }
    return status == 0
  }

  private func collect() {
    let done = unsafe shared.with {
      let done = unsafe shared.done
      unsafe shared.done.removeAll()
      return unsafe done
    }
    unsafe inFlight -= done.count
    unsafe done.forEach { request, error in unsafe loop.finishLater(request, error) }
  }

  /// Waits for the threads to end their calls, and ends them.
  public func close() {
    shared.with {
      shared.isStopping = true
      unsafe pthread_cond_broadcast(shared.wakeUp)
    }
    for thread in threads { pthread_join(thread, nil) }
    threads = []
    if let source {
      loop.remove(source)
      Glibc.close(source.descriptor)
    }
    source = nil
  }
}
