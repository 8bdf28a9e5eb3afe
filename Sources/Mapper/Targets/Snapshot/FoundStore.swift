import BlockIO
import DeviceMapper
import Glibc
import ThinFormat

/// A persistent store as it was found on a COW device, or made there.
struct FoundStore {
  var layout: ExceptionStoreLayout
  var isValid = true
  /// The last area, with its records.
  var area: AlignedBuffer
  var areaIndex: UInt64 = 0
  var recordCount: UInt64 = 0
  /// The next chunk that is free: behind all that records name.
  var nextFree: UInt64 = 2

  /// Why a store cannot be used.
  struct Refusal: Error {
    var code: Int32
    var explanation: [String]
    init(_ code: Int32, _ text: String) { (self.code, explanation) = (code, [text]) }
  }

  private static let pieceBytes = 1 << 20
  /// Sectors of a chunk where neither the table nor a header says.
  private static let defaultChunkSectors: UInt32 = 32

  /// Reads the store on `cow`, and calls `body` with each of its records, and the number of chunks of the
  /// device; makes one where there is none. The caller may have to wait.
  /// - Parameters:
  ///   - chunkSectors: of the table; 0 for what the header says, or the default.
  ///   - isUsable: whether chunks can have a size that the header names.
  init(
    on cow: any BlockDevice, chunkSectors: UInt32, logicalBlockBytes: Int,
    isUsable: (UInt32) -> Bool, warn: (String) -> Void,
    _ body: (_ record: ExceptionRecord, _ chunkCount: UInt64) -> Void
  ) throws(Refusal) {
    let wanted =
      chunkSectors > 0
      ? chunkSectors : max(Self.defaultChunkSectors, UInt32(clamping: logicalBlockBytes / 512))
    layout = ExceptionStoreLayout(chunkSectors: wanted)
    let header = try Self.readHeader(cow, layout)
    if header.magic == 0 {
      area = try Self.emptyArea(cow, layout)
      try make(on: cow)
      return
    }
    guard header.magic == ExceptionStoreHeader.magic else {
      warn("Invalid or corrupt snapshot")
      throw Refusal(
        ENXIO,
        "\(cow.path) holds something that is no exception store: zero its first 4 KiB to have one "
          + "made there"
      )
    }
    if header.chunkSectors != wanted {
      if chunkSectors > 0 {
        warn(
          "chunk size \(header.chunkSectors) in device metadata overrides table chunk size of "
            + "\(chunkSectors)."
        )
      }
      guard isUsable(header.chunkSectors) else {
        warn("invalid on-disk chunk size \(header.chunkSectors).")
        throw Refusal(
          EINVAL,
          "the exception store on \(cow.path) has chunks of \(header.chunkSectors) sectors: expected "
            + "a power of two, and a multiple of the logical blocks of both devices")
      }
      layout = ExceptionStoreLayout(chunkSectors: header.chunkSectors)
    }
    guard header.version == ExceptionStoreHeader.version else {
      warn("unable to handle snapshot disk version \(header.version)")
      throw Refusal(
        EINVAL,
        "the exception store on \(cow.path) has version \(header.version): expected "
          + "\(ExceptionStoreHeader.version)"
      )
    }
    area = try Self.emptyArea(cow, layout)
    isValid = header.valid != 0
    if isValid { try readRecords(cow, body) }
  }

  private static func emptyArea(_ cow: any BlockDevice, _ layout: ExceptionStoreLayout)
    throws(Refusal) -> AlignedBuffer
  {
    guard let area = AlignedBuffer(ifAvailable: Int(layout.chunkBytes)) else {
      throw Refusal(
        ENOMEM, "\(cow.path) has chunks of \(layout.chunkBytes) bytes: there is not so much memory")
    }
    return area
  }

  private static func failure(_ error: BlockIOError) -> Refusal {
    Refusal(error.code == 0 ? EIO : error.code, "\(error)")
  }

  private static func readHeader(_ cow: any BlockDevice, _ layout: ExceptionStoreLayout)
    throws(Refusal) -> ExceptionStoreHeader
  {
    guard cow.byteCount >= layout.chunkBytes else {
      throw Refusal(
        EIO,
        "\(cow.path) has \(cow.byteCount) bytes: not enough for a chunk of \(layout.chunkBytes)")
    }
    let buffer = AlignedBuffer(count: 4096)
    do throws(BlockIOError) {
      try unsafe cow.read(
        into: UnsafeMutableRawBufferPointer(
          rebasing: buffer.bytes[0..<Int(min(layout.chunkBytes, 4096))]), at: 0)
    } catch {
      throw failure(error)
    }
    return ExceptionStoreHeader(decoding: buffer.span)
  }

  /// Writes a header and an empty area.
  private func make(on cow: any BlockDevice) throws(Refusal) {
    let chunk = layout.chunkBytes
    guard cow.byteCount / chunk >= 2 else {
      throw Refusal(
        EIO,
        "\(cow.path) has \(cow.byteCount) bytes: not enough for an exception store with chunks of \(chunk)"
      )
    }
    let buffer = AlignedBuffer(holding: Int(min(2 * chunk, UInt64(Self.pieceBytes))))
    do throws(BlockIOError) {
      // The header comes last: until then there is no store.
      var at = 2 * chunk
      while at > 0 {
        let count = min(at, UInt64(Self.pieceBytes))
        at -= count
        if at == 0 {
          unsafe ExceptionStoreHeader(chunkSectors: layout.chunkSectors).encode(into: buffer.bytes)
        }
        try unsafe cow.write(
          UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<Int(count)]), at: at)
      }
      try cow.flush()
    } catch {
      throw Self.failure(error)
    }
  }

  // MARK: - Records

  private mutating func readRecords(
    _ cow: any BlockDevice, _ body: (ExceptionRecord, UInt64) -> Void
  )
    throws(Refusal)
  {
    let chunkCount = cow.byteCount / layout.chunkBytes
    var left = chunkCount
    while try readArea(
      cow,
      { (record) throws(Refusal) in
        // More would name chunks twice, and could be without end.
        guard left > 0 else {
          throw Refusal(
            EINVAL,
            "the exception store on \(cow.path) has more than \(chunkCount) records: expected at "
              + "most one for each of its chunks")
        }
        left -= 1
        body(record, chunkCount)
      })
    {
      areaIndex += 1
    }
    nextFree = layout.dataChunk(from: nextFree)
  }

  /// Reads the area `areaIndex`, as far as it has records; whether it is full.
  private mutating func readArea(
    _ cow: any BlockDevice, _ body: (ExceptionRecord) throws(Refusal) -> Void
  ) throws(Refusal) -> Bool {
    let start = layout.chunk(ofArea: areaIndex) &* layout.chunkBytes
    recordCount = 0
    var at: UInt64 = 0
    while at < layout.chunkBytes {
      let count = min(layout.chunkBytes - at, UInt64(Self.pieceBytes))
      do throws(BlockIOError) {
        try unsafe cow.read(
          into: UnsafeMutableRawBufferPointer(rebasing: area.bytes[Int(at)..<Int(at + count)]),
          at: start + at)
      } catch {
        throw Self.failure(error)
      }
      at += count
      while recordCount < at / UInt64(ExceptionRecord.byteCount) {
        let record = ExceptionRecord(
          decoding: area.span, at: Int(recordCount) * ExceptionRecord.byteCount)
        if record.newChunk == 0 {
          // What is behind it is of the area before.
          if areaIndex > 0 {
            unsafe UnsafeMutableRawBufferPointer(rebasing: area.bytes[Int(at)...])
              .initializeMemory(as: UInt8.self, repeating: 0)
          }
          return false
        }
        recordCount += 1
        if record.newChunk < UInt64.max { nextFree = max(nextFree, record.newChunk + 1) }
        try body(record)
      }
    }
    return true
  }
}
