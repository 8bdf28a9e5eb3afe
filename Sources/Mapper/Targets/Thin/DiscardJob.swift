import DataPath
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// Unmaps whole blocks of a thin device, when everything that was under way has ended. With passdown
/// the data blocks that no other device has are discarded too, and no write gets them before that is done.
/// They are withheld in memory alone, so that commits have them as free and a crash leaves no leaks.
///
/// Blocks that were shared are discarded after the next commit only: until then another device that
/// has just given such a block up gets it back if the power fails, and wants what was in it.
///
/// Works through some blocks at a time, and no more in a pass of the loop than the pool's discards may all
/// together, so that others have their turn. What is done is counted in units of about a microsecond: by
/// the clock the same load would not do the same twice.
@safe final class DiscardJob: RequestOwner {
  /// What it takes to look for a run of blocks, to unmap one, and how many waiting requests take a unit to
  /// be looked at again, or blocks that are merely unmapped.
  private static let units = (look: 2, unmap: 8, each: 4)
  private static let blocksPerStep: UInt64 = 4096
  /// The same where nothing is passed down, and blocks need not be found first.
  private static let blocksPerRemoval: UInt64 = 1024
  private let pool: ThinPool
  private let thin: OpenThin
  private let part: RequestPointer
  private let cell: Cell
  private var next: UInt64
  private var pending = 0
  /// Data blocks that no write gets.
  private var withheld: [Range<UInt64>] = []
  /// Those of them that are to be discarded after a commit.
  private var uncommitted: [Range<UInt64>] = []
  private var waitsForCommit = false
  /// During a step, which may wait for metadata: it goes on by itself.
  private var isStepping = false
  private let isZeroing: Bool
  private var failure: Int32 = 0
  private let passesDown: Bool

  init(_ driver: ThinDriver, _ part: RequestPointer, _ cell: Cell) {
    pool = driver.pool
    thin = driver.thin
    // What is zeroed reads as zeros or as before if the power fails, what is discarded as anything.
    isZeroing = unsafe part.pointee.thin.isZeroing
    passesDown = pool.passesDiscardsDown && (!isZeroing || pool.data.discardsToZeroes)
    unsafe part.pointee.thin = ThinPartState()
    unsafe self.part = part
    self.cell = cell
    next = cell.blocks.lowerBound
    super.init()
  }

  func begin() {
    pool.allIO.afterAll {
      self.pool.discards.goOn(self)
    }
  }

  /// Called by the worker.
  func step() {
    isStepping = true
    defer { isStepping = false }
    // Where nothing can be changed, discards do nothing.
    guard pool.mode < .outOfMetadataSpace else {
      return end(isZeroing || pool.mode == .fail ? EIO : failure)
    }
    do throws(PoolError) {
      discardCommitted()
      if pending > 0 { return }
      release()
      if !passesDown {
        try removeSome()
      } else {
        try unmapSome()
      }
    } catch {
      pool.operationFailed("discard", error)
      failure = EIO
      uncommitted = []
      // What was passed down by then comes back first.
      return pending > 0 ? () : end(EIO)
    }
    if !uncommitted.isEmpty {
      waitsForCommit = true
      pool.discards.waitForCommit(self)
      pool.committer.ask()
    }
    if pending > 0 || waitsForCommit { return }
    if next >= cell.blocks.upperBound && withheld.isEmpty { return end(failure) }
    pool.discards.goOn(self)
  }

  private func removeSome() throws(PoolError) {
    let stop = min(cell.blocks.upperBound, next + Self.blocksPerRemoval)
    let before = try pool.metadata.details(of: ThinID(thin.id)).mappedBlocks
    try pool.metadata.remove(ThinID(thin.id), Range(next..<stop))
    let removed = before &- (try pool.metadata.details(of: ThinID(thin.id)).mappedBlocks)
    next = stop
    pool.discards.spend(Self.units.unmap + Int(clamping: removed) / Self.units.each)
    pool.changed()
  }

  private func unmapSome() throws(PoolError) {
    let stop = min(cell.blocks.upperBound, next + Self.blocksPerStep)
    guard next < stop else { return }
    repeat {
      pool.discards.spend(Self.units.look)
      guard let run = try find(next..<stop) else {
        next = max(next, stop)
        break
      }
      let count = run.virtualBlocks.upperBound - run.virtualBlocks.lowerBound
      let blocks = run.dataBlock..<(run.dataBlock + count)
      try pool.metadata.remove(ThinID(thin.id), Range(run.virtualBlocks))
      pool.discards.spend(Self.units.unmap + Int(clamping: count) / Self.units.each)
      pool.changed()
      next = run.virtualBlocks.upperBound
      try passDown(blocks, mayBeShared: run.isShared)
      pool.lookups.retry()
    } while next < stop && pool.discards.mayDoMore
  }

  /// What cannot be read is left as it is, as the kernel does it: no client relies on a discard. Zeros
  /// are another matter.
  private func find(_ range: Range<UInt64>) throws(PoolError) -> (
    virtualBlocks: Range<UInt64>, dataBlock: UInt64, isShared: Bool
  )? {
    do throws(PoolError) {
      guard let run = try pool.metadata.nextRun(ThinID(thin.id), Range(range)) else { return nil }
      return (run.virtualBlocks.rawValues, run.dataBlock.rawValue, run.isShared)
    } catch {
      // What could not be written is another matter.
      if pool.metadata.hasFailed { throw error }
      next = cell.blocks.upperBound
      if isZeroing { failure = EIO }
      return nil
    }
  }

  private func discardCommitted() {
    let ranges = uncommitted
    uncommitted = []
    for blocks in ranges { discard(blocks) }
  }

  /// There was a commit, or there will not be one.
  func committed() {
    waitsForCommit = false
    goOn()
  }

  private func goOn() {
    guard pending == 0, !waitsForCommit, !isStepping else { return }
    pool.discards.goOn(self)
  }

  /// Withholds and discards `blocks`; if they may have been shared, those of them that no device has any
  /// more, and after a commit. The others can have a reference by a metadata snapshot, which needs no
  /// data: then they are discarded too.
  private func passDown(_ blocks: Range<UInt64>, mayBeShared: Bool) throws(PoolError) {
    var at = blocks.lowerBound
    while at < blocks.upperBound {
      guard try isUnused(at, mayBeShared) else {
        at += 1
        continue
      }
      var end = at + 1
      while end < blocks.upperBound, try isUnused(end, mayBeShared) { end += 1 }
      if end <= pool.dataBlockLimit {
        try pool.metadata.withholdData(Range(at..<end))
        withheld.append(at..<end)
        if mayBeShared { uncommitted.append(at..<end) } else { discard(at..<end) }
      }
      at = end
    }
  }

  private func discard(_ blocks: Range<UInt64>) {
    pending += 1
    unsafe pool.data.submit(
      pool.requests.take(
        .discard, offset: blocks.lowerBound * pool.blockBytes,
        byteCount: Int(clamping: (blocks.upperBound - blocks.lowerBound) * pool.blockBytes),
        owner: self))
  }

  private func isUnused(_ block: UInt64, _ mayBeShared: Bool) throws(PoolError) -> Bool {
    if !mayBeShared { return true }
    return try pool.metadata.dataCount(DataBlock(block)) == 0
  }

  /// A discard that was passed down has ended; whether it did anything does not matter.
  override func requestDone(_ request: RequestPointer) {
    unsafe pool.requests.give(request)
    pending -= 1
    goOn()
  }

  /// Has others get the blocks again.
  private func release() {
    for blocks in withheld { pool.restore(blocks) }
    withheld = []
  }

  private func end(_ code: Int32) {
    release()
    if unsafe code == 0 && part.pointee.flags.contains(.durable) && pool.mode < .outOfMetadataSpace
    {
      unsafe part.pointee.thin = ThinPartState(isWritten: true)
      unsafe pool.committer.wait(part)
    } else {
      unsafe pool.loop.finishLater(part, code)
    }
    // Very many requests may have waited.
    pool.discards.spend(pool.unlock(cell) / Self.units.each)
  }
}
