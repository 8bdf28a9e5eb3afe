/// The interface between the engine and the storage. Called once per batch or block of 4 KiB, never
/// per entry. Buffers are 4096-byte aligned; offsets and counts are multiples of 512.
public protocol BlockDevice: AnyObject {
  /// The device's name in messages.
  var path: String { get }
  /// Size in bytes.
  var byteCount: UInt64 { get }
  /// The file descriptor, if reads may be queued on it; nil if only the calls below work.
  var descriptor: Int32? { get }
  /// Fills `buffer` from `offset` on.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Writes all of `buffer` at `offset`.
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Returns once everything written is durable.
  func flush() throws(BlockIOError)
}
