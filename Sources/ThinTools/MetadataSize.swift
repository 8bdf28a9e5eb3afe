import ThinFormat

/// How much metadata a pool needs, with every leaf of its mapping trees half full.
public struct MetadataSizeEstimate: Equatable, Sendable {
  /// Metadata blocks of 4096 bytes.
  public let blocks: UInt64
  /// Whether the pool needs more than metadata can ever have, so that `blocks` is that limit.
  public let isLimited: Bool

  /// Bytes.
  public var bytes: UInt64 { blocks * UInt64(Limits.blockBytes) }

  /// Mappings in a leaf that is half full.
  private static var mappingsPerLeaf: UInt64 { 252 / 2 }

  /// Estimates for a pool of `poolBytes` in blocks of `blockBytes`, all of them mapped, with up to
  /// `devicesMax` thin devices and snapshots.
  /// - Throws: `.request` for a block size that the kernel refuses, and for a pool smaller than a
  ///   block.
  public init(poolBytes: UInt64, blockBytes: UInt64, devicesMax: UInt64) throws(ToolError) {
    let sector = UInt64(Limits.sectorBytes)
    let blockMin = UInt64(Limits.dataBlockSectorsMin) * sector
    guard blockBytes > 0, blockBytes % blockMin == 0 else {
      throw ToolError(.request, "block size must be a multiple of 64 KiB")
    }
    guard blockBytes <= UInt64(Limits.dataBlockSectorsMax) * sector else {
      throw ToolError(.request, "block size must be 1 GiB at most")
    }
    guard poolBytes >= blockBytes else {
      throw ToolError(.request, "the pool is smaller than a data block")
    }
    let dataBlocks = poolBytes / blockBytes
    let leaves = dataBlocks / Self.mappingsPerLeaf + (dataBlocks % Self.mappingsPerLeaf > 0 ? 1 : 0)
    // The superblock, the leaves, and a root for each device.
    let (needed, overflow) = (1 + leaves).addingReportingOverflow(devicesMax)
    isLimited = overflow || needed > Limits.metadataBlocksMax
    blocks = isLimited ? Limits.metadataBlocksMax : needed
  }
}
