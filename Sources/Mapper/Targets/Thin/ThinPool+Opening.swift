import BlockIO
import DataPath
import DeviceMapper
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

extension ThinPool {
  /// Looks at a mapping of metadata that was not checked: a data block that is counted as free is
  /// going to be another device's.
  func requireCounted(_ dataBlock: UInt64) throws(PoolError) {
    guard modes.isDoubtful, try metadata.isFreeData(DataBlock(dataBlock)) else { return }
    throw .inconsistent("data block \(dataBlock) is mapped, and counted as free")
  }

  /// A look-up has failed: said of the first few blocks.
  func noteDamage(_ thin: UInt64, _ block: UInt64, _ error: PoolError) {
    let count = modes.noteDamage()
    guard count <= 10 else { return }
    mapper.log("\(device.name): block \(block) of thin device \(thin) cannot be found: \(error)")
    if count == 10 { mapper.log("\(device.name): what else cannot be found is not listed") }
  }

  /// Opens metadata, or formats it.
  /// - Returns: also whether it is known to be sound: it was made here.
  static func open(_ opened: OpenDevice, _ target: ThinPoolTarget, _ mapper: UserspaceDeviceMapper)
    throws(TargetError) -> (PoolMetadata, isVetted: Bool)
  {
    let device = MetadataDevice(opened)
    let sectors = UInt32(truncatingIfNeeded: target.blockSectors)
    let cacheBlocks = mapper.thinPools.metadataCacheBlocks
    func refusal(_ code: Int32, _ explanation: [String]) -> TargetError {
      TargetError("Error creating metadata object", code: code, explanation: explanation)
    }
    do throws(PoolError) {
      if try PoolMetadata.isUnformatted(device) {
        if !mapper.isReadOnly && !target.features.contains(.readOnly) {
          let made = try PoolMetadata.format(
            device, dataBlockSectors: sectors, cacheBlocksMax: cacheBlocks)
          return (made, true)
        }
      } else {
        let metadata =
          mapper.isReadOnly
          ? try PoolMetadata.openForReading(device, cacheBlocksMax: cacheBlocks)
          : try PoolMetadata.open(device, cacheBlocksMax: cacheBlocks)
        let found = metadata.superblock.dataBlockSectors
        if found == sectors { return (metadata, false) }
        throw .invalid("it has data blocks of \(found) sectors, and the table says \(sectors)")
      }
    } catch {
      throw refusal(error.systemCode, error.explanation(opened.text))
    }
    throw refusal(
      EPERM, ["\(opened.text) holds no metadata, and a pool that is read-only is not formatted"])
  }

  /// What others may look at.
  var access: PoolMetadataAccess {
    let destination = metadataOpened.destination
    return PoolMetadataAccess(
      name: device.name, path: metadataOpened.text, device: MetadataDevice(metadataOpened),
      descriptor: destination.openDescriptor,
      pieces: destination.pieces(of: 0..<destination.byteCount))
  }

  /// Whether its last commit is all there is to it, of metadata that was found sound and of which nothing
  /// has failed.
  var isClosedCleanly: Bool {
    modes.isSound && !committer.isDirty && !metadata.hasFailed
  }
}
