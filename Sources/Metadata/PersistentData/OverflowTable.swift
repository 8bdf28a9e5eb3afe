/// A hash table of counts of three and more by block, with open addressing and linear probing.
///
/// Invariants: `slotCount` is a power of two and at least a quarter larger than `used`. `emptyKey`,
/// which is no block number, marks an empty slot.
struct OverflowTable: ~Copyable {
  private var keys: UnsafeMutablePointer<UInt64>
  private var counts: UnsafeMutablePointer<UInt32>
  private var slotCount: Int
  private var used = 0
  private static var emptyKey: UInt64 { .max }

  init() {
    slotCount = 64
    (keys, counts) = Self.slots(slotCount)
  }

  deinit {
    keys.deallocate()
    counts.deallocate()
  }

  private static func slots(_ count: Int) -> (
    UnsafeMutablePointer<UInt64>, UnsafeMutablePointer<UInt32>
  ) {
    let keys = UnsafeMutablePointer<UInt64>.allocate(capacity: count)
    keys.initialize(repeating: emptyKey, count: count)
    let counts = UnsafeMutablePointer<UInt32>.allocate(capacity: count)
    counts.initialize(repeating: 0, count: count)
    return (keys, counts)
  }

  @inline(__always)
  private func home(_ block: UInt64) -> Int {
    // Multiplicative hashing; the upper bits are the well-mixed ones.
    Int(truncatingIfNeeded: (block &* 0x9E37_79B9_7F4A_7C15) >> 24) & (slotCount - 1)
  }

  /// The slot of `block`, or the empty slot for it.
  @inline(__always)
  private func slot(of block: UInt64) -> Int {
    var at = home(block)
    while keys[at] != block && keys[at] != Self.emptyKey { at = (at + 1) & (slotCount - 1) }
    return at
  }

  func count(of block: UInt64) -> UInt32 { counts[slot(of: block)] }

  mutating func insert(_ block: UInt64, count: UInt32) {
    if used + used / 4 >= slotCount { grow() }
    let at = slot(of: block)
    if keys[at] != block {
      keys[at] = block
      used += 1
    }
    counts[at] = count
  }

  /// Adds one. Returns the count before.
  /// - Precondition: `block` is in the table.
  mutating func increment(_ block: UInt64) -> UInt32 {
    let at = slot(of: block)
    let old = counts[at]
    if old != .max { counts[at] = old + 1 }
    return old
  }

  mutating func remove(_ block: UInt64) {
    var hole = slot(of: block)
    guard keys[hole] == block else { return }
    used -= 1
    // Moves up entries that could not be found across the hole.
    var at = hole
    while true {
      at = (at + 1) & (slotCount - 1)
      if keys[at] == Self.emptyKey { break }
      let distance = (at - home(keys[at])) & (slotCount - 1)
      if distance >= (at - hole) & (slotCount - 1) {
        keys[hole] = keys[at]
        counts[hole] = counts[at]
        hole = at
      }
    }
    keys[hole] = Self.emptyKey
    counts[hole] = 0
  }

  private mutating func grow() {
    let (oldKeys, oldCounts, oldSlots) = (keys, counts, slotCount)
    slotCount *= 2
    (keys, counts) = Self.slots(slotCount)
    for i in 0..<oldSlots where oldKeys[i] != Self.emptyKey {
      let at = slot(of: oldKeys[i])
      keys[at] = oldKeys[i]
      counts[at] = oldCounts[i]
    }
    oldKeys.deallocate()
    oldCounts.deallocate()
  }
}
