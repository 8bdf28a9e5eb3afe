import DataPath
import DeviceMapper
import EventLoop
import Glibc

/// Neighbouring chunks of an origin that get their place on the COW device: copied from the origin, with what
/// clients write to the snapshot put in, or written as a whole by a client.
///
/// Invariant: as long as it is pending, no write to these chunks of the origin goes on.
final class PendingRun: CopyJob {
  let exceptions: SnapshotExceptions
  let oldFirst: UInt64
  let newFirst: UInt64
  let count: UInt64
  /// Its place among the pending runs.
  let slot: UInt64

  /// For the store: the run after it, whether it has its contents, and how many of its chunks are on record.
  var next: PendingRun?
  private(set) var isCopied = false
  var recorded: UInt64 = 0
  /// Why it has no contents, or 0.
  private(set) var failure: Int32 = 0

  /// Writes that were put into the copy, or are the contents.
  private var written = RequestQueue()
  /// What goes on when the chunks have their place: other writes to the snapshot, and writes to the origin.
  private var waiting = RequestQueue()
  private var waiters: [() -> Void] = []
  private var takesWrites = true

  /// - Parameter isWhole: whether a client writes all of it, so that nothing is copied.
  init(
    _ exceptions: SnapshotExceptions, oldFirst: UInt64, new: Range<UInt64>, slot: UInt64,
    isWhole: Bool
  ) {
    self.exceptions = exceptions
    self.oldFirst = oldFirst
    newFirst = new.lowerBound
    count = new.upperBound - new.lowerBound
    self.slot = slot
    let chunkBytes = exceptions.store.chunkBytes
    let origin = exceptions.origin.direct
    let start = oldFirst * chunkBytes
    // The last chunk of the origin can be short.
    let bytes = min(count * chunkBytes, origin.byteCount > start ? origin.byteCount - start : 0)
    let unit = UInt64(exceptions.store.cow.direct.logicalBlockBytes)
    super.init(
      .bytes(CopyPlace(origin, at: start), count: bytes),
      byteCount: isWhole ? 0 : (bytes + unit - 1) / unit * unit,
      to: [CopyPlace(exceptions.store.cow.direct, at: newFirst * chunkBytes)],
      fills: true)
    takesWrites = !isWhole
  }

  var chunks: Range<UInt64> { oldFirst..<oldFirst + count }

  // MARK: - Contents

  /// Takes a write of the snapshot to its chunks: into the copy, if that is still possible.
  func add(_ part: RequestPointer) {
    // Without records nothing is flushed that would make it durable.
    let isFillable =
      unsafe takesWrites
      && !(part.pointee.flags.contains(.durable) && exceptions.store.kind == .transient)
    if isFillable {
      unsafe written.append(part)
    } else {
      unsafe waiting.append(part)
    }
  }

  override func fill(_ memory: UnsafeMutableRawPointer, _ range: Range<UInt64>) {
    // What comes while a piece is being written comes too late for that.
    takesWrites = false
    let start = oldFirst * exceptions.store.chunkBytes
    unsafe written.putWrites(
      into: memory, start + range.lowerBound..<start + range.upperBound)
  }

  override func ended() { hasContents(error) }

  /// The write of all of it is done.
  func wholeDone(_ part: RequestPointer) {
    let code = unsafe part.pointee.errorNumber
    unsafe written.append(part)
    hasContents(code)
  }

  private func hasContents(_ code: Int32) {
    failure = code
    isCopied = true
    exceptions.store.copied(self)
  }

  // MARK: - End

  /// A write to the origin waits for it; the driver that owns it maps it again.
  func wait(_ part: RequestPointer) { unsafe waiting.append(part) }

  /// Calls `body` when it is no longer pending.
  func whenDone(_ body: @escaping () -> Void) { waiters.append(body) }

  /// The chunks are on record, or cannot be.
  func committed(_ isGood: Bool) { exceptions.committed(self, isGood) }

  /// Lets go on what waits. Called when the run is no longer pending.
  func release(_ isGood: Bool) {
    var parts = written.takeAll()
    while let part = unsafe parts.takeFirst() {
      unsafe exceptions.loop.finishLater(part, isGood ? 0 : EIO)
    }
    parts = waiting.takeAll()
    while let part = unsafe parts.takeFirst() { unsafe TargetDriver.mapAgain(part) }
    let bodies = waiters
    waiters = []
    for body in bodies { body() }
  }
}
