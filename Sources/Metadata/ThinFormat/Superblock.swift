/// `struct thin_disk_superblock`: block 0 of the metadata device, and its copy in a metadata
/// snapshot.
public enum SuperblockRecord: FixedSizeRecord {
  /// The whole block. Only 364 bytes have a meaning, so that a 512-byte write of it is atomic.
  public static var byteCount: Int { Limits.blockBytes }
  /// Whether a block claims to be a superblock, sound or not.
  public static func isClaimed(by block: RawSpan) -> Bool {
    block.byteCount >= byteCount && RecordView<Self>(block)[magic] == magicValue
  }
  /// The bytes that have a meaning; the rest is zero when formatted, and preserved.
  public static var usedBytes: Int { 364 }
  /// The magic number of dm-thin metadata.
  public static var magicValue: UInt64 { 27_022_010 }
  /// Bit of `flags`: the kernel requires a check before it writes again.
  public static var needsCheckFlag: UInt32 { 1 }

  @inlinable static var flags: Field<Self, UInt32> { .init(at: 4) }
  @inlinable static var blockNumber: Field<Self, UInt64> { .init(at: 8) }
  @inlinable static var uuidLow: Field<Self, UInt64> { .init(at: 16) }
  @inlinable static var uuidHigh: Field<Self, UInt64> { .init(at: 24) }
  @inlinable static var magic: Field<Self, UInt64> { .init(at: 32) }
  @inlinable static var version: Field<Self, UInt32> { .init(at: 40) }
  @inlinable static var time: Field<Self, UInt32> { .init(at: 44) }
  @inlinable static var transactionID: Field<Self, UInt64> { .init(at: 48) }
  @inlinable static var metadataSnapshot: Field<Self, UInt64> { .init(at: 56) }
  /// The offset of the data space map's root record.
  public static var dataSpaceMapOffset: Int { 64 }
  /// The offset of the metadata space map's root record.
  public static var metadataSpaceMapOffset: Int { 192 }
  @inlinable static var mappingRoot: Field<Self, UInt64> { .init(at: 320) }
  @inlinable static var detailsRoot: Field<Self, UInt64> { .init(at: 328) }
  @inlinable static var dataBlockSectors: Field<Self, UInt32> { .init(at: 336) }
  @inlinable static var metadataBlockSectors: Field<Self, UInt32> { .init(at: 340) }
  @inlinable static var metadataBlockCount: Field<Self, UInt64> { .init(at: 344) }
  @inlinable static var compatFlags: Field<Self, UInt32> { .init(at: 352) }
  @inlinable static var compatReadOnlyFlags: Field<Self, UInt32> { .init(at: 356) }
  @inlinable static var incompatFlags: Field<Self, UInt32> { .init(at: 360) }

  /// Every field, by ascending offset; the two space map roots have their own fields.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("flags", flags), FieldPlace("blockNumber", blockNumber),
      FieldPlace("uuidLow", uuidLow), FieldPlace("uuidHigh", uuidHigh),
      FieldPlace("magic", magic), FieldPlace("version", version), FieldPlace("time", time),
      FieldPlace("transactionID", transactionID),
      FieldPlace("metadataSnapshot", metadataSnapshot), FieldPlace("mappingRoot", mappingRoot),
      FieldPlace("detailsRoot", detailsRoot), FieldPlace("dataBlockSectors", dataBlockSectors),
      FieldPlace("metadataBlockSectors", metadataBlockSectors),
      FieldPlace("metadataBlockCount", metadataBlockCount),
      FieldPlace("compatFlags", compatFlags),
      FieldPlace("compatReadOnlyFlags", compatReadOnlyFlags),
      FieldPlace("incompatFlags", incompatFlags),
    ]
  }
}

/// The decoded fields of a superblock.
public struct Superblock: Equatable, Sendable {
  /// The flag word; bit 0 is needs-check, the others are preserved.
  public var flags: UInt32 = 0
  /// The pool's uuid as two little-endian words; the kernel writes zero and never reads it.
  public var uuid: (low: UInt64, high: UInt64) = (0, 0)
  /// Format version; the kernel writes 2 and has read 1.
  public var version: UInt32 = 2
  /// The snapshot counter; it increases by one with every snapshot.
  public var time: UInt32 = 0
  /// A number that volume managers maintain and compare with their own records.
  public var transactionID: UInt64 = 0
  /// Block of the held metadata snapshot (kernel: `held_root`), 0 for none.
  public var metadataSnapshot: UInt64 = 0
  /// Reference counts of data blocks.
  public var dataSpaceMap = SpaceMapRoot()
  /// Reference counts of metadata blocks.
  public var metadataSpaceMap = SpaceMapRoot()
  /// Root of the tree from device id to the root of that device's mapping tree.
  public var mappingRoot: UInt64 = 0
  /// Root of the tree from device id to device details.
  public var detailsRoot: UInt64 = 0
  /// Data block size in sectors.
  public var dataBlockSectors: UInt32 = 0
  /// Metadata block size in sectors: 8.
  public var metadataBlockSectors: UInt32 = 8
  /// The number of metadata blocks when the pool was formatted; it is not updated when the device
  /// grows.
  public var metadataBlockCount: UInt64 = 0
  /// Feature bits that can be ignored.
  public var compatFlags: UInt32 = 0
  /// Feature bits that forbid writing.
  public var compatReadOnlyFlags: UInt32 = 0
  /// Feature bits that forbid opening.
  public var incompatFlags: UInt32 = 0

  /// A superblock of zeros, version 2.
  public init() {}

  /// Decodes every field without checking it; use `validate` for that.
  /// - Precondition: `block` has 4096 bytes.
  public init(decoding block: RawSpan) {
    let view = RecordView<SuperblockRecord>(block)
    flags = view[SuperblockRecord.flags]
    uuid = (view[SuperblockRecord.uuidLow], view[SuperblockRecord.uuidHigh])
    version = view[SuperblockRecord.version]
    time = view[SuperblockRecord.time]
    transactionID = view[SuperblockRecord.transactionID]
    metadataSnapshot = view[SuperblockRecord.metadataSnapshot]
    dataSpaceMap = SpaceMapRoot(decoding: block, at: SuperblockRecord.dataSpaceMapOffset)
    metadataSpaceMap = SpaceMapRoot(decoding: block, at: SuperblockRecord.metadataSpaceMapOffset)
    mappingRoot = view[SuperblockRecord.mappingRoot]
    detailsRoot = view[SuperblockRecord.detailsRoot]
    dataBlockSectors = view[SuperblockRecord.dataBlockSectors]
    metadataBlockSectors = view[SuperblockRecord.metadataBlockSectors]
    metadataBlockCount = view[SuperblockRecord.metadataBlockCount]
    compatFlags = view[SuperblockRecord.compatFlags]
    compatReadOnlyFlags = view[SuperblockRecord.compatReadOnlyFlags]
    incompatFlags = view[SuperblockRecord.incompatFlags]
  }

  /// Whether bit 0 of the flags is set.
  public var needsCheck: Bool {
    get { flags & SuperblockRecord.needsCheckFlag != 0 }
    set {
      if newValue {
        flags |= SuperblockRecord.needsCheckFlag
      } else {
        flags &= ~SuperblockRecord.needsCheckFlag
      }
    }
  }

  /// Reads block `number` as a superblock. Checks the checksum, the number, the magic, and the
  /// fields that everything else depends on.
  /// - Throws: `FormatError` with the expected and the found value.
  public init(validating block: RawSpan, number: UInt64) throws(FormatError) {
    try BlockHeader.verify(block, number: number, kind: .superblock)
    let found = RecordView<SuperblockRecord>(block)[SuperblockRecord.magic]
    guard found == SuperblockRecord.magicValue else {
      throw .magic(expected: SuperblockRecord.magicValue, found: found)
    }
    self.init(decoding: block)
    guard version == 1 || version == 2 else {
      throw .field(.version, expected: 2, found: UInt64(version))
    }
    guard incompatFlags == 0 else {
      throw .field(.incompatFlags, expected: 0, found: UInt64(incompatFlags))
    }
    guard metadataBlockSectors == UInt32(Limits.blockSectors) else {
      throw .field(
        .metadataBlockSize, expected: UInt64(Limits.blockSectors),
        found: UInt64(metadataBlockSectors))
    }
    guard Limits.isDataBlockSize(dataBlockSectors) else {
      throw .field(
        .dataBlockSize, expected: UInt64(Limits.dataBlockSectorsMin),
        found: UInt64(dataBlockSectors))
    }
  }

  /// Writes every field. Bytes outside of fields are preserved. `BlockHeader.seal` sets number and
  /// checksum.
  public func encode(into block: UnsafeMutableRawBufferPointer) {
    unsafe block.set(SuperblockRecord.flags, to: flags)
    unsafe block.set(SuperblockRecord.uuidLow, to: uuid.low)
    unsafe block.set(SuperblockRecord.uuidHigh, to: uuid.high)
    unsafe block.set(SuperblockRecord.magic, to: SuperblockRecord.magicValue)
    unsafe block.set(SuperblockRecord.version, to: version)
    unsafe block.set(SuperblockRecord.time, to: time)
    unsafe block.set(SuperblockRecord.transactionID, to: transactionID)
    unsafe block.set(SuperblockRecord.metadataSnapshot, to: metadataSnapshot)
    unsafe dataSpaceMap.encode(into: block, at: SuperblockRecord.dataSpaceMapOffset)
    unsafe metadataSpaceMap.encode(into: block, at: SuperblockRecord.metadataSpaceMapOffset)
    unsafe block.set(SuperblockRecord.mappingRoot, to: mappingRoot)
    unsafe block.set(SuperblockRecord.detailsRoot, to: detailsRoot)
    unsafe block.set(SuperblockRecord.dataBlockSectors, to: dataBlockSectors)
    unsafe block.set(SuperblockRecord.metadataBlockSectors, to: metadataBlockSectors)
    unsafe block.set(SuperblockRecord.metadataBlockCount, to: metadataBlockCount)
    unsafe block.set(SuperblockRecord.compatFlags, to: compatFlags)
    unsafe block.set(SuperblockRecord.compatReadOnlyFlags, to: compatReadOnlyFlags)
    unsafe block.set(SuperblockRecord.incompatFlags, to: incompatFlags)
  }

  /// Compares field by field.
  public static func == (a: Superblock, b: Superblock) -> Bool {
    a.flags == b.flags && a.uuid == b.uuid && a.version == b.version && a.time == b.time
      && a.transactionID == b.transactionID && a.metadataSnapshot == b.metadataSnapshot
      && a.dataSpaceMap == b.dataSpaceMap && a.metadataSpaceMap == b.metadataSpaceMap
      && a.mappingRoot == b.mappingRoot && a.detailsRoot == b.detailsRoot
      && a.dataBlockSectors == b.dataBlockSectors
      && a.metadataBlockSectors == b.metadataBlockSectors
      && a.metadataBlockCount == b.metadataBlockCount && a.compatFlags == b.compatFlags
      && a.compatReadOnlyFlags == b.compatReadOnlyFlags && a.incompatFlags == b.incompatFlags
  }
}
