import BlockIO
import DataPath
import EventLoop
import Glibc
import PersistentData
import ThinMetadata

// How changes come to the disk: data first, then the metadata; then the requests that waited are answered.
extension ThinPool {
  /// The metadata was changed.
  func changed() {
    let free = metadata.freeMetadataBlocks
    if metadataSpace.reachesLowWater(free) {
      mapper.log("\(device.name): reached low water mark for metadata device: sending event.")
      device.raiseEvent()
    }
    committer.noteChange(pools.commitIntervalNanoseconds)
  }

  /// Commits at once, and waits for it. False if that failed or is not allowed.
  func commitNow() -> Bool {
    metadataLock.take()
    defer { metadataLock.give() }
    guard filesAreThere(), mode < .outOfMetadataSpace else { return false }
    guard committer.isDirty else { return true }
    do throws(BlockIOError) {
      try dataOpened.flush(requests)
    } catch {
      operationFailed("commit", .io(error))
      return false
    }
    return commitFlushed()
  }

  /// Has the data device flushed, and then commits for all who wait.
  func beginCommit() {
    guard committer.gather() else { return }
    guard filesAreThere(), mode < .outOfMetadataSpace else { return answerFlushes(EIO) }
    committer.flushData(of: self)
  }

  /// The data device was flushed for a commit. Called with the metadata's lock.
  func dataFlushed(_ code: Int32) {
    // It was closed meanwhile, and has committed.
    guard isInUse else { return }
    if code != 0, committer.isDirty {
      operationFailed("commit", .io(BlockIOError(.flush, path: dataOpened.text, code: code)))
    }
    answerFlushes(code == 0 && commitFlushed() ? 0 : EIO)
    worker.schedule()
  }

  /// Commits after the data device was flushed.
  private func commitFlushed() -> Bool {
    guard mode < .outOfMetadataSpace else { return false }
    guard committer.isDirty else { return true }
    // What comes up while it is written is for the next one.
    committer.forgetChanges()
    do throws(PoolError) {
      try metadata.commit()
    } catch {
      operationFailed("commit", error)
      return false
    }
    discards.committed()
    metadataSpace.noteCommit(metadata.freeMetadataBlocks)
    if freeMetadata == 0 { setMode(.outOfMetadataSpace) }
    if mode == .outOfDataSpace && metadata.freeDataBlocks > 0 {
      setMode(.write)
      thins.retryLater()
    }
    return true
  }

  /// `code` is 0 after a commit. Durable writes to blocks that were there already go out only now.
  private func answerFlushes(_ code: Int32) {
    var waiting = committer.takeCommitted()
    while let part = unsafe waiting.takeFirst() {
      let isToBeWritten =
        unsafe part.pointee.operation == .write && !part.pointee.thin.isWritten
      if code == 0 && isToBeWritten {
        unsafe data.submit(part)
      } else {
        unsafe loop.finishLater(part, code)
      }
    }
  }
}
