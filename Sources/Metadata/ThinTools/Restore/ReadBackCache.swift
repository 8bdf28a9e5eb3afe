import BlockIO
import PersistentData
import ThinFormat

/// Reads back nodes written by this restore, and caches some. Devices that differ near the same def
/// split up the same nodes, one device after the other.
///
/// Memory: one megabyte. A written node never changes, so that no entry becomes invalid.
final class ReadBackCache {
  private static let slotCount = 256

  private let writer: SequentialBlockWriter
  private let buffer = AlignedBuffer(count: slotCount * Limits.blockBytes)
  /// The block in each slot, 0 for none.
  private var blocks = [UInt64](repeating: 0, count: slotCount)

  init(_ writer: SequentialBlockWriter) { self.writer = writer }

  /// The bytes of a block, until the next call.
  func bytes(of block: UInt64) throws(BlockWriteError) -> UnsafeRawBufferPointer {
    let index = Int(block % UInt64(Self.slotCount))
    let start = index * Limits.blockBytes
    let slot = unsafe UnsafeMutableRawBufferPointer(
      rebasing: buffer.bytes[start..<(start + Limits.blockBytes)])
    if blocks[index] != block {
      blocks[index] = 0
      try unsafe writer.read(block, into: slot)
      blocks[index] = block
    }
    return UnsafeRawBufferPointer(slot)
  }
}
