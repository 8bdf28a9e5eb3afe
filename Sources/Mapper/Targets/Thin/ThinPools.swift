public import BlockIO
public import DataPath
import DeviceMapper

/// The pools of a device-mapper, and what holds for all of them.
final class ThinPools: MapperKept {
  /// Pools, by the number of their metadata device.
  var byMetadata: [DeviceNumber: ThinPool] = [:]
  var noSpaceTimeoutSeconds: UInt64 = 60
  var commitIntervalNanoseconds: UInt64 = 1_000_000_000
  var metadataCacheBlocks = 8192
  var judgeMetadata: UserspaceDeviceMapper.MetadataJudge?
  var poolClosed: ((PoolMetadataAccess) -> Void)?
  /// What all pools have for blocks that are made ready, and what thin devices have for what is known of
  /// their mappings. Each pool has one buffer at least, and each open thin device 1 KiB.
  let blockMemory = MemoryBudget(16 << 20)
  let mappingMemory = MemoryBudget(16 << 20)

  var bytes: Int {
    byMetadata.values.reduce(blockMemory.used + mappingMemory.used) { $0 + $1.requests.bytes }
  }

  func returnMemory() { for pool in byMetadata.values { pool.returnMemory() } }
}

extension UserspaceDeviceMapper {
  /// Judges metadata, and calls `verdict` with what it comes to, from the loop or at once.
  public typealias MetadataJudge =
    (PoolMetadataAccess, _ verdict: @escaping (MetadataVerdict) -> Void) -> Void

  var thinPools: ThinPools { keeping(ThinPools.self) }

  /// How long a full pool lets writes wait; 0: for ever. Seconds.
  public var noSpaceTimeoutSeconds: UInt64 {
    get { thinPools.noSpaceTimeoutSeconds }
    set { thinPools.noSpaceTimeoutSeconds = newValue }
  }
  /// How long changes stay uncommitted while no client asks for it; 0: for ever. Nanoseconds.
  public var commitIntervalNanoseconds: UInt64 {
    get { thinPools.commitIntervalNanoseconds }
    set { thinPools.commitIntervalNanoseconds = newValue }
  }
  /// Blocks of 4 KiB of metadata that a pool keeps in memory.
  public var metadataCacheBlocks: Int {
    get { thinPools.metadataCacheBlocks }
    set { thinPools.metadataCacheBlocks = newValue }
  }
  /// Judges the metadata of a pool before it is written to for the first time. Without it all metadata is
  /// taken as it is.
  public var judgeMetadata: MetadataJudge? {
    get { thinPools.judgeMetadata }
    set { thinPools.judgeMetadata = newValue }
  }
  /// Called with the metadata of a pool that has ended well, while no other program can have it yet.
  public var poolClosed: ((PoolMetadataAccess) -> Void)? {
    get { thinPools.poolClosed }
    set { thinPools.poolClosed = newValue }
  }
}

/// The metadata of a pool, for code that judges it before it is written to for the first time, or keeps a
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
  /// Descriptors of all of its bytes, in order; nil where some have none.
  public let pieces: [DescriptorPiece]?
}

/// What is known of metadata before it is written to.
public enum MetadataVerdict: Sendable {
  /// It is sound.
  case sound
  /// It was not looked at, as was asked for.
  case unknown
  /// It is not to be written to; lines for people.
  case refused([String])
}

// What a pool's devices may not be.
extension ThinPools {
  /// Refuses what would have two of a pool's roles on the same bytes: the kernel does not look, and one
  /// overwrites the other.
  func requireOwn(_ metadata: OpenDevice, _ data: OpenDevice, of device: MappedDevice)
    throws(TargetError)
  {
    func refusal(_ text: String) -> TargetError {
      TargetError("Error opening data device", explanation: [text])
    }
    if metadata.overlaps(data) {
      throw refusal("metadata and data of a pool cannot be on the same bytes: \(metadata.text)")
    }
    for pool in byMetadata.values where pool.device !== device {
      for theirs in [pool.metadataOpened, pool.dataOpened] {
        for mine in [metadata, data] where mine.overlaps(theirs) {
          // The kernel has words of its own for metadata that another pool has.
          if mine === metadata && theirs === metadata { continue }
          throw refusal(
            "\(mine.text) is, or is part of, \(theirs.text) of pool \(pool.device.name)")
        }
      }
    }
    let footings = [metadata, data].map { ($0, $0.footings()) }
    for other in device.mapper.devices.values where other !== device {
      for table in other.tables where !table.isReadOnly {
        for driver in table.drivers {
          for (mine, place) in footings
          where driver.footings.overlap(place) && !mine.stands(on: other) {
            throw refusal(Self.sharing(other, mine, of: device))
          }
        }
      }
    }
  }

  private static func sharing(_ other: MappedDevice, _ theirs: OpenDevice, of pool: MappedDevice)
    -> String
  {
    "\(other.name) would be written through to \(theirs.text) of pool \(pool.name), beside the pool: make "
      + "\(other.name) read-only, or give it a range that the pool does not have"
  }

  /// Refuses a table by which what a pool holds could be written past the pool. What the pool itself
  /// stands on is no such device.
  func judge(_ drivers: [TargetDriver], of device: MappedDevice) throws(TargetError) {
    for driver in drivers where !byMetadata.isEmpty {
      let footings = driver.footings
      if footings.isEmpty { continue }
      for pool in byMetadata.values {
        for theirs in [pool.metadataOpened, pool.dataOpened]
        where footings.overlap(theirs.footings()) && !theirs.stands(on: device) {
          throw TargetError(
            "Device lookup failed", explanation: [Self.sharing(device, theirs, of: pool.device)])
        }
      }
    }
  }

  /// Refuses an external origin that is the metadata or data of a pool: it would show what other volumes
  /// hold.
  func requireForeign(_ origin: OpenDevice) throws(TargetError) {
    for pool in byMetadata.values {
      for theirs in [pool.metadataOpened, pool.dataOpened] where origin.overlaps(theirs) {
        throw TargetError(
          "Error opening origin device",
          explanation: [
            "\(origin.text) cannot be an external origin: it is, or is part of, \(theirs.text) of pool "
              + "\(pool.device.name), which holds what other volumes have"
          ])
      }
    }
  }
}
