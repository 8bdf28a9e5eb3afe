import DataPath
import Glibc
import PersistentData
import ThinMetadata

/// Unmaps whole blocks of a thin device, when everything that was under way has ended. With passdown
/// the data blocks that nobody else has are discarded too, held meanwhile so that nobody gets them.
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

  init(_ driver: ThinDriver, _ part: RequestPointer, _ cell: Cell) {
    pool = driver.pool
    thin = driver.thin
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
    guard pool.mode < .outOfMetadataSpace else { return end(pool.mode == .fail ? EIO : 0) }
    do throws(PoolError) {
      try release()
      if !pool.passesDiscardsDown {
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
    if pending > 0 { return }
    if next >= cell.blocks.upperBound && held.isEmpty { return end(0) }
    pool.discards.append(self)
    pool.schedule()
  }

  private func unmapSome() throws(PoolError) {
    let stop = min(cell.blocks.upperBound, next + Self.blocksPerStep)
    while next < stop {
      guard let run = try pool.metadata.nextRun(thin.id, next..<stop) else {
        next = stop
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

  /// Discards `blocks`; if they may have been shared, those of them that have no reference but ours. The
  /// others can have one by a metadata snapshot, which needs no data: then they are discarded too.
  private func passDown(_ blocks: Range<UInt64>, mayBeShared: Bool) throws(PoolError) {
    var at = blocks.lowerBound
    while at < blocks.upperBound {
      guard try isToGo(at, mayBeShared) else {
        at += 1
        continue
      }
      var end = at + 1
      while end < blocks.upperBound, try isToGo(end, mayBeShared) { end += 1 }
      if end <= pool.dataBlockLimit {
        pending += 1
        pool.data.submit(
          pool.requests.take(
            .discard, offset: at * pool.blockBytes,
            byteCount: Int((end - at) * pool.blockBytes), owner: self))
      }
      at = end
    }
  }

  private func isToGo(_ block: UInt64, _ mayBeShared: Bool) throws(PoolError) -> Bool {
    if !mayBeShared { return true }
    return try pool.metadata.dataCount(block) == 1
  }

  /// A discard that was passed down has ended; whether it did anything does not matter.
  override func requestDone(_ request: RequestPointer) {
    pool.requests.give(request)
    pending -= 1
    if pending == 0 {
      pool.discards.append(self)
      pool.schedule()
    }
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
