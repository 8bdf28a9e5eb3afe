import BlockIO
import CDMThin
import DataPath
import EventLoop
import Glibc
import PoolManager
import Targets
import ThinTools

/// Checks metadata before a pool is served for writing, on its own thread so that clients of other
/// pools do not wait. Keeps tickets for pools that were closed cleanly.
final class MetadataJudge {
  private let loop: EventLoop
  private let care: MetadataCare
  private let tickets: CleanTickets?
  private let note: (String) -> Void
  /// Called every two seconds with the progress of a check: the pool, steps done, and the total.
  private let goesOn: (String, UInt64, UInt64) -> Void
  private let requests = RequestPool()
  /// One thread: checks are made one after the other, which bounds their memory.
  private var workers: Workers?
  private var jobs: [ObjectIdentifier: Job] = [:]

  init(
    _ loop: EventLoop, care: MetadataCare, tickets: CleanTickets?,
    note: @escaping (String) -> Void,
    goesOn: @escaping (String, UInt64, UInt64) -> Void
  ) {
    self.loop = loop
    self.care = care
    self.tickets = tickets
    self.note = note
    self.goesOn = goesOn
  }

  /// Ends the thread. No check may be running.
  func close() {
    workers?.close()
    workers = nil
  }

  /// Leaves a ticket for a pool that was closed cleanly.
  func poolClosed(_ access: PoolMetadataAccess) {
    if let descriptor = access.descriptor { tickets?.issue(descriptor) }
  }

  /// Checks metadata that is about to be written to.
  func judge(_ access: PoolMetadataAccess, _ verdict: @escaping (MetadataVerdict) -> Void) {
    // The ticket is used up in any case, because the metadata is used from now on.
    let isKnown = access.descriptor.flatMap { tickets?.redeem($0) } ?? false
    if care == .none {
      note("warning: the metadata of '\(access.name)' is served for writing without a check")
      return verdict(.unknown)
    }
    if care == .auto && isKnown { return verdict(.sound) }
    let job = Job()
    guard
      let device = access.pieces.flatMap({
        PiecedDevice($0, path: access.path, byteCount: access.device.byteCount)
      }),
      let workers = workers ?? (try? Workers(loop, threadsMax: 1))
    else {
      job.run(access.device)
      return verdict(conclude(access, job))
    }
    self.workers = workers
    jobs[ObjectIdentifier(job)] = job
    let timer = LoopTimer { [unowned self, unowned job] in tell(access, job) }
    job.timer = timer
    loop.set(timer, after: 2_000_000_000)
    job.ended = { [unowned self, unowned job] in
      loop.cancel(timer)
      job.timer = nil
      if let request = unsafe job.request { unsafe requests.give(request) }
      let result = conclude(access, job)
      jobs[ObjectIdentifier(job)] = nil
      verdict(result)
    }
    unsafe workers.submit(requests.take(.read, offset: 0, byteCount: 0, owner: job), lane: 0) {
      job.run(device)
      return 0
    }
  }

  private func tell(_ access: PoolMetadataAccess, _ job: Job) {
    let (done, total) = job.progress
    let share = total > 0 ? ": \(min(100, done &* 100 / total)) %" : ""
    note("checking the metadata of '\(access.name)' in \(access.path)\(share)")
    goesOn(access.name, done, total)
    if let timer = job.timer { loop.set(timer, after: 2_000_000_000) }
  }

  private func conclude(_ access: PoolMetadataAccess, _ job: Job) -> MetadataVerdict {
    let path = access.path
    let ways = [
      "nothing was written. Keep a copy of \(path) before anything else. thin_check \(path) lists all "
        + "damage; dmthin serve --read-only serves the readable part; thin_dump --repair \(path) saves "
        + "it; --check none serves it for writing anyway"
    ]
    switch job.result {
    case .success(let report) where report.isDamaged:
      let shown = report.findings.filter { $0.severity == .fatal }.prefix(3).map(\.message)
      let more = report.fatalCount - shown.count
      return .refused(
        ["the metadata in \(path) is damaged, and is not served for writing:"] + shown
          + (more > 0 ? ["and \(more) more findings"] : []) + ways)
    case .success(let report):
      if report.mendableCount > 0 {
        note(
          "\(path) has \(report.mendableCount) findings that cost at most space; while it is not served, "
            + "thin_check --auto-repair \(path) repairs them")
      }
      return .sound
    case .failure(let error):
      return .refused(["the metadata in \(path) cannot be checked: \(error)"] + ways)
    case nil: return .refused(["the metadata in \(path) was not checked"])
    }
  }
}

/// A check and its progress.
@safe private final class Job: RequestOwner, @unchecked Sendable {
  /// Guards the properties below.
  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var steps: (done: UInt64, total: UInt64) = (0, 0)
  /// Used by the loop's thread, like `timer` and `ended`; written before the request ends.
  private(set) var result: Result<CheckReport, ToolError>?
  var timer: LoopTimer?
  var ended: () -> Void = {}
  private(set) var request: RequestPointer?

  override init() {
    unsafe pthread_mutex_init(lock, nil)
    super.init()
  }

  deinit {
    unsafe pthread_mutex_destroy(lock)
    unsafe lock.deallocate()
  }

  var progress: (done: UInt64, total: UInt64) {
    unsafe pthread_mutex_lock(lock)
    defer { unsafe pthread_mutex_unlock(lock) }
    return steps
  }

  func run(_ device: any BlockDevice) {
    let progress = Progress { [unowned self] _, done, total in
      unsafe pthread_mutex_lock(lock)
      steps = (done, total)
      unsafe pthread_mutex_unlock(lock)
    }
    result = Result { () throws(ToolError) in
      try ThinCheck.run(device, options: CheckOptions(), progress: progress)
    }
  }

  override func requestDone(_ request: RequestPointer) {
    unsafe self.request = request
    let body = ended
    ended = {}
    // If the thread could not be started, there is no result.
    body()
  }
}
