import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

// What becomes of a pool when something fails.
extension ThinPool {
  var mode: PoolMode { modes.current }

  /// Goes to a mode, as far as that is allowed.
  func setMode(_ wanted: PoolMode) {
    let old = modes.enter(wanted, isReadOnly: mapper.isReadOnly)
    let new = mode
    switch new {
    case .fail, .readOnly, .outOfMetadataSpace:
      thins.fail(space.failureCode)
      discards.committed()
    case .outOfDataSpace: space.runOut(timeout: pools.noSpaceTimeoutSeconds)
    case .write:
      space.refill(
        wasOut: old == .outOfDataSpace, failsWrites: features.contains(.errorIfNoSpace))
    }
    if old != new {
      mapper.log("\(device.name): switching pool to \(new.text) mode")
      device.raiseEvent()
    }
  }

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
    if modes.hasLostFile { return false }
    do throws(BlockIOError) {
      try metadataOpened.destination.requirePresence(byteCount: metadata.metadataBlockCount * 4096)
      try dataOpened.destination.requirePresence(byteCount: metadata.dataBlockCount &* blockBytes)
      return true
    } catch {
      modes.noteLostFile()
      // What is left of the metadata is not touched any more.
      operationFailed("commit", .io(error))
      return false
    }
  }

  private func abort() {
    guard mode < .readOnly else { return }
    thins.abort { metadata.hasChanged(ThinID($0)) }
    committer.forgetChanges()
    modes.requireCheck()
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
    guard modes.owesNeedsCheck, !mapper.isReadOnly else { return }
    do throws(PoolError) {
      try metadata.setNeedsCheck()
      try metadata.commit()
      modes.needsCheckWritten()
    } catch {
      mapper.log("\(device.name): failed to write the needs-check flag: \(error)")
      // Back to what the disk holds, so that it can still be read.
      do throws(PoolError) { try metadata.abort() } catch { setMode(.fail) }
    }
  }
}
