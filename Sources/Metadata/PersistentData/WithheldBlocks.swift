/// Blocks that must not be allocated, in memory, as a set in words of 64 blocks. For each block it
/// records whether its count is 0, so that the block would be free otherwise.
struct WithheldBlocks {
  private struct Word {
    var members: UInt64 = 0
    var free: UInt64 = 0
  }

  private var words: [UInt64: Word] = [:]
  /// The number of blocks that would be free otherwise.
  private(set) var freeCount = 0

  var isEmpty: Bool { words.isEmpty }

  func contains(_ block: UInt64) -> Bool {
    guard !words.isEmpty, let word = words[block / 64] else { return false }
    return word.members & mask(block) != 0
  }

  /// Adds a block, or updates whether it is free.
  mutating func insert(_ block: UInt64, isFree: Bool) {
    let mask = mask(block)
    var word = words[block / 64] ?? Word()
    if word.free & mask != 0 { freeCount -= 1 }
    word.members |= mask
    word.free = isFree ? word.free | mask : word.free & ~mask
    if isFree { freeCount += 1 }
    words[block / 64] = word
  }

  mutating func remove(_ block: UInt64) {
    let mask = mask(block)
    guard var word = words[block / 64] else { return }
    if word.free & mask != 0 { freeCount -= 1 }
    word.members &= ~mask
    word.free &= ~mask
    words[block / 64] = word.members == 0 ? nil : word
  }

  /// Resets all blocks to not free, because the counts went back to the last commit, in which they
  /// are unknown.
  mutating func noneIsFree() {
    for key in words.keys { words[key]?.free = 0 }
    freeCount = 0
  }

  private func mask(_ block: UInt64) -> UInt64 { 1 << (block % 64) }
}
