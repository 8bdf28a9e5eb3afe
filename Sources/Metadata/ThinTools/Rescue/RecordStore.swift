import BlockIO

/// Records of a fixed size, appended one after the other and read in any order. Beyond a bound they are kept
/// in a temporary file without a name.
///
/// Memory: the bound, and 256 KiB for parts of the file.
final class RecordStore<Record: BitwiseCopyable> {
  private static var stride: Int { MemoryLayout<Record>.stride }
  /// Records read from the file at a time.
  private static var pageRecords: UInt64 { UInt64(max(1, 4096 / stride)) }
  private static var pagesMax: UInt64 { 64 }

  private let recordsMax: Int
  /// The records after those in the file.
  private var records: [Record] = []
  private var file: OpenFile?
  private var storedCount: UInt64 = 0
  private var pages: [(number: UInt64, records: [Record])]
  private let buffer = AlignedBuffer(count: 4096)

  /// An empty store that keeps about `bytesMax` bytes in memory.
  init(bytesMax: Int) {
    recordsMax = max(1, bytesMax / Self.stride)
    pages = Array(repeating: (.max, []), count: Int(Self.pagesMax))
  }

  deinit { file?.close() }

  /// The number of records.
  var count: UInt64 { storedCount + UInt64(records.count) }
  /// Whether some of them are in a file.
  var isSpilled: Bool { file != nil }

  /// Adds a record.
  func append(_ record: Record) throws(BlockIOError) {
    if records.count >= recordsMax { try spill() }
    records.append(record)
  }

  private func spill() throws(BlockIOError) {
    let file: OpenFile
    if let old = self.file { file = old } else { file = try TemporarySpace.open() }
    self.file = file
    let result = unsafe records.withUnsafeBytes { bytes in
      Result<Void, BlockIOError> { () throws(BlockIOError) in
        try unsafe file.write(bytes, at: storedCount * UInt64(Self.stride))
      }
    }
    do throws(BlockIOError) { try result.get() } catch { throw TemporarySpace.full(error) }
    storedCount += UInt64(records.count)
    records.removeAll(keepingCapacity: true)
  }

  /// The record of a number below `count`.
  func record(_ number: UInt64) throws(BlockIOError) -> Record {
    precondition(number < count, "no such record")
    guard number < storedCount else { return records[Int(number - storedCount)] }
    let page = number / Self.pageRecords
    let slot = Int(page % Self.pagesMax)
    if pages[slot].number != page { try load(page, slot) }
    return pages[slot].records[Int(number % Self.pageRecords)]
  }

  private func load(_ page: UInt64, _ slot: Int) throws(BlockIOError) {
    guard let file else { return }
    let first = page * Self.pageRecords
    let count = Int(min(Self.pageRecords, storedCount - first))
    let bytes = unsafe UnsafeMutableRawBufferPointer(
      rebasing: buffer.bytes[..<(count * Self.stride)])
    // What is there of the old page must not pass for the new one if reading fails.
    pages[slot].number = .max
    try unsafe file.read(into: bytes, at: first * UInt64(Self.stride))
    pages[slot] = (
      page,
      (0..<count).map {
        unsafe bytes.loadUnaligned(fromByteOffset: $0 * Self.stride, as: Record.self)
      }
    )
  }
}
