/// A hash table of counts of three and more by block, with open addressing and linear probing.
///
/// Invariants: `slotCount` is a power of two and at least a quarter larger than `used`. `emptyKey`,
/// which is no block number, marks an empty slot.
@safe struct OverflowTable: ~Copyable {
  private var keys: UnsafeMutablePointer<UInt64>
  private var counts: UnsafeMutablePointer<UInt32>
  private var slotCount: Int
  private var used = 0
  private static var emptyKey: UInt64 { .max }

  init() {
    slotCount = 64
    unsafe (keys, counts) = Self.slots(slotCount)
  }

  deinit {
    unsafe keys.deallocate()
    unsafe counts.deallocate()
  }

  private static func slots(_ count: Int) -> (
    UnsafeMutablePointer<UInt64>, UnsafeMutablePointer<UInt32>
  ) {
    let keys = UnsafeMutablePointer<UInt64>.allocate(capacity: count)
    unsafe keys.initialize(repeating: emptyKey, count: count)
    let counts = UnsafeMutablePointer<UInt32>.allocate(capacity: count)
    unsafe counts.initialize(repeating: 0, count: count)
    return unsafe (keys, counts)
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
    while unsafe keys[at] != block && keys[at] != Self.emptyKey { at = (at + 1) & (slotCount - 1) }
    return at
  }

  func count(of block: UInt64) -> UInt32 { unsafe counts[slot(of: block)] }

  mutating func insert(_ block: UInt64, count: UInt32) {
    if used + used / 4 >= slotCount { grow() }
    let at = slot(of: block)
    if unsafe keys[at] != block {
      unsafe keys[at] = block
      used += 1
    }
    unsafe counts[at] = count
  }

  /// Adds one. Returns the count before.
  /// - Precondition: `block` is in the table.
  mutating func increment(_ block: UInt64) -> UInt32 {
    let at = slot(of: block)
    let old = unsafe counts[at]
    if old != .max { unsafe counts[at] = old + 1 }
    return old
  }

  mutating func remove(_ block: UInt64) {
    var hole = slot(of: block)
    guard unsafe keys[hole] == block else { return }
    used -= 1
    // Moves up entries that could not be found across the hole.
    var at = hole
    while true {
      at = (at + 1) & (slotCount - 1)
      if unsafe keys[at] == Self.emptyKey { break }
      let distance = unsafe (at - home(keys[at])) & (slotCount - 1)
      if distance >= (at - hole) & (slotCount - 1) {
        unsafe keys[hole] = keys[at]
        unsafe counts[hole] = counts[at]
        hole = at
      }
    }
    unsafe keys[hole] = Self.emptyKey
    unsafe counts[hole] = 0
  }

  private mutating func grow() {
    let (oldKeys, oldCounts, oldSlots) = unsafe (keys, counts, slotCount)
    slotCount *= 2
    unsafe (keys, counts) = Self.slots(slotCount)
    for i in 0..<oldSlots where unsafe oldKeys[i] != Self.emptyKey {
      let at = unsafe slot(of: oldKeys[i])
      unsafe keys[at] = oldKeys[i]
      unsafe counts[at] = oldCounts[i]
    }
    unsafe oldKeys.deallocate()
    unsafe oldCounts.deallocate()
  }
}
