/// Sizes and limits of the format, each from the kernel's dm-thin and persistent-data code.
public enum Limits {
  /// Bytes of a metadata block; fixed.
  public static var blockBytes: Int { 4096 }
  /// Bytes of a sector.
  public static var sectorBytes: Int { 512 }
  /// Sectors of a metadata block.
  public static var blockSectors: Int { 8 }
  /// Blocks described by one bitmap: 4080 bytes of two-bit entries.
  public static var entriesPerBitmap: Int { 16320 }
  /// Bitmaps that the metadata space map's index block has room for.
  public static var metadataBitmapsMax: Int { 255 }
  /// Metadata blocks that a pool uses at most; what a device has beyond is ignored.
  public static var metadataBlocksMax: UInt64 { 255 * 16320 }
  /// Above this size the kernel warns that the rest of the metadata device is not used (16 GiB).
  public static var metadataWarningSectors: UInt64 { 33_554_432 }
  /// The largest device size that is used whole, in sectors.
  public static var metadataSectorsMax: UInt64 { metadataBlocksMax * 8 }
  /// Smallest data block, in sectors, and the unit that data blocks are a multiple of (64 KiB).
  public static var dataBlockSectorsMin: UInt32 { 128 }
  /// Largest data block, in sectors (1 GiB).
  public static var dataBlockSectorsMax: UInt32 { 2_097_152 }
  /// Largest thin device id: 24 bits.
  public static var deviceIDMax: UInt64 { (1 << 24) - 1 }
  /// Largest time that fits a mapping: 24 bits.
  public static var timeMax: UInt32 { (1 << 24) - 1 }
  /// Data blocks that a mapping can name: 40 bits.
  public static var dataBlocksMax: UInt64 { 1 << 40 }
  /// Levels of a tree that a reader follows. Nodes have at least 84 children, so ten levels hold
  /// every 64-bit key; more means a cycle or damage.
  public static var treeLevelsMax: Int { 16 }

  /// Whether the kernel accepts this data block size, in sectors.
  public static func isDataBlockSize(_ sectors: UInt32) -> Bool {
    sectors >= dataBlockSectorsMin && sectors <= dataBlockSectorsMax
      && sectors % dataBlockSectorsMin == 0
  }
}
