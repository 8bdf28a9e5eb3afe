import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

// What becomes of a pool when something fails or runs out.
extension ThinPool {
  /// Goes to a mode, as far as that is allowed.
  func setMode(_ wanted: PoolMode) {
    var new = wanted
    if new == .write && needsCheck { new = mode == .write ? .readOnly : mode }
    if new == .write && mapper.isReadOnly { new = .readOnly }
    if mode == .fail { new = .fail }
    let old = mode
    mode = new
    switch new {
    case .fail, .readOnly, .outOfMetadataSpace:
      failHeld()
      tellDiscards()
    case .outOfDataSpace:
      isOutOfDataSpace = true
      armNoSpaceTimer()
    case .write:
      if old == .outOfDataSpace, let noSpaceTimer { loop.cancel(noSpaceTimer) }
      isOutOfDataSpace = false
      failsWithoutSpace = features.contains(.errorIfNoSpace)
    }
    if old != new {
      mapper.log("\(device.name): switching pool to \(new.text) mode")
      device.raiseEvent()
    }
  }

  func armNoSpaceTimer() {
    let seconds = pools.noSpaceTimeoutSeconds
    guard !failsWithoutSpace, seconds > 0, let noSpaceTimer else { return }
    // More than a century is for ever.
    loop.set(noSpaceTimer, after: min(seconds, 1 << 32) * 1_000_000_000)
  }

  /// Writes have waited for space long enough.
  func noSpaceTimeout() {
    guard mode == .outOfDataSpace, !failsWithoutSpace else { return }
    failsWithoutSpace = true
    mapper.log("\(device.name): switching pool to out-of-data-space (error IO) mode")
    device.raiseEvent()
    failHeld()
  }

  /// Ends what waits for space.
  private func failHeld() {
    let code = isOutOfDataSpace ? ENOSPC : EIO
    for driver in drivers {
      var held = driver.held.takeAll()
      while let part = held.takeFirst() { loop.finishLater(part, code) }
    }
  }

  /// A write needs a block, and there is none.
  func waitForSpace(_ part: RequestPointer, _ driver: ThinDriver) {
    if failsWithoutSpace {
      loop.finishLater(part, ENOSPC)
    } else {
      driver.held.append(part)
    }
  }

  // MARK: - Failures

  /// An operation on the metadata failed: what was changed since the last commit is lost, and nothing
  /// is changed any more.
  func operationFailed(_ what: String, _ error: PoolError) {
    guard metadataLock.isMine else { return change { self.operationFailed(what, error) } }
    mapper.log("\(device.name): metadata operation '\(what)' failed: \(error)")
    abort()
    setMode(.readOnly)
    mapper.log(
      "\(device.name): what was not flushed is lost, and nothing is written any more; take the pool "
        + "down, then run: thin_check --auto-repair \(metadataOpened.text)")
  }

  /// Looks whether the files of the pool are still there, and as large as they were. Where they are not,
  /// nothing that is written stays: the pool becomes read-only, and all flushes fail.
  func filesAreThere() -> Bool {
    guard !mapper.isReadOnly, mode != .fail else { return true }
    if hasLostFile { return false }
    do throws(BlockIOError) {
      try metadataOpened.destination.requirePresence(byteCount: metadata.metadataBlockCount * 4096)
      try dataOpened.destination.requirePresence(byteCount: metadata.dataBlockCount &* blockBytes)
      return true
    } catch {
      hasLostFile = true
      // What is left of the metadata is not touched any more.
      operationFailed("commit", .io(error))
      return false
    }
  }

  /// A write to the data device has ended: whether there is room where its file lies.
  func noteWrite(_ code: Int32) {
    if isNoRoom(code), !isHostFull {
      isHostFull = true
      mapper.log(
        "\(device.name): there is no room for \(dataOpened.text) where it lies "
          + "(\(String(cString: strerror(code)))): writes that need some fail; make room there")
    } else if code == 0, isHostFull {
      isHostFull = false
      mapper.log("\(device.name): there is room for \(dataOpened.text) again")
    }
  }

  private func abort() {
    guard mode < .readOnly else { return }
    for thin in thins.values {
      if metadata.hasChanged(ThinID(thin.id)) { thin.isAborted = true }
      thin.cache.forgetAll()
    }
    isDirty = false
    isCommitDue = false
    if let commitTimer { loop.cancel(commitTimer) }
    needsCheck = true
    isNeedsCheckWritten = false
    do throws(PoolError) {
      try metadata.abort()
    } catch {
      mapper.log("\(device.name): failed to abort metadata transaction: \(error)")
      setMode(.fail)
      return
    }
    writeNeedsCheck()
  }

  /// Has the metadata say that it needs a check, if it does not yet. What stands in the way of that
  /// may go away: it is tried again when the pool is closed.
  func writeNeedsCheck() {
    guard needsCheck, !isNeedsCheckWritten, mode != .fail, !mapper.isReadOnly, !hasLostFile
    else { return }
    do throws(PoolError) {
      try metadata.setNeedsCheck()
      try metadata.commit()
      isNeedsCheckWritten = true
    } catch {
      mapper.log("\(device.name): failed to write the needs-check flag: \(error)")
      // Back to what the disk holds, so that it can still be read.
      do throws(PoolError) { try metadata.abort() } catch { setMode(.fail) }
    }
  }

  // MARK: - Space

  /// What an allocation comes to.
  enum Allocation {
    case block(UInt64)
    case noSpace
    case failed
  }

  /// A data block for a write. Until it is mapped nobody else gets it, and a crash leaves it free.
  func allocate() -> Allocation {
    guard mode == .write else { return .failed }
    checkLowWater(metadata.freeDataBlocks)
    if metadata.freeDataBlocks == 0 {
      // Blocks freed in this transaction can be used after it.
      guard commitNow() else { return .failed }
      guard metadata.freeDataBlocks > 0 else {
        setMode(.outOfDataSpace)
        return .noSpace
      }
    }
    let block: UInt64
    do throws(PoolError) {
      block = try metadata.reserveDataBlock().rawValue
    } catch .dataFull {
      setMode(.outOfDataSpace)
      return .noSpace
    } catch {
      operationFailed("allocate", error)
      return .failed
    }
    changed()
    if freeMetadata == 0 && !commitNow() {
      restore(block..<(block + 1))
      return .failed
    }
    return .block(block)
  }

  /// Data blocks that were reserved or withheld are free again, if nothing refers to them.
  func restore(_ blocks: Range<UInt64>) {
    metadata.restoreData(Range(blocks))
    // Whoever waits for space is told by a commit.
    if mode == .outOfDataSpace { changed() }
  }

  private func checkLowWater(_ free: UInt64) {
    guard free <= lowWaterBlocks, !isLowWaterSignalled else { return }
    isLowWaterSignalled = true
    mapper.log("\(device.name): reached low water mark for data device: sending event.")
    device.raiseEvent()
  }

  /// Free metadata blocks without the reserve.
  var freeMetadata: UInt64 {
    let free = metadata.freeMetadataBlocks
    return free - min(free, metadataReserve)
  }

  /// Free metadata blocks at which an event is raised.
  var metadataLowWater: UInt64 { min(1024, metadataOpened.direct.byteCount / 4096 / 4) }

  /// The metadata was changed.
  func changed() {
    let free = metadata.freeMetadataBlocks
    if free <= metadataLowWater, lastFreeMetadata.map({ $0 > metadataLowWater }) ?? true {
      mapper.log("\(device.name): reached low water mark for metadata device: sending event.")
      device.raiseEvent()
    }
    lastFreeMetadata = free
    isDirty = true
    let interval = pools.commitIntervalNanoseconds
    if let commitTimer, interval > 0, !commitTimer.isSet, !isCommitDue {
      loop.set(commitTimer, after: interval)
    }
  }

  // MARK: - Commits

  /// Commits at once, and waits for it. False if that failed or is not allowed.
  func commitNow() -> Bool {
    metadataLock.take()
    defer { metadataLock.give() }
    guard filesAreThere(), mode < .outOfMetadataSpace else { return false }
    guard isDirty else { return true }
    do throws(BlockIOError) {
      try dataOpened.flush(requests)
    } catch {
      operationFailed("commit", .io(error))
      return false
    }
    return commitFlushed()
  }

  /// Commits after the data device was flushed.
  func commitFlushed() -> Bool {
    guard mode < .outOfMetadataSpace else { return false }
    guard isDirty else { return true }
    isCommitDue = false
    if let commitTimer { loop.cancel(commitTimer) }
    // What comes up while it is written is for the next one.
    isDirty = false
    do throws(PoolError) {
      try metadata.commit()
    } catch {
      operationFailed("commit", error)
      return false
    }
    tellDiscards()
    lastFreeMetadata = metadata.freeMetadataBlocks
    if freeMetadata == 0 { setMode(.outOfMetadataSpace) }
    if mode == .outOfDataSpace && metadata.freeDataBlocks > 0 {
      setMode(.write)
      isRetryDue = true
      schedule()
    }
    return true
  }

  /// Discards that wait for a commit go on.
  private func tellDiscards() {
    let jobs = discardsAfterCommit
    discardsAfterCommit = []
    for job in jobs { job.committed() }
  }

  /// Has the data device flushed, and then commits for all who wait.
  func beginCommit() {
    isCommitDue = false
    guard !flushWaiters.isEmpty || isDirty else { return }
    committing = flushWaiters.takeAll()
    guard filesAreThere(), mode < .outOfMetadataSpace else { return answerFlushes(EIO) }
    isCommitting = true
    keptForFlush = self
    data.submit(requests.take(.flush, offset: 0, byteCount: 0, owner: self))
  }

  /// `code` is 0 after a commit. Durable writes to blocks that were there already go out only now.
  func answerFlushes(_ code: Int32) {
    var waiting = committing.takeAll()
    while let part = waiting.takeFirst() {
      let isToBeWritten =
        part.pointee.operation == .write && !part.pointee.thin.isWritten
      if code == 0 && isToBeWritten {
        data.submit(part)
      } else {
        loop.finishLater(part, code)
      }
    }
  }
}
