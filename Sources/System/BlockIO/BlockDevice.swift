/// The interface between the engine and the storage. Called once per batch or block of 4 KiB, never
/// per entry. Buffers are 4096-byte aligned; offsets and counts are multiples of 512.
public protocol BlockDevice: AnyObject {
  /// The device's name in messages.
  var path: String { get }
  /// Size in bytes.
  var byteCount: UInt64 { get }
  /// The file descriptor, if reads may be queued on it; nil if only the calls below work.
  var descriptor: Int32? { get }
  /// Where byte 0 of the device is in what the descriptor reads.
  var descriptorOffset: UInt64 { get }
  /// Fills `buffer` from `offset` on.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Writes all of `buffer` at `offset`.
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Writes several pieces, ascending by offset, in any order; returns when all are written. After a failure
  /// any of them may be.
  func write(_ pieces: [BlockPiece]) throws(BlockIOError)
  /// Returns when everything written is durable; see `Flush`.
  func flush() throws(BlockIOError)
}

/// Bytes to be written.
@safe public struct BlockPiece {
  /// What is written.
  public let bytes: UnsafeRawBufferPointer
  /// Where.
  public let offset: UInt64

  /// A piece, whose bytes stay until it is written.
  public init(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) {
    unsafe self.bytes = bytes
    self.offset = offset
  }
}

extension BlockDevice {
  /// The descriptor reads the device from its start.
  public var descriptorOffset: UInt64 { 0 }

  /// Neighbours are written together up to this many bytes.
  private static var runBytesMax: Int { 256 << 10 }

  /// Writes one run of neighbours after the other, each by one call, and stops at the first that fails.
  public func write(_ pieces: [BlockPiece]) throws(BlockIOError) {
    var together: AlignedBuffer?
    var start = 0
    while start < pieces.count {
      var (end, count) = unsafe (start + 1, pieces[start].bytes.count)
      while end < pieces.count, unsafe count + pieces[end].bytes.count <= Self.runBytesMax,
        pieces[end].offset == pieces[start].offset + UInt64(count)
      {
        unsafe count += pieces[end].bytes.count
        end += 1
      }
      if end - start == 1 {
        try unsafe write(pieces[start].bytes, at: pieces[start].offset)
      } else {
        let buffer = together ?? AlignedBuffer(count: Self.runBytesMax)
        together = buffer
        var filled = 0
        for piece in pieces[start..<end] {
          unsafe buffer.bytes[filled..<(filled + piece.bytes.count)].copyBytes(from: piece.bytes)
          unsafe filled += piece.bytes.count
        }
        try unsafe write(
          UnsafeRawBufferPointer(rebasing: buffer.bytes[0..<filled]), at: pieces[start].offset)
      }
      start = end
    }
  }
}
