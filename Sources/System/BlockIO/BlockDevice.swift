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

  /// Writes one piece after the other, and stops at the first that fails.
  public func write(_ pieces: [BlockPiece]) throws(BlockIOError) {
    for piece in pieces { try unsafe write(piece.bytes, at: piece.offset) }
  }
}
