/// Numbers of chunks by numbers of chunks: 16 bytes for each entry, in a table that is a third to three
/// quarters full, so 21 to 43 bytes for each.
///
/// Entries are found by linear probing. Eight neighbours have places next to each other, because most
/// requests look for neighbours.
@safe final class ExceptionTable {
  private typealias Entry = (key: UInt64, value: UInt64)
  /// The place of a chunk that is not on the COW device, though a record names it.
  static let nowhere = UInt64.max
  /// No chunk has this number: it would begin beyond 2^64 bytes.
  private static let none = UInt64.max
  private static let leastCapacity = 64

  @exclusivity(unchecked) private var entries: UnsafeMutablePointer<Entry>
  @safe @exclusivity(unchecked) private var mask: UInt64
  /// The number of entries.
  @safe @exclusivity(unchecked) private(set) var count = 0

  init() {
    mask = UInt64(Self.leastCapacity) - 1
    unsafe entries = Self.table(Self.leastCapacity)
  }

  deinit { unsafe entries.deallocate() }

  private static func table(_ capacity: Int) -> UnsafeMutablePointer<Entry> {
    let table = UnsafeMutablePointer<Entry>.allocate(capacity: capacity)
    unsafe table.initialize(repeating: (none, 0), count: capacity)
    return unsafe table
  }

  /// Bytes of memory.
  var bytes: Int { (Int(mask) + 1) * MemoryLayout<Entry>.stride }

  @inline(__always) private func home(_ key: UInt64) -> UInt64 {
    let group = (key >> 3) &* 0x9E37_79B9_7F4A_7C15
    return ((group >> 20) << 3 | key & 7) & mask
  }

  /// Where the entry of `key` is, or the free place where it would be.
  @inline(__always) private func place(_ key: UInt64) -> Int {
    var at = home(key)
    while unsafe entries[Int(at)].key != key && entries[Int(at)].key != Self.none {
      at = (at &+ 1) & mask
    }
    return Int(at)
  }

  /// The value of `key`, if it has one.
  func find(_ key: UInt64) -> UInt64? {
    let entry = unsafe entries[place(key)]
    return entry.key == key && key != Self.none ? entry.value : nil
  }

  /// Gives `key` a value. The largest key is left out.
  func set(_ key: UInt64, _ value: UInt64) {
    guard key != Self.none else { return }
    let at = place(key)
    if unsafe entries[at].key == key {
      unsafe entries[at].value = value
      return
    }
    unsafe entries[at] = (key, value)
    count += 1
    if count * 4 > (Int(mask) + 1) * 3 { grow() }
  }

  private func grow() {
    let (old, capacity) = unsafe (entries, Int(mask) + 1)
    unsafe entries = Self.table(2 * capacity)
    mask = UInt64(2 * capacity) - 1
    for i in 0..<capacity where unsafe old[i].key != Self.none {
      unsafe entries[place(old[i].key)] = old[i]
    }
    unsafe old.deallocate()
  }

  /// Removes the entry of `key`, if there is one. Those behind it move up, so that they are still found.
  func remove(_ key: UInt64) {
    var hole = place(key)
    guard unsafe entries[hole].key == key, key != Self.none else { return }
    count -= 1
    var at = hole
    while true {
      at = Int((UInt64(at) &+ 1) & mask)
      let entry = unsafe entries[at]
      if entry.key == Self.none { break }
      // It may move to the hole unless its home lies behind that.
      let (fromHome, fromHole) = (
        (UInt64(at) &- home(entry.key)) & mask, UInt64(truncatingIfNeeded: at &- hole) & mask
      )
      if fromHome >= fromHole {
        unsafe entries[hole] = entry
        hole = at
      }
    }
    unsafe entries[hole] = (Self.none, 0)
  }
}
