import BlockIO

/// Buffers for blocks that are being prepared, so many bytes of them at most; one at least.
final class BufferPool {
  private let bufferBytes: Int
  private let countMax: Int
  private var made = 0
  private var free: [AlignedBuffer] = []

  init(bufferBytes: Int, bytesMax: Int) {
    self.bufferBytes = bufferBytes
    countMax = max(1, bytesMax / bufferBytes)
  }

  /// A buffer with whatever is in it; nil while all are in use.
  func take() -> AlignedBuffer? {
    if let buffer = free.popLast() { return buffer }
    guard made < countMax else { return nil }
    made += 1
    return AlignedBuffer(count: bufferBytes)
  }

  func give(_ buffer: AlignedBuffer) { free.append(buffer) }
}
