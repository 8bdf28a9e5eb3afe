public import BlockIO
import DataPath
import DeviceMapper
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// The metadata of a pool, for whoever judges it before it is written to for the first time, or keeps a
/// note of it when it has been closed.
public struct PoolMetadataAccess {
  /// The pool's name.
  public let name: String
  /// The device or file, as it was named.
  public let path: String
  /// Its blocks; to be read on the loop's thread.
  public let device: any BlockDevice
  /// A descriptor of it, to be read from by any thread; nil where it is made of several.
  public let descriptor: Int32?
}

extension ThinPool {
  /// Opens metadata, or formats it.
  /// - Returns: also whether it is known to be sound: it was made here.
  static func open(_ opened: OpenDevice, _ target: ThinPoolTarget, _ mapper: UserspaceDeviceMapper)
    throws(TargetError) -> (PoolMetadata, isVetted: Bool)
  {
    let device = MetadataDevice(opened)
    let sectors = UInt32(truncatingIfNeeded: target.blockSectors)
    let cacheBlocks = mapper.metadataCacheBlocks
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
    PoolMetadataAccess(
      name: device.name, path: metadataOpened.text, device: MetadataDevice(metadataOpened),
      descriptor: metadataOpened.destination.openDescriptor)
  }

  /// Whether its last commit is all there is to it, of metadata that was found sound and of which nothing
  /// has failed.
  var isClosedCleanly: Bool {
    isVetted && !isDirty && !needsCheck && !hasLostFile && mode != .fail && mode != .readOnly
      && !metadata.hasFailed
  }
}
