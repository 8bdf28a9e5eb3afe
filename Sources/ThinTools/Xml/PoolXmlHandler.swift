/// What the `<superblock>` element says.
public struct PoolXmlSuperblock: Equatable, Sendable {
  /// The pool's uuid as written; empty for none.
  public var uuid = ""
  /// Snapshot counter.
  public var time: UInt32 = 0
  /// Owned by user space.
  public var transactionID: UInt64 = 0
  /// Flag word, 0 where not given; bit 0 is needs-check.
  public var flags: UInt32 = 0
  /// Format version, 2 where not given.
  public var version: UInt32 = 2
  /// Data block size in sectors; not judged.
  public var dataBlockSectors: UInt32 = 0
  /// Data blocks of the pool.
  public var dataBlockCount: UInt64 = 0
  /// Block of the metadata snapshot, where the dump names one.
  public var metadataSnapshot: UInt64?

  /// A superblock of zeros, version 2.
  public init() {}
}

/// What a `<device>` element says.
public struct PoolXmlDevice: Equatable, Sendable {
  /// Device id; not judged.
  public var id: UInt64 = 0
  /// Mappings that the device is said to have.
  public var mappedBlocks: UInt64 = 0
  /// The pool's transaction id when the device was created.
  public var transactionID: UInt64 = 0
  /// The pool's time when the device was created.
  public var creationTime: UInt32 = 0
  /// The pool's time when the device was last snapshotted.
  public var snapshottedTime: UInt32 = 0

  /// A device of zeros.
  public init() {}
}

/// A run of mappings: `length` virtual blocks from `thinBegin` on `length` data blocks from
/// `dataBegin`, all made at `time`. Not judged.
@frozen public struct PoolXmlMapping: Equatable, Sendable {
  /// First virtual block.
  public var thinBegin: UInt64
  /// First data block.
  public var dataBegin: UInt64
  /// Blocks; 1 for `<single_mapping>`.
  public var length: UInt64
  /// The pool's time when the mappings were made.
  public var time: UInt32

  /// A run with these values.
  public init(thinBegin: UInt64, dataBegin: UInt64, length: UInt64, time: UInt32) {
    self.thinBegin = thinBegin
    self.dataBegin = dataBegin
    self.length = length
    self.time = time
  }
}

/// Gets what the XML of a pool says, in the order of the text. The grammar is checked by the
/// reader: begins and ends come in pairs, mappings inside a def or device, refs inside a device.
/// What the numbers mean is the handler's to judge; the reader adds the line to a `damaged` error.
public protocol PoolXmlHandler: AnyObject {
  /// `<superblock ...>`, once, before anything else.
  func beginSuperblock(_ superblock: PoolXmlSuperblock) throws(ToolError)
  /// `</superblock>`; what follows it may still turn out to be wrong.
  func endSuperblock() throws(ToolError)
  /// `<def name="...">`: mappings that devices share.
  func beginDef(name: String) throws(ToolError)
  /// `</def>`.
  func endDef() throws(ToolError)
  /// `<device ...>`.
  func beginDevice(_ device: PoolXmlDevice) throws(ToolError)
  /// `</device>`.
  func endDevice() throws(ToolError)
  /// `<single_mapping .../>` or `<range_mapping .../>`.
  func mapping(_ run: PoolXmlMapping) throws(ToolError)
  /// `<ref name="..."/>`: here follow the mappings of that def.
  func ref(name: String) throws(ToolError)
}
