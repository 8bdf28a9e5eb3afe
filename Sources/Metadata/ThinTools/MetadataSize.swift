import ThinFormat

/// The metadata that a pool needs with every leaf of its mapping trees half full, and at least the
/// metadata that the pool needs to be created and filled.
public struct MetadataSizeEstimate: Equatable, Sendable {
  /// Metadata blocks of 4096 bytes.
  public let blocks: UInt64
  /// Whether the pool needs more than the largest possible metadata, so that `blocks` is that
  /// limit.
  public let isLimited: Bool

  /// Bytes.
  public var bytes: UInt64 { blocks * UInt64(Limits.blockBytes) }

  /// Mappings in a half-full leaf.
  private static var mappingsPerLeaf: UInt64 { 252 / 2 }

  /// Estimates for a pool of `poolBytes` in blocks of `blockBytes`, all mapped, with up to
  /// `devicesMax` thin devices and snapshots.
  /// - Throws: `.request` for a block size that the kernel refuses, and for a pool smaller than a
  ///   block.
  public init(poolBytes: UInt64, blockBytes: UInt64, devicesMax: UInt64) throws(ToolError) {
    let sector = UInt64(Limits.sectorBytes)
    let blockMin = UInt64(Limits.dataBlockSectorsMin) * sector
    guard blockBytes > 0, blockBytes % blockMin == 0 else {
      throw ToolError(.refused, "block size must be a multiple of 64 KiB")
    }
    guard blockBytes <= UInt64(Limits.dataBlockSectorsMax) * sector else {
      throw ToolError(.refused, "block size must be 1 GiB at most")
    }
    guard poolBytes >= blockBytes else {
      throw ToolError(.refused, "the pool is smaller than a data block")
    }
    let dataBlocks = poolBytes / blockBytes
    let leaves = dataBlocks / Self.mappingsPerLeaf + (dataBlocks % Self.mappingsPerLeaf > 0 ? 1 : 0)
    // The superblock, the leaves, and a root for each device.
    let (estimate, overflow) = (1 + leaves).addingReportingOverflow(devicesMax)
    guard !overflow, estimate <= Limits.metadataBlocksMax else {
      isLimited = true
      blocks = Limits.metadataBlocksMax
      return
    }
    let needed = max(
      estimate, Self.smallest(dataBlocks: dataBlocks, devices: devicesMax),
      ThinRestore.bytesMin / UInt64(Limits.blockBytes))
    isLimited = needed > Limits.metadataBlocksMax
    blocks = min(needed, Limits.metadataBlocksMax)
  }

  /// Blocks needed to create a pool with `devices` thin devices, one transaction each, and to fill
  /// it. These overheads matter for small pools and for those with many devices.
  private static func smallest(dataBlocks: UInt64, devices: UInt64) -> UInt64 {
    func over(_ count: UInt64, _ per: UInt64) -> UInt64 { count / per + (count % per > 0 ? 1 : 0) }
    // Devices that are added one after the other leave nodes half full: 63 details, 126 roots.
    let trees = devices + over(devices, 63) + over(devices, 126)
    let bitmaps = over(dataBlocks, UInt64(Limits.entriesPerBitmap))
    return basis + trees + bitmaps + over(dataBlocks, 2 * mappingsPerLeaf)
  }

  /// The superblock, the roots of all trees, index and bitmap of the metadata, and the copies that
  /// a transaction makes of them before it frees any.
  private static var basis: UInt64 { 16 }
}
