import ThinFormat
public import ThinTools

/// The sizes chosen for a new pool, and the reasons.
public struct PoolGeometry: Equatable, Sendable {
  /// Sectors in a data block.
  public var blockSectors: UInt32
  /// Whole data blocks of the data device.
  public var dataBlocks: UInt64
  /// Number of free data blocks at which the pool raises an event.
  public var lowWaterBlocks: UInt64
  /// Metadata blocks needed to map all data once, with leaves half full.
  public var metadataNeeded: UInt64
  /// Metadata blocks of the device.
  public var metadataBlocks: UInt64
  /// A sentence on the data block size.
  public var reason: String
  /// A warning that the metadata is too small; nil if it is not.
  public var warning: String?

  /// Chooses the sizes that are not given.
  ///
  /// The data block size is the smallest with which the mappings of all data take at most half of
  /// the metadata. Small blocks copy and zero least; the other half is for blocks that snapshots no
  /// longer share.
  /// - Throws: `.request` for a block size that the kernel refuses, and `.output` for devices too
  ///   small for any pool.
  public init(
    dataSectors: UInt64, metadataSectors: UInt64, blockSectors: UInt32? = nil,
    lowWaterBlocks: UInt64? = nil
  ) throws(ToolError) {
    let metadataBlocks = min(
      metadataSectors / UInt64(Limits.blockSectors), Limits.metadataBlocksMax)
    guard metadataBlocks >= 10 else {
      throw ToolError(
        .outOfSpace, "the metadata device has \(metadataSectors) sectors, too few for any pool")
    }
    if let blockSectors, !Limits.isDataBlockSize(blockSectors) {
      throw ToolError(
        .refused,
        "a data block of \(blockSectors) sectors: the kernel accepts multiples of 128 from 128 to "
          + "2097152 (64 KiB to 1 GiB)")
    }
    var chosen = blockSectors ?? Limits.dataBlockSectorsMin
    var needed = try Self.needed(dataSectors, chosen)
    if blockSectors == nil {
      while needed > metadataBlocks / 2, chosen < Limits.dataBlockSectorsMax,
        dataSectors >= UInt64(chosen) * 2
      {
        chosen *= 2
        needed = try Self.needed(dataSectors, chosen)
      }
    }
    self.blockSectors = chosen
    self.metadataBlocks = metadataBlocks
    metadataNeeded = needed
    dataBlocks = dataSectors / UInt64(chosen)
    self.lowWaterBlocks =
      lowWaterBlocks ?? Self.lowWater(blocks: dataBlocks, blockSectors: chosen)
    let size = prettySize(bytes: UInt64(chosen) * UInt64(Limits.sectorBytes))
    let share =
      "\(dataBlocks) blocks, all mapped once, take some \(needed) of \(metadataBlocks) "
      + "metadata blocks"
    reason =
      if blockSectors != nil {
        "data blocks of \(size), as asked: \(share)"
      } else if chosen == Limits.dataBlockSectorsMin {
        "data blocks of \(size), the smallest, which copy and zero least: \(share)"
      } else {
        "data blocks of \(size), the smallest that leave half of the metadata for snapshots: \(share)"
      }
    if needed > metadataBlocks {
      let bytes = prettySize(bytes: needed * UInt64(Limits.blockBytes))
      warning =
        "the metadata device is too small for all of the data device: some \(bytes) are needed; "
        + "the pool will run out of metadata first"
    }
  }

  /// A low water mark for a pool of `blocks`: a twentieth, but at most 16 GiB, which leaves time to
  /// act.
  static func lowWater(blocks: UInt64, blockSectors: UInt32) -> UInt64 {
    let most = (UInt64(16) << 30) / (UInt64(blockSectors) * UInt64(Limits.sectorBytes))
    return max(1, min(blocks / 20, most))
  }

  private static func needed(_ dataSectors: UInt64, _ blockSectors: UInt32) throws(ToolError)
    -> UInt64
  {
    guard dataSectors >= UInt64(blockSectors) else {
      throw ToolError(
        .outOfSpace,
        "the data device has \(dataSectors) sectors, less than a data block of \(blockSectors)")
    }
    let sector = UInt64(Limits.sectorBytes)
    let (bytes, overflow) = dataSectors.multipliedReportingOverflow(by: sector)
    guard !overflow else { throw ToolError(.refused, "the data device is too large") }
    return try MetadataSizeEstimate(
      poolBytes: bytes, blockBytes: UInt64(blockSectors) * sector, devicesMax: 1
    ).blocks
  }
}
