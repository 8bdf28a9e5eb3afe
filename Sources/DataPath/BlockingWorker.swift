import CDMThin
import Glibc

/// A thread for calls that wait and have no queue of their own (discards, zeroing), so that the loop
/// does not. Requests are done in the order in which they come.
public final class BlockingWorker {
  private final class Shared: @unchecked Sendable {
    // Guarded by `lock`.
    var jobs: [(request: RequestPointer, body: () -> Int32)] = []
    var done: [(request: RequestPointer, error: Int32)] = []
    var isStopping = false
    let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    let wakeUp = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    let event: Int32

    init(event: Int32) {
      self.event = event
      pthread_mutex_init(lock, nil)
      pthread_cond_init(wakeUp, nil)
    }

    deinit {
      pthread_mutex_destroy(lock)
      pthread_cond_destroy(wakeUp)
      lock.deallocate()
      wakeUp.deallocate()
    }

    func work() {
      pthread_mutex_lock(lock)
      while true {
        while jobs.isEmpty && !isStopping { pthread_cond_wait(wakeUp, lock) }
        if jobs.isEmpty { break }
        let job = jobs.removeFirst()
        pthread_mutex_unlock(lock)
        let error = job.body()
        pthread_mutex_lock(lock)
        done.append((job.request, error))
        var one: UInt64 = 1
        _ = Glibc.write(event, &one, 8)
      }
      pthread_mutex_unlock(lock)
    }
  }

  private final class Source: EventSource {
    unowned(unsafe) let worker: BlockingWorker
    init(_ worker: BlockingWorker, descriptor: Int32) {
      self.worker = worker
      super.init(descriptor: descriptor)
    }
    override func ready(_ events: EventLoop.Events) { worker.collect() }
  }

  private let loop: EventLoop
  private let shared: Shared
  private var source: Source?
  private var thread = pthread_t()
  private var isRunning = false
  /// Requests that are not done yet.
  public private(set) var inFlight = 0

  /// A worker for `loop`. Its thread starts with the first request.
  public init(_ loop: EventLoop) throws(SystemError) {
    let event = dmthin_eventfd()
    guard event >= 0 else { throw SystemError("eventfd", errno) }
    self.loop = loop
    shared = Shared(event: event)
    let source = Source(self, descriptor: event)
    self.source = source
    try loop.add(source, [.readable, .edge])
  }

  /// Has `body` called on the thread; the request ends with the error number it returns.
  public func submit(_ request: RequestPointer, _ body: @escaping () -> Int32) {
    guard isRunning || start() else {
      loop.finishLater(request, EAGAIN)
      return
    }
    inFlight += 1
    pthread_mutex_lock(shared.lock)
    shared.jobs.append((request, body))
    pthread_cond_signal(shared.wakeUp)
    pthread_mutex_unlock(shared.lock)
  }

  private func start() -> Bool {
    let argument = Unmanaged.passRetained(shared)
    // Signals are the main thread's.
    var all = sigset_t()
    var old = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, &old)
    let status = pthread_create(
      &thread, nil,
      { argument in
        if let argument { Unmanaged<Shared>.fromOpaque(argument).takeRetainedValue().work() }
        return nil
      }, argument.toOpaque())
    pthread_sigmask(SIG_SETMASK, &old, nil)
    if status != 0 { argument.release() }
    isRunning = status == 0
    return isRunning
  }

  private func collect() {
    pthread_mutex_lock(shared.lock)
    let done = shared.done
    shared.done.removeAll()
    pthread_mutex_unlock(shared.lock)
    inFlight -= done.count
    for (request, error) in done { loop.finishLater(request, error) }
  }

  /// Waits for the thread to end its work, and ends it.
  public func close() {
    if isRunning {
      pthread_mutex_lock(shared.lock)
      shared.isStopping = true
      pthread_cond_signal(shared.wakeUp)
      pthread_mutex_unlock(shared.lock)
      pthread_join(thread, nil)
      isRunning = false
    }
    if let source {
      loop.remove(source)
      Glibc.close(source.descriptor)
    }
    source = nil
  }
}
