import BlockIO
import DataPath
import Glibc
import Targets

/// Bytes on several files or devices, readable by any thread.
final class PiecedDevice: BlockDevice {
  private struct Piece {
    /// Its offset in this device, and its place.
    var start: UInt64
    var byteCount: UInt64
    var file: FileDevice
    var offset: UInt64
  }

  let path: String
  let byteCount: UInt64
  /// The descriptor of a single piece, on which reads may be queued.
  var descriptor: Int32? {
    pieces.count == 1 && pieces[0].offset == 0 ? pieces[0].file.descriptor : nil
  }
  private var pieces: [Piece] = []

  /// `byteCount` bytes in pieces, whose descriptors are duplicated; nil if the system has no
  /// descriptors left, or the pieces are smaller.
  init?(_ found: [DescriptorPiece], path: String, byteCount: UInt64) {
    self.path = path
    self.byteCount = byteCount
    var files: [Int32: FileDevice] = [:]
    var start: UInt64 = 0
    for piece in found {
      if files[piece.descriptor] == nil {
        let copy = fcntl(piece.descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { return nil }
        files[piece.descriptor] = FileDevice(adopting: copy, path: path, byteCount: byteCount)
      }
      guard let file = files[piece.descriptor] else { return nil }
      pieces.append(
        Piece(start: start, byteCount: piece.byteCount, file: file, offset: piece.offset))
      start += piece.byteCount
    }
    guard start == byteCount else { return nil }
  }

  /// The piece that contains a byte.
  private func piece(at offset: UInt64) -> Piece? {
    var (low, high) = (0, pieces.count)
    while low < high {
      let middle = (low + high) / 2
      if pieces[middle].start <= offset { low = middle + 1 } else { high = middle }
    }
    guard low > 0, offset < pieces[low - 1].start + pieces[low - 1].byteCount else { return nil }
    return pieces[low - 1]
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    var done = 0
    while done < buffer.count {
      let at = offset &+ UInt64(done)
      guard let piece = piece(at: at) else {
        throw BlockIOError(.read, path: path, offset: at, code: 0)
      }
      let within = at - piece.start
      let count = min(buffer.count - done, Int(clamping: piece.byteCount - within))
      try unsafe piece.file.read(
        into: UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count]),
        at: piece.offset + within)
      done += count
    }
  }

  /// Fails: the device is read-only.
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
  }

  /// Does nothing, because nothing was written; see `Flush`.
  func flush() throws(BlockIOError) {}
}
