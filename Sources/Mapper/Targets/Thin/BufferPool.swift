import BlockIO
import DataPath

/// Buffers for blocks that are being prepared, as many as the budget of all pools allows; one at least.
final class BufferPool {
  private let bufferBytes: Int
  private let budget: MemoryBudget
  private var made = 0
  @safe @exclusivity(unchecked) private var free: [AlignedBuffer] = []

  init(bufferBytes: Int, _ budget: MemoryBudget) {
    self.bufferBytes = bufferBytes
    self.budget = budget
  }

  deinit { budget.give(made * bufferBytes) }

  /// A buffer with whatever is in it; nil while all are in use.
  func take() -> AlignedBuffer? {
    if let buffer = free.popLast() { return buffer }
    guard budget.take(bufferBytes, always: made == 0) else { return nil }
    made += 1
    return AlignedBuffer(count: bufferBytes)
  }

  func give(_ buffer: AlignedBuffer) { free.append(buffer) }

  /// Frees buffers that are not in use, but a few.
  func trim() {
    while free.count > 4 {
      _ = free.popLast()
      made -= 1
      budget.give(bufferBytes)
    }
  }
}
