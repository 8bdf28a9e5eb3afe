import DataPath
import Glibc
import PersistentData
import ThinMetadata

/// Unmaps whole blocks of a thin device, when everything that was under way has ended. With passdown
/// the data blocks that nobody else has are discarded too, held meanwhile so that nobody gets them.
///
/// Blocks that were shared are discarded after the next commit only: until then another device that
/// has just given such a block up gets it back if the power fails, and wants what was in it.
///
/// Works through a few thousand blocks at a time, so that others have their turn.
final class DiscardJob: RequestOwner {
  private static let blocksPerStep: UInt64 = 4096
  private let pool: ThinPool
  private let thin: OpenThin
  private let part: RequestPointer
  private let cell: Cell
  private var next: UInt64
  private var pending = 0
  /// Data blocks with a reference of ours.
  private var held: [Range<UInt64>] = []
  /// Those of them that are to be discarded after a commit.
  private var uncommitted: [Range<UInt64>] = []
  private var waitsForCommit = false
  private let isZeroing: Bool
  private var failure: Int32 = 0
  private let passesDown: Bool

  init(_ driver: ThinDriver, _ part: RequestPointer, _ cell: Cell) {
    pool = driver.pool
    thin = driver.thin
    // What is zeroed reads as zeros or as before if the power fails, what is discarded as anything.
    isZeroing = part.pointee.context == ThinDriver.isZeroing
    passesDown = pool.passesDiscardsDown && (!isZeroing || pool.data.discardsToZeroes)
    part.pointee.context = 0
    self.part = part
    self.cell = cell
    next = cell.blocks.lowerBound
    super.init()
  }

  func begin() {
    pool.allIO.afterAll {
      self.pool.discards.append(self)
      self.pool.schedule()
    }
  }

  /// Called by the worker.
  func step() {
    // Where nothing can be changed, discards do nothing.
    guard pool.mode < .outOfMetadataSpace else {
      return end(isZeroing || pool.mode == .fail ? EIO : 0)
    }
    do throws(PoolError) {
      discardCommitted()
      if pending > 0 { return }
      try release()
      if !passesDown {
        try pool.metadata.remove(thin.id, cell.blocks)
        next = cell.blocks.upperBound
        pool.changed()
      } else {
        try unmapSome()
      }
    } catch {
      pool.operationFailed("discard", error)
      return end(EIO)
    }
    if !uncommitted.isEmpty {
      waitsForCommit = true
      pool.discardsAfterCommit.append(self)
      pool.isCommitDue = true
      pool.schedule()
    }
    if pending > 0 || waitsForCommit { return }
    if next >= cell.blocks.upperBound && held.isEmpty { return end(failure) }
    pool.discards.append(self)
    pool.schedule()
  }

  private func unmapSome() throws(PoolError) {
    let stop = min(cell.blocks.upperBound, next + Self.blocksPerStep)
    while next < stop {
      guard let run = try find(next..<stop) else {
        next = max(next, stop)
        break
      }
      let count = run.virtualBlocks.upperBound - run.virtualBlocks.lowerBound
      let blocks = run.dataBlock..<(run.dataBlock + count)
      try pool.metadata.incrementData(blocks)
      try pool.metadata.remove(thin.id, run.virtualBlocks)
      pool.changed()
      held.append(blocks)
      next = run.virtualBlocks.upperBound
      try passDown(blocks, mayBeShared: run.isShared)
    }
  }

  /// What cannot be read is left as it is, as the kernel does it: nobody relies on a discard. Zeros
  /// are another matter.
  private func find(_ range: Range<UInt64>) throws(PoolError) -> (
    virtualBlocks: Range<UInt64>, dataBlock: UInt64, isShared: Bool
  )? {
    do throws(PoolError) {
      return try pool.metadata.nextRun(thin.id, range)
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
    guard pending == 0, !waitsForCommit else { return }
    pool.discards.append(self)
    pool.schedule()
  }

  /// Discards `blocks`; if they may have been shared, those of them that have no reference but ours,
  /// and after a commit. The others can have one by a metadata snapshot, which needs no data: then they
  /// are discarded too.
  private func passDown(_ blocks: Range<UInt64>, mayBeShared: Bool) throws(PoolError) {
    var at = blocks.lowerBound
    while at < blocks.upperBound {
      guard try isOurs(at, mayBeShared) else {
        at += 1
        continue
      }
      var end = at + 1
      while end < blocks.upperBound, try isOurs(end, mayBeShared) { end += 1 }
      if end <= pool.dataBlockLimit {
        if mayBeShared { uncommitted.append(at..<end) } else { discard(at..<end) }
      }
      at = end
    }
  }

  private func discard(_ blocks: Range<UInt64>) {
    pending += 1
    pool.data.submit(
      pool.requests.take(
        .discard, offset: blocks.lowerBound * pool.blockBytes,
        byteCount: Int(clamping: (blocks.upperBound - blocks.lowerBound) * pool.blockBytes),
        owner: self))
  }

  private func isOurs(_ block: UInt64, _ mayBeShared: Bool) throws(PoolError) -> Bool {
    if !mayBeShared { return true }
    return try pool.metadata.dataCount(block) == 1
  }

  /// A discard that was passed down has ended; whether it did anything does not matter.
  override func requestDone(_ request: RequestPointer) {
    pool.requests.give(request)
    pending -= 1
    goOn()
  }

  /// Gives up the references.
  private func release() throws(PoolError) {
    for blocks in held { try pool.metadata.decrementData(blocks) }
    if !held.isEmpty { pool.changed() }
    held = []
  }

  private func end(_ code: Int32) {
    if code == 0 && part.pointee.flags.contains(.durable) && pool.mode < .outOfMetadataSpace {
      part.pointee.context = ThinDriver.isWritten
      pool.flushWaiters.append(part)
      pool.schedule()
    } else {
      pool.loop.finishLater(part, code)
    }
    pool.unlock(cell)
  }
}
