import DataPath
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

// Data blocks for writes, and what happens when they run out.
extension ThinPool {
  /// What an allocation comes to.
  enum Allocation {
    case block(UInt64)
    case noSpace
    case failed
  }

  /// A data block for a write. Until it is mapped no other write gets it, and a crash leaves it free.
  func allocate() -> Allocation {
    guard mode == .write else { return .failed }
    if space.reachesLowWater(metadata.freeDataBlocks) {
      mapper.log("\(device.name): reached low water mark for data device: sending event.")
      device.raiseEvent()
    }
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
    // Writes that wait for space are tried again after a commit.
    if mode == .outOfDataSpace { changed() }
  }

  /// Free metadata blocks without the reserve.
  var freeMetadata: UInt64 { metadataSpace.usable(of: metadata.freeMetadataBlocks) }

  /// The low water mark that a table loaded now would have, in metadata blocks; statuses show it.
  var metadataLowWater: UInt64 { min(1024, metadataOpened.direct.byteCount / 4096 / 4) }

  /// Writes have waited for space long enough.
  func noSpaceTimeout() {
    guard mode == .outOfDataSpace, space.stopWaiting() else { return }
    mapper.log("\(device.name): switching pool to out-of-data-space (error IO) mode")
    device.raiseEvent()
    thins.fail(space.failureCode)
  }

  /// A write to the data device has ended: whether there is room where its file lies.
  func noteWrite(_ code: Int32) {
    switch space.noteWrite(code) {
    case .ranOut:
      mapper.log(
        unsafe "\(device.name): there is no room for \(dataOpened.text) where it lies "
          + "(\(String(cString: strerror(code)))): writes that need some fail; make room there")
    case .hasRoom:
      mapper.log("\(device.name): there is room for \(dataOpened.text) again")
    case nil: break
    }
  }
}
