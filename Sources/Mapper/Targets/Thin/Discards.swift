import EventLoop

/// The discards of a pool that have work to do, or wait for a commit.
///
/// Invariants: a job is in one of the lists, or in none while it waits for the data device. All jobs together
/// do no more than `unitsPerPass` in a pass of the loop, and one step. A unit is about a microsecond.
final class Discards {
  private static let unitsPerPass = 500

  private let worker: PoolWorker
  private let loop: EventLoop
  private let metadataLock: FiberLock
  /// Has the rest done in a later pass.
  private let timer: LoopTimer
  @safe @exclusivity(unchecked) private var jobs: [DiscardJob] = []
  private var afterCommit: [DiscardJob] = []
  /// What was done in the pass `pass` of the loop.
  private var units = 0
  private var pass = UInt64.max

  init(_ worker: PoolWorker, _ loop: EventLoop, _ metadataLock: FiberLock) {
    self.worker = worker
    self.loop = loop
    self.metadataLock = metadataLock
    timer = LoopTimer { [unowned worker] in worker.schedule() }
  }

  func close() { loop.cancel(timer) }

  /// Whether any has work to do.
  var haveWork: Bool { !jobs.isEmpty }
  /// Whether they have done less than they may in a pass, and no other work waits for the metadata.
  var mayDoMore: Bool { units < Self.unitsPerPass && !metadataLock.isWanted }

  /// Counts work that was done.
  func spend(_ units: Int) { self.units += units }

  /// Has a job go on in its turn.
  func goOn(_ job: DiscardJob) {
    jobs.append(job)
    worker.schedule()
  }

  /// Has a job go on after the next commit, or when there cannot be one.
  func waitForCommit(_ job: DiscardJob) { afterCommit.append(job) }

  /// The metadata was committed, or cannot be any more.
  func committed() {
    let jobs = afterCommit
    afterCommit = []
    for job in jobs { job.committed() }
  }

  /// Goes on with the jobs as far as a pass has time for them, in turn; calls `body` after each step. Called
  /// with the metadata's lock.
  func step(_ body: () -> Void) {
    if pass != loop.passes { (pass, units) = (loop.passes, 0) }
    let turn = jobs
    jobs = []
    for (index, job) in turn.enumerated() {
      guard units < Self.unitsPerPass, index == 0 || !metadataLock.isWanted else {
        jobs = turn[index...] + jobs
        if !timer.isSet { loop.set(timer, after: 0) }
        return
      }
      job.step()
      body()
    }
  }
}
