/// Sizes and limits of the format, each from the kernel's dm-thin and persistent-data code.
public enum Limits {
  /// The size of a metadata block in bytes.
  public static var blockBytes: Int { 4096 }
  /// Bytes of a sector.
  public static var sectorBytes: Int { 512 }
  /// Sectors of a metadata block.
  public static var blockSectors: Int { 8 }
  /// Blocks counted in one bitmap: 4080 bytes of two-bit entries.
  public static var entriesPerBitmap: Int { 16320 }
  /// The number of bitmaps that fit into the metadata space map's index block.
  public static var metadataBitmapsMax: Int { 255 }
  /// The most metadata blocks that a pool uses; the rest of a larger device is ignored.
  public static var metadataBlocksMax: UInt64 { 255 * 16320 }
  /// Above this size the kernel warns that the rest of the metadata device is not used (16 GiB).
  public static var metadataWarningSectors: UInt64 { 33_554_432 }
  /// The largest device size that is fully used, in sectors.
  public static var metadataSectorsMax: UInt64 { metadataBlocksMax * 8 }
  /// The smallest data block, in sectors; data blocks are a multiple of it (64 KiB).
  public static var dataBlockSectorsMin: UInt32 { 128 }
  /// The largest data block, in sectors (1 GiB).
  public static var dataBlockSectorsMax: UInt32 { 2_097_152 }
  /// The largest thin device id: 24 bits.
  @inlinable public static var deviceIDMax: UInt64 { (1 << 24) - 1 }
  /// The largest time of a mapping: 24 bits.
  public static var timeMax: UInt32 { (1 << 24) - 1 }
  /// The number of data blocks that a mapping can address: 40 bits.
  public static var dataBlocksMax: UInt64 { 1 << 40 }
  /// The most levels of a tree that a reader follows. Nodes have at least 84 children, so ten
  /// levels hold every 64-bit key; more means a cycle or damage.
  public static var treeLevelsMax: Int { 16 }

  /// Whether a thin device can have this id, a key of the trees of devices.
  @inlinable public static func isDeviceID(_ key: UInt64) -> Bool { key <= deviceIDMax }

  /// Whether the kernel accepts this data block size, in sectors.
  public static func isDataBlockSize(_ sectors: UInt32) -> Bool {
    sectors >= dataBlockSectorsMin && sectors <= dataBlockSectorsMax
      && sectors % dataBlockSectorsMin == 0
  }
}
