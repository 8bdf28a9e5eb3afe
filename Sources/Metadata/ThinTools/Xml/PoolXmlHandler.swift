public import ThinFormat

/// The attributes of the `<superblock>` element.
public struct PoolXmlSuperblock: Equatable, Sendable {
  /// The pool's uuid as written; empty for none.
  public var uuid = ""
  /// Snapshot counter.
  public var time: UInt32 = 0
  /// The number that volume managers maintain.
  public var transactionID: UInt64 = 0
  /// The flag word, 0 by default; bit 0 is needs-check.
  public var flags: UInt32 = 0
  /// The format version, 2 by default.
  public var version: UInt32 = 2
  /// Data block size in sectors; not checked.
  public var dataBlockSectors: UInt32 = 0
  /// Data blocks of the pool.
  public var dataBlockCount: UInt64 = 0
  /// Block of the metadata snapshot, if the dump has it.
  public var metadataSnapshot: MetadataBlock?

  /// A superblock of zeros, version 2.
  public init() {}
}

/// The attributes of a `<device>` element.
public struct PoolXmlDevice: Equatable, Sendable {
  /// Device id; not checked.
  public var id: ThinID = 0
  /// The claimed number of mappings of the device.
  public var mappedBlocks: UInt64 = 0
  /// The pool's transaction id when the device was created.
  public var transactionID: UInt64 = 0
  /// The pool's time when the device was created.
  public var creationTime: UInt32 = 0
  /// The pool's time when a snapshot of the device was last taken.
  public var snapshottedTime: UInt32 = 0

  /// A device of zeros.
  public init() {}
}

/// A run of mappings: `length` virtual blocks from `thinBegin` on map to `length` data blocks from
/// `dataBegin` on, all made at `time`. Not checked.
@frozen public struct PoolXmlMapping: Equatable, Sendable {
  /// First virtual block.
  public var thinBegin: VirtualBlock
  /// First data block.
  public var dataBegin: DataBlock
  /// Blocks; 1 for `<single_mapping>`.
  public var length: UInt64
  /// The pool's time when the mappings were made.
  public var time: UInt32

  /// A run with these values.
  public init(thinBegin: VirtualBlock, dataBegin: DataBlock, length: UInt64, time: UInt32) {
    self.thinBegin = thinBegin
    self.dataBegin = dataBegin
    self.length = length
    self.time = time
  }
}

/// Receives the elements of a pool's XML in order. The reader checks the grammar: begins and ends
/// come in pairs, mappings inside a def or device, refs inside a device. The handler checks the
/// values; the reader adds the line to a `damaged` error.
public protocol PoolXmlHandler: AnyObject {
  /// `<superblock ...>`, once, before anything else.
  func beginSuperblock(_ superblock: PoolXmlSuperblock) throws(ToolError)
  /// `</superblock>`; the text after it may still be invalid.
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
  /// `<ref name="..."/>`: inserts the mappings of that def.
  func ref(name: String) throws(ToolError)
}
