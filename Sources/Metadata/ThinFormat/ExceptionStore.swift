/// The first chunk of a persistent exception store, which the target `snapshot` has on its COW device
/// (kernel: `struct disk_header`). The rest of the chunk is zero.
public struct ExceptionStoreHeader: Equatable, Sendable, FixedSizeRecord {
  /// The bytes that have a meaning.
  public static var byteCount: Int { 16 }
  /// The bytes `SnAp`.
  public static var magic: UInt32 { 0x7041_6E53 }
  /// The version that kernels know.
  public static var version: UInt32 { 1 }

  @inlinable static var magicField: Field<Self, UInt32> { .init(at: 0) }
  @inlinable static var valid: Field<Self, UInt32> { .init(at: 4) }
  @inlinable static var versionField: Field<Self, UInt32> { .init(at: 8) }
  @inlinable static var chunkSectors: Field<Self, UInt32> { .init(at: 12) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [
      FieldPlace("magic", magicField), FieldPlace("valid", valid),
      FieldPlace("version", versionField), FieldPlace("chunkSectors", chunkSectors),
    ]
  }

  /// `magic` in a store; 0 where there is none yet.
  public var magic: UInt32
  /// 0 once the snapshot has become invalid.
  public var valid: UInt32
  /// The version of the format.
  public var version: UInt32
  /// Sectors in a chunk.
  public var chunkSectors: UInt32

  /// The header of a store in chunks of `chunkSectors`.
  public init(chunkSectors: UInt32, isValid: Bool = true) {
    magic = Self.magic
    valid = isValid ? 1 : 0
    version = Self.version
    self.chunkSectors = chunkSectors
  }

  /// Decodes the record at the start of `bytes`.
  public init(decoding bytes: RawSpan) {
    let view = RecordView<Self>(bytes)
    magic = view[Self.magicField]
    valid = view[Self.valid]
    version = view[Self.versionField]
    chunkSectors = view[Self.chunkSectors]
  }

  /// Writes the record at the start of `bytes`.
  public func encode(into bytes: UnsafeMutableRawBufferPointer) {
    unsafe bytes.set(Self.magicField, to: magic)
    unsafe bytes.set(Self.valid, to: valid)
    unsafe bytes.set(Self.versionField, to: version)
    unsafe bytes.set(Self.chunkSectors, to: chunkSectors)
  }
}

/// A record of an exception store's metadata: where a chunk of the origin is on the COW device (kernel:
/// `struct disk_exception`).
public struct ExceptionRecord: Equatable, Sendable, FixedSizeRecord {
  /// The size of the record on disk in bytes.
  public static var byteCount: Int { 16 }

  @inlinable static var oldChunk: Field<Self, UInt64> { .init(at: 0) }
  @inlinable static var newChunk: Field<Self, UInt64> { .init(at: 8) }

  /// Every field, by ascending offset.
  public static var fields: [FieldPlace] {
    [FieldPlace("oldChunk", oldChunk), FieldPlace("newChunk", newChunk)]
  }

  /// The chunk's number on the origin.
  public var oldChunk: UInt64
  /// The chunk's number on the COW device; 0 ends the records.
  public var newChunk: UInt64

  /// A chunk with its place.
  public init(oldChunk: UInt64, newChunk: UInt64) {
    self.oldChunk = oldChunk
    self.newChunk = newChunk
  }

  /// Decodes the record that starts `offset` bytes into `area`.
  @inlinable public init(decoding area: RawSpan, at offset: Int) {
    let view = RecordView<Self>(area, at: offset)
    oldChunk = view[Self.oldChunk]
    newChunk = view[Self.newChunk]
  }

  /// Writes the record `offset` bytes into `area`.
  @inlinable public func encode(into area: UnsafeMutableRawBufferPointer, at offset: Int) {
    unsafe area.set(Self.oldChunk, to: oldChunk, base: offset)
    unsafe area.set(Self.newChunk, to: newChunk, base: offset)
  }
}

/// Which chunks of a persistent exception store have what: chunk 0 the header, chunk 1 the first area of
/// records, then as many chunks of data as an area has records, then the next area, and so on.
public struct ExceptionStoreLayout: Equatable, Sendable {
  /// Sectors in a chunk: a power of two.
  public let chunkSectors: UInt32

  /// The layout with chunks of so many sectors.
  public init(chunkSectors: UInt32) { self.chunkSectors = chunkSectors }

  /// Bytes in a chunk.
  public var chunkBytes: UInt64 { UInt64(chunkSectors) * 512 }
  /// The number of records in an area.
  public var recordsPerArea: UInt64 { chunkBytes / UInt64(ExceptionRecord.byteCount) }

  /// The chunk of the area `index`, from 0.
  public func chunk(ofArea index: UInt64) -> UInt64 { 1 &+ (recordsPerArea &+ 1) &* index }

  /// Whether a chunk has records or the header.
  public func isMetadata(_ chunk: UInt64) -> Bool {
    chunk == 0 || chunk % (recordsPerArea &+ 1) == 1
  }

  /// The chunk itself, or the one behind it if it has records.
  public func dataChunk(from chunk: UInt64) -> UInt64 { isMetadata(chunk) ? chunk &+ 1 : chunk }

  /// The first chunk after `chunk` that has records.
  public func nextArea(after chunk: UInt64) -> UInt64 {
    self.chunk(ofArea: chunk == 0 ? 0 : (chunk &- 1) / (recordsPerArea &+ 1) &+ 1)
  }
}
