import DataPath
import EventLoop

/// What is to be committed, when, and which requests wait for it.
///
/// Invariants: `isCommitting` from the flush of the data device for a commit to the commit's end: no mapping
/// is inserted meanwhile, so that the commit contains only mappings to blocks that were flushed. A request
/// waits for the next commit or belongs to the one under way. A flush that is under way keeps the pool.
final class Committer: RequestOwner {
  private let worker: PoolWorker
  private let loop: EventLoop
  private let timer: LoopTimer
  /// Something has changed since the last commit.
  private(set) var isDirty = false
  private(set) var isCommitting = false
  private var isDue = false
  private var waiting = RequestQueue()
  private var committing = RequestQueue()
  private var flushed: ThinPool?

  init(_ worker: PoolWorker, _ loop: EventLoop) {
    self.worker = worker
    self.loop = loop
    timer = LoopTimer { [unowned worker] in unsafe worker.pool?.committer.ask() }
    super.init()
  }

  func close() { loop.cancel(timer) }

  // MARK: - Reasons

  /// Something was changed; it is committed `interval` nanoseconds from now at the latest, or with 0 when a
  /// client asks for it.
  func noteChange(_ interval: UInt64) {
    isDirty = true
    if interval > 0, !timer.isSet, !isDue { loop.set(timer, after: interval) }
  }

  /// Has a commit begun in the next pass of the pool's work.
  func ask() {
    isDue = true
    worker.schedule()
  }

  /// Has a flush or durable write wait for the next commit.
  func wait(_ part: RequestPointer) {
    unsafe waiting.append(part)
    worker.schedule()
  }

  /// Whether a commit is to begin.
  var isWanted: Bool { !isCommitting && (!waiting.isEmpty || isDue) }

  // MARK: - Course

  /// Takes all who wait for a commit that is about to begin. False if there is no reason for one.
  func gather() -> Bool {
    isDue = false
    guard !waiting.isEmpty || isDirty else { return false }
    committing = waiting.takeAll()
    return true
  }

  /// Flushes the pool's data device; then calls `dataFlushed` with the metadata's lock.
  func flushData(of pool: ThinPool) {
    isCommitting = true
    flushed = pool
    unsafe pool.data.submit(pool.requests.take(.flush, offset: 0, byteCount: 0, owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    guard let pool = flushed else { return }
    let code = unsafe request.pointee.errorNumber
    unsafe pool.requests.give(request)
    loop.begin { [self] in
      defer { flushed = nil }
      pool.metadataLock.take()
      defer { pool.metadataLock.give() }
      // Preparations have waited for this.
      defer { isCommitting = false }
      pool.dataFlushed(code)
    }
  }

  /// The changes are about to be written, or were taken back. What changes from now on is for the next
  /// commit.
  func forgetChanges() {
    isDirty = false
    isDue = false
    loop.cancel(timer)
  }

  /// Those that belong to the commit that has ended.
  func takeCommitted() -> RequestQueue { committing.takeAll() }
}
