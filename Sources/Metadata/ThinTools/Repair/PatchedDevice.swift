import BlockIO
import Glibc
import ThinFormat

/// A device some of whose blocks read as leaves that were made for them. It is never written to.
///
/// Memory: a block for each leaf.
final class PatchedDevice: BlockDevice {
  private let base: any BlockDevice
  private var blocks: [UInt64: [UInt8]] = [:]
  var path: String { base.path }
  var byteCount: UInt64 { base.byteCount }
  /// Reads cannot be queued past the leaves.
  var descriptor: Int32? { nil }

  init(_ base: any BlockDevice, _ leaves: [EarlierMappings.Leaf]) {
    self.base = base
    for leaf in leaves {
      var bytes = [UInt8](repeating: 0, count: Limits.blockBytes)
      unsafe bytes.withUnsafeMutableBytes { unsafe leaf.encode(into: $0) }
      blocks[leaf.block] = bytes
    }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    let size = UInt64(Limits.blockBytes)
    if buffer.count == Limits.blockBytes, offset % size == 0, let block = blocks[offset / size] {
      // The device may not be able to read it at all.
      return unsafe block.withUnsafeBytes { unsafe buffer.copyMemory(from: $0) }
    }
    try unsafe base.read(into: buffer, at: offset)
    var at = offset / size
    while at * size < offset + UInt64(buffer.count) {
      defer { at += 1 }
      guard let block = blocks[at] else { continue }
      unsafe block.withUnsafeBytes { bytes in
        let from = max(offset, at * size)
        let end = min(offset + UInt64(buffer.count), (at + 1) * size)
        unsafe UnsafeMutableRawBufferPointer(
          rebasing: buffer[Int(from - offset)..<Int(end - offset)]
        ).copyMemory(
          from: UnsafeRawBufferPointer(
            rebasing: bytes[Int(from - at * size)..<Int(end - at * size)])
        )
      }
    }
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
  }

  func flush() {}
}
