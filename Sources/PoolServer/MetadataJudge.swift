import BlockIO
import CDMThin
import DataPath
import Glibc
import Targets
import ThinTools

/// How metadata is looked at before it is served for writing.
public enum MetadataCare: String, CaseIterable, Sendable {
  /// Checked, unless this server's kind left it sound and nothing was written to it since.
  case auto
  /// Checked, whatever is known of it.
  case full
  /// Taken as it is.
  case none
}

/// Has metadata checked before a pool is served for writing, on a thread of its own so that clients of
/// other pools do not wait, and keeps notes of pools that ended well.
final class MetadataJudge {
  private let loop: EventLoop
  private let care: MetadataCare
  private let tickets: CleanTickets?
  private let note: (String) -> Void
  /// Told every two seconds how far a check is: the pool, steps done, and steps in all.
  private let goesOn: (String, UInt64, UInt64) -> Void
  private let requests = RequestPool()
  private var worker: BlockingWorker?
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

  /// Ends the thread; nothing is being checked.
  func close() {
    worker?.close()
    worker = nil
  }

  /// A pool has ended well.
  func poolClosed(_ access: PoolMetadataAccess) {
    if let descriptor = access.descriptor { tickets?.issue(descriptor) }
  }

  /// Judges metadata that is about to be written to.
  func judge(_ access: PoolMetadataAccess, _ verdict: @escaping (MetadataVerdict) -> Void) {
    // It is used up in any case: what follows is a use of the metadata.
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
      let worker = worker ?? (try? BlockingWorker(loop))
    else {
      job.run(access.device)
      return verdict(conclude(access, job))
    }
    self.worker = worker
    jobs[ObjectIdentifier(job)] = job
    let timer = LoopTimer { [unowned self, unowned job] in tell(access, job) }
    job.timer = timer
    loop.set(timer, after: 2_000_000_000)
    job.ended = { [unowned self, unowned job] in
      loop.cancel(timer)
      job.timer = nil
      if let request = job.request { requests.give(request) }
      let result = conclude(access, job)
      jobs[ObjectIdentifier(job)] = nil
      verdict(result)
    }
    worker.submit(requests.take(.read, offset: 0, byteCount: 0, owner: job)) {
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
        + "damage; dmthin serve --read-only serves what can be read; thin_dump --repair \(path) saves "
        + "it; --check none serves it for writing all the same"
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
          "\(path) has \(report.mendableCount) findings that cost space or nothing; when it is not served, "
            + "thin_check --auto-repair \(path) mends them")
      }
      return .sound
    case .failure(let error):
      return .refused(["the metadata in \(path) cannot be checked: \(error)"] + ways)
    case nil: return .refused(["the metadata in \(path) was not checked"])
    }
  }
}

/// One check, and how far it is.
private final class Job: RequestOwner, @unchecked Sendable {
  /// Guards what follows.
  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var steps: (done: UInt64, total: UInt64) = (0, 0)
  /// Of the loop's thread, as `timer` and `ended`; written before the request ends.
  private(set) var result: Result<CheckReport, ToolError>?
  var timer: LoopTimer?
  var ended: () -> Void = {}
  private(set) var request: RequestPointer?

  override init() {
    pthread_mutex_init(lock, nil)
    super.init()
  }

  deinit {
    pthread_mutex_destroy(lock)
    lock.deallocate()
  }

  var progress: (done: UInt64, total: UInt64) {
    pthread_mutex_lock(lock)
    defer { pthread_mutex_unlock(lock) }
    return steps
  }

  func run(_ device: any BlockDevice) {
    let progress = Progress { [unowned self] _, done, total in
      pthread_mutex_lock(lock)
      steps = (done, total)
      pthread_mutex_unlock(lock)
    }
    result = Result { () throws(ToolError) in
      try check(device, options: CheckOptions(), progress: progress)
    }
  }

  override func requestDone(_ request: RequestPointer) {
    self.request = request
    let body = ended
    ended = {}
    // Where there was no thread, there is no result.
    body()
  }
}
