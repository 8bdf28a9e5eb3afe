import DataPath
import DeviceMapper
import EventLoop
import Glibc
import ThinFormat

/// What a snapshot has: the chunks that differ from the origin, those that are about to, and their store.
/// Tables hand it over to each other.
///
/// Invariants: a chunk that is pending is not yet in `complete`, or reads of it from the origin are still
/// under way. Once invalid, nothing becomes complete.
final class SnapshotExceptions {
  let origin: OpenDevice
  let store: ExceptionStore
  /// The driver of the table that has it.
  weak var driver: SnapshotDriver?
  let loop: EventLoop
  /// Bytes of a chunk, and their binary logarithm; 0 until a store is handed over.
  let chunkBytes: UInt64
  let chunkShift: UInt64
  private let engine: CopyEngine

  @safe @exclusivity(unchecked) private(set) var isValid: Bool
  /// Writes to the snapshot fail because its store is full.
  @safe @exclusivity(unchecked) private(set) var isOverflowed = false
  private let complete: ExceptionTable
  /// Slots of pending runs by chunk.
  private let pendingChunks = ExceptionTable()
  @safe @exclusivity(unchecked) private var runs: [PendingRun?] = []
  private var freeSlots: [UInt64] = []
  /// Reads of the origin that are under way.
  let reads = DeferredSet()
  /// Writes to the origin that wait until it is on record that this is invalid.
  private var waiting = RequestQueue()
  private var isInvalidating = false
  private var recordWaiters: [() -> Void] = []
  private var idleWaiters: [() -> Void] = []

  /// - Parameter records: what the store has on record.
  init(
    _ origin: OpenDevice, _ store: ExceptionStore, _ mapper: UserspaceDeviceMapper,
    _ records: ExceptionTable = ExceptionTable(), isValid: Bool = true
  ) {
    complete = records
    self.origin = origin
    self.store = store
    chunkBytes = store.chunkBytes
    chunkShift = chunkBytes == 0 ? 0 : UInt64(chunkBytes.trailingZeroBitCount)
    self.isValid = isValid
    loop = mapper.loop
    engine = mapper.copies
  }

  /// Bytes of memory for what is known of chunks.
  var bytes: Int { complete.bytes + pendingChunks.bytes }

  // MARK: - Chunks

  /// The chunk's place on the COW device, if it has one.
  @inline(__always) func find(_ chunk: UInt64) -> UInt64? { complete.find(chunk) }

  /// Whether any chunk is pending.
  var hasPending: Bool { pendingChunks.count > 0 }

  /// The pending run that the chunk is in.
  func pending(_ chunk: UInt64) -> PendingRun? {
    guard hasPending, let slot = pendingChunks.find(chunk) else { return nil }
    return runs[Int(slot)]
  }

  func run(_ slot: UInt64) -> PendingRun? { runs[Int(slot)] }

  func remove(_ chunk: UInt64) { complete.remove(chunk) }

  /// Gives places to some of `count` chunks, from `chunk` on, none of which has one. Nil if there is no
  /// space.
  func begin(_ chunk: UInt64, _ count: UInt64, isWhole: Bool) -> PendingRun? {
    guard let new = store.allocate(count) else { return nil }
    let slot = freeSlots.popLast() ?? UInt64(runs.count)
    let run = PendingRun(self, oldFirst: chunk, new: new, slot: slot, isWhole: isWhole)
    if slot == UInt64(runs.count) { runs.append(run) } else { runs[Int(slot)] = run }
    for chunk in run.chunks { pendingChunks.set(chunk, slot) }
    store.begin(run)
    return run
  }

  func copy(_ run: PendingRun) { engine.begin(run) }

  /// The store has a run on record, or cannot have it.
  func committed(_ run: PendingRun, _ isGood: Bool) {
    if !isGood { invalidate("Error reading/writing") }
    guard isValid else { return end(run) }
    for index in 0..<run.count { complete.set(run.oldFirst + index, run.newFirst + index) }
    // Nothing is written to the origin's chunks while a read of the snapshot still goes there.
    reads.afterAll { self.end(run) }
  }

  private func end(_ run: PendingRun) {
    for chunk in run.chunks { pendingChunks.remove(chunk) }
    runs[Int(run.slot)] = nil
    freeSlots.append(run.slot)
    run.release(isValid)
    becomeIdle()
  }

  // MARK: - Validity

  /// No place could be given to a chunk that the snapshot, or its origin, writes to.
  func noSpace(forOwnWrite isOwn: Bool) {
    if isOwn && driver?.reportsOverflow == true {
      if isValid && !isOverflowed {
        isOverflowed = true
        driver?.log("Snapshot overflowed: Unable to allocate exception.")
      }
    } else {
      invalidate("Unable to allocate exception")
    }
  }

  /// Makes it invalid for good: on the COW device too.
  func invalidate(_ reason: String) {
    guard isValid else { return }
    driver?.log("Invalidating snapshot: \(reason).")
    isValid = false
    isInvalidating = true
    store.invalidate {
      self.isInvalidating = false
      var parts = self.waiting.takeAll()
      while let part = unsafe parts.takeFirst() { unsafe TargetDriver.mapAgain(part) }
      let waiters = self.recordWaiters
      self.recordWaiters = []
      for body in waiters { body() }
      self.becomeIdle()
    }
    driver?.device.raiseEvent()
  }

  /// It has been, or cannot be, handed over to another table.
  func giveUp() { isValid = false }

  /// Has a write to the origin wait while it is not yet on record that this is invalid: after a power cut
  /// it would pass for valid, with what that write did.
  func holds(_ part: RequestPointer) -> Bool {
    guard isInvalidating else { return false }
    unsafe waiting.append(part)
    return true
  }

  // MARK: - Idle

  private var isIdle: Bool { !hasPending && !isInvalidating && store.isIdle }

  private func becomeIdle() {
    guard !idleWaiters.isEmpty, isIdle else { return }
    let waiters = idleWaiters
    idleWaiters = []
    for body in waiters { body() }
  }

  /// Returns when nothing is under way. The caller may have to wait.
  func waitUntilIdle() {
    while !isIdle { loop.pause { idleWaiters.append($0) } }
  }

  /// Returns when it is on record that this is invalid, if it is. The caller may have to wait.
  func waitUntilRecorded() {
    while isInvalidating { loop.pause { recordWaiters.append($0) } }
  }

  var status: SnapshotStatus {
    if !isValid { return .invalid }
    if isOverflowed { return .overflow }
    return .working(
      sectors: BlockUsage(
        used: store.allocatedSectors, total: store.cow.direct.byteCount / 512),
      metadataSectors: store.metadataSectors)
  }
}
