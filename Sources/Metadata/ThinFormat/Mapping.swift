/// The value of a device's mapping tree: a data block and the time of the mapping.
@frozen public struct Mapping: Equatable, Sendable {
  /// The value on disk: 40 bits of data block above 24 bits of time.
  public var rawValue: UInt64

  /// Wraps a value read from a leaf.
  @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Packs a mapping.
  /// - Precondition: `dataBlock` is below 2^40 and `time` below 2^24. Readers of foreign input must
  ///   check that first, because the kernel's packing would corrupt the data block.
  @inlinable public init(dataBlock: UInt64, time: UInt32) {
    precondition(dataBlock < Limits.dataBlocksMax && time <= Limits.timeMax)
    rawValue = dataBlock << 24 | UInt64(time)
  }

  /// Block of the data device.
  @inlinable public var dataBlock: UInt64 { rawValue >> 24 }
  /// The pool's time when the mapping was made.
  @inlinable public var time: UInt32 { UInt32(truncatingIfNeeded: rawValue & 0xFF_FFFF) }
}

/// `struct disk_device_details`: the facts about a thin device besides its mappings.
public struct DeviceDetails: Equatable, Sendable, FixedSizeRecord {
  /// Bytes on disk.
  public static var byteCount: Int { 24 }

  @inlinable static var mappedBlocks: Field<Self, UInt64> { .init(at: 0) }
  @inlinable static var transactionID: Field<Self, UInt64> { .init(at: 8) }
  @inlinable static var creationTime: Field<Self, UInt32> { .init(at: 16) }
  @inlinable static var snapshottedTime: Field<Self, UInt32> { .init(at: 20) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("mappedBlocks", mappedBlocks), FieldPlace("transactionID", transactionID),
      FieldPlace("creationTime", creationTime), FieldPlace("snapshottedTime", snapshottedTime),
    ]
  }

  /// The number of entries in the device's mapping tree.
  public var mappedBlocks: UInt64
  /// The pool's transaction id when the device was created.
  public var transactionID: UInt64
  /// The pool's time when the device was created.
  public var creationTime: UInt32
  /// The pool's time when a snapshot of the device was last taken.
  public var snapshottedTime: UInt32

  /// Details with these values.
  public init(
    mappedBlocks: UInt64, transactionID: UInt64, creationTime: UInt32, snapshottedTime: UInt32
  ) {
    self.mappedBlocks = mappedBlocks
    self.transactionID = transactionID
    self.creationTime = creationTime
    self.snapshottedTime = snapshottedTime
  }

  /// Decodes the value that starts `offset` bytes into `bytes`.
  public init(decoding bytes: RawSpan, at offset: Int = 0) {
    let view = RecordView<DeviceDetails>(bytes, at: offset)
    mappedBlocks = view[Self.mappedBlocks]
    transactionID = view[Self.transactionID]
    creationTime = view[Self.creationTime]
    snapshottedTime = view[Self.snapshottedTime]
  }

  /// Writes the value at `offset`.
  public func encode(into block: UnsafeMutableRawBufferPointer, at offset: Int) {
    unsafe block.set(Self.mappedBlocks, to: mappedBlocks, base: offset)
    unsafe block.set(Self.transactionID, to: transactionID, base: offset)
    unsafe block.set(Self.creationTime, to: creationTime, base: offset)
    unsafe block.set(Self.snapshottedTime, to: snapshottedTime, base: offset)
  }
}
