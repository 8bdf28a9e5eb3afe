import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc

extension TargetType {
  /// An origin into which a snapshot is merged.
  static let snapshotMerge = TargetType(
    SnapshotTarget.mergeType, version: (1, 5, 0), SnapshotTarget.self
  ) { (context) throws(TargetError) in try SnapshotMergeDriver(context) }
}

/// The target `snapshot-merge`: the origin as it will be when the snapshot is merged. Chunks with an
/// exception are on the COW device, until they have been copied to the origin, the last ones on record
/// first.
///
/// Invariant: an exception is forgotten only after its chunk on the origin is durable, and its record is
/// gone.
final class SnapshotMergeDriver: SnapshotDriver {
  private enum State {
    case stopped, running, stopping
  }

  private var state = State.stopped
  private var hasFailed = false
  /// Bytes of the origin that are being copied there; writes to them wait.
  @safe @exclusivity(unchecked) private var merging: Range<UInt64> = 0..<0
  private var waiting = RequestQueue()
  /// Writes that are on their way to chunks on the COW device.
  private let writes = DeferredSet()
  /// The most bytes of a step while clients have requests, which can have to wait for its end.
  private static let gentleBytes: UInt64 = 256 << 10
  /// Limits the time of steps while clients have requests.
  private let pace = CopyPace()
  /// Requests that came, and how many of these had come at the end of the last step.
  @safe @exclusivity(unchecked) private var requestCount: UInt64 = 0
  private var knownRequests: UInt64 = 0
  /// The rest after a step.
  private var rest: Pause?
  private var stopWaiters: [() -> Void] = []

  override init(_ context: DriverContext<SnapshotTarget>) throws(TargetError) {
    try super.init(context)
    pace.percentBesideClients = 5
    pace.clientsAreBusy = { [unowned self] in clientsAreBusy }
  }

  /// Writes to the origin make no exceptions in it: what it shows is the future origin.
  override var takesExceptions: Bool { false }
  override var flushCount: Int { 2 }

  // MARK: - I/O

  override func map(_ part: RequestPointer) {
    requestCount &+= 1
    unsafe part.pointee.snapshot = SnapshotPartState()
    switch unsafe part.pointee.operation {
    case .flush:
      unsafe (part.pointee.tag == 0 ? origin : cow).direct.submit(part)
    case .discard: unsafe finishLater(part)
    case .read, .write, .writeZeroes: unsafe transfer(part)
    }
  }

  private func transfer(_ part: RequestPointer) {
    let isRead = unsafe part.pointee.operation == .read
    let whole = unsafe part.pointee.offset..<part.pointee.end
    guard exceptions.isValid, chunkBytes > 0 else {
      return unsafe submitToOrigin(part, isRead: isRead)
    }
    let (shift, bytes) = (chunkShift, chunkBytes)
    var at = whole.lowerBound
    while at < whole.upperBound {
      let chunk = at >> shift
      var next = chunk + 1
      var stop = min(whole.upperBound, next << shift)
      let new = exceptions.find(chunk)
      let isMerging = !isRead && merging.contains(chunk << shift)
      while stop < whole.upperBound, new != ExceptionTable.nowhere,
        exceptions.find(next) == new.map({ $0 + (next - chunk) }),
        isRead || merging.contains(next << shift) == isMerging
      {
        next += 1
        stop = min(whole.upperBound, stop + bytes)
      }
      let piece = unsafe piece(of: part, at..<stop, whole)
      if let new {
        if isMerging {
          unsafe waiting.append(piece)
        } else {
          if !isRead { unsafe piece.pointee.snapshot.epoch = UInt8(writes.enter() + 1) }
          unsafe submitToCow(piece, new, chunk)
        }
      } else {
        unsafe submitToOrigin(piece, isRead: isRead)
      }
      at = stop
    }
  }

  private func submitToOrigin(_ part: RequestPointer, isRead: Bool) {
    if !isRead, unsafe group.delays(part) { return }
    unsafe origin.direct.submit(part)
  }

  override func requestDone(_ part: RequestPointer) {
    let epoch = unsafe part.pointee.snapshot.epoch
    if epoch > 0 { writes.leave(Int(epoch) - 1) }
    unsafe done(part)
  }

  // MARK: - Merging

  override func resume() { start() }

  override func close() {
    _ = stopAndWait()
    super.close()
  }

  override func presuspend(noFlush: Bool, _ ready: @escaping () -> Void) {
    guard state != .stopped else { return ready() }
    askToStop()
    stopWaiters.append(ready)
  }

  private func askToStop() {
    state = .stopping
    rest?.end()
  }

  /// Stops after the present step; whether it was running. The caller may have to wait.
  func stopAndWait() -> Bool {
    guard state != .stopped else { return false }
    askToStop()
    loop.pause { stopWaiters.append($0) }
    return true
  }

  /// Begins to merge, or goes on.
  func start() {
    guard state == .stopped, isActive, !hasFailed, !device.isSuspended, !device.isSuspending
    else { return }
    guard exceptions.isValid else { return log("Snapshot is invalid: can't merge") }
    state = .running
    loop.begin {
      do throws(BlockIOError) {
        while self.state == .running, let run = try self.exceptions.store.lastRun() {
          let start = self.loop.time
          let byteCount = try self.merge(self.clientsAreBusy ? self.gently(run) : run)
          self.pace.ended(byteCount, from: start, to: self.loop.time)
          self.knownRequests = self.requestCount
          self.takeRest()
        }
      } catch {
        self.fail("\(error)")
      }
      self.state = .stopped
      let waiters = self.stopWaiters
      self.stopWaiters = []
      for body in waiters { body() }
    }
  }

  /// Whether clients have requests, or had some since the last step.
  private var clientsAreBusy: Bool { device.hasOutstanding || requestCount != knownRequests }

  /// The last chunks of a run, so few that writes to them do not wait for long.
  private func gently(_ run: ExceptionRun) -> ExceptionRun {
    let count = min(run.count, max(1, Self.gentleBytes / chunkBytes))
    let left = run.count - count
    return ExceptionRun(
      oldFirst: run.oldFirst &+ left, newFirst: run.newFirst &+ left, count: count)
  }

  /// Lets clients have the disks for a while, as the pace says. It ends when the merge is to stop.
  private func takeRest() {
    let now = loop.time
    guard state == .running, pace.restsUntil > now else { return }
    let pause = Pause(loop)
    let timer = LoopTimer { pause.end() }
    loop.set(timer, after: pace.restsUntil - now)
    rest = pause
    pause.wait()
    rest = nil
    loop.cancel(timer)
  }

  /// One step: copies a run of chunks to the origin, makes them durable there, and forgets them. Returns
  /// the number of bytes.
  private func merge(_ run: ExceptionRun) throws(BlockIOError) -> Int {
    let originBytes = origin.direct.byteCount
    let (start, overflow) = run.oldFirst.multipliedReportingOverflow(by: chunkBytes)
    let chunkCount = cow.direct.byteCount / chunkBytes
    guard !overflow, start < originBytes, run.newFirst < chunkCount,
      run.count <= chunkCount - run.newFirst
    else {
      throw BlockIOError(.read, path: cow.text, offset: run.newFirst &* chunkBytes, code: EIO)
    }
    let byteCount = min(run.count * chunkBytes, originBytes - start)
    let range = start..<start + byteCount
    // Each other snapshot keeps what the merge overwrites.
    while let pending = group.makeExceptions(range) { loop.pause { pending.whenDone($0) } }
    group.waitForInvalidations()
    merging = range
    loop.pause { writes.afterAll($0) }
    let copy = MergeCopy(self, from: run.newFirst * chunkBytes, range)
    device.mapper.copies.begin(copy)
    copy.pause.wait()
    guard copy.error == 0 else {
      throw BlockIOError(
        copy.readError != 0 ? .read : .write, path: copy.readError != 0 ? cow.text : origin.text,
        offset: start, code: copy.error)
    }
    try origin.flush(device.mapper.snapshots.requests)
    try exceptions.store.forgetLast(run.count)
    for index in 0..<run.count { exceptions.remove(run.oldFirst + index) }
    merging = 0..<0
    release()
    return Int(byteCount)
  }

  /// What waited for a step goes to the origin now.
  private func release() {
    var parts = waiting.takeAll()
    while let part = unsafe parts.takeFirst() { unsafe map(part) }
  }

  private func fail(_ text: String) {
    log("\(text): shutting down merge")
    hasFailed = true
    merging = 0..<0
    var parts = waiting.takeAll()
    while let part = unsafe parts.takeFirst() { unsafe finishLater(part, EIO) }
  }

  override func status(noFlush: Bool) -> String {
    let status = exceptions.status
    return (hasFailed && status != .invalid ? .mergeFailed : status).parameters
  }

  /// The copy of a step.
  private final class MergeCopy: CopyJob {
    let pause: Pause

    init(_ driver: SnapshotMergeDriver, from offset: UInt64, _ range: Range<UInt64>) {
      pause = Pause(driver.loop)
      let byteCount = range.upperBound - range.lowerBound
      super.init(
        .bytes(CopyPlace(driver.cow.direct, at: offset), count: byteCount), byteCount: byteCount,
        to: [CopyPlace(driver.origin.direct, at: range.lowerBound)])
    }

    override func ended() { pause.end() }
  }
}
