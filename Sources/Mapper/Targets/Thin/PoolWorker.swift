import EventLoop

/// Has a pool work at the end of a pass of the loop in which it was asked to.
///
/// Invariant: what was scheduled before the end of a pass is looked at in that pass or the next one, once.
final class PoolWorker: PassHook {
  /// The pool, from `start` to `stop`.
  unowned(unsafe) private(set) var pool: ThinPool?
  private let loop: EventLoop
  private var isScheduled = false

  init(_ loop: EventLoop) { self.loop = loop }

  func start(_ pool: ThinPool) {
    unsafe self.pool = pool
    loop.add(self)
  }

  func stop() {
    unsafe pool = nil
    loop.remove(self)
  }

  /// Has the pool work at the end of this pass.
  func schedule() {
    isScheduled = true
    loop.passAgain()
  }

  override func endOfPass() {
    guard isScheduled, let pool = unsafe pool else { return }
    isScheduled = false
    pool.work()
    // What was sent goes out with this pass's batch.
    loop.passAgain()
  }
}
