import DataPath
import Glibc

/// What is known of the mappings of one thin device, so that a mapped block costs no walk through
/// trees. Direct-mapped: a block has one place, and the last one that came keeps it.
///
/// Invariant: an entry is there only while nothing waits on its block, so that code that finds one
/// needs to ask no further.
/// Memory: 16 bytes an entry, 65,536 of them at most (1 MiB), of which untouched pages cost nothing. No cache
/// gets more than an eighth of what the budget of all has left, but for the smallest, of 64.
@safe struct MappingCache: ~Copyable {
  private struct Entry {
    /// The virtual block plus one; 0 for none.
    var key: UInt64
    var value: UInt64
  }

  private static let entriesMax: UInt64 = 65_536

  private let entries: UnsafeMutablePointer<Entry>?
  private let mask: UInt64
  private let budget: MemoryBudget
  private let bytes: Int

  /// Room for a device of `blockCount` blocks, or for as many as there may be.
  init(blockCount: UInt64, _ budget: MemoryBudget) {
    let most = UInt64(clamping: budget.left / 8 / MemoryLayout<Entry>.stride)
    var count: UInt64 = 64
    while count < min(blockCount, Self.entriesMax), 2 * count <= most { count *= 2 }
    self.budget = budget
    bytes = Int(count) * MemoryLayout<Entry>.stride
    _ = budget.take(bytes, always: true)
    let memory = unsafe calloc(Int(count), MemoryLayout<Entry>.stride)
    unsafe entries = memory?.bindMemory(to: Entry.self, capacity: Int(count))
    // Without memory there is nothing to find, and nothing is kept.
    mask = unsafe entries == nil ? 0 : count - 1
  }

  deinit {
    unsafe free(entries)
    budget.give(bytes)
  }

  /// What is known of a block; nil where nothing is.
  func find(_ block: UInt64) -> BlockState? {
    guard let entries = unsafe entries else { return nil }
    let entry = unsafe entries[Int(truncatingIfNeeded: block & mask)]
    return entry.key == block &+ 1 ? BlockState(rawValue: entry.value) : nil
  }

  func set(_ block: UInt64, _ state: BlockState) {
    guard let entries = unsafe entries else { return }
    unsafe entries[Int(truncatingIfNeeded: block & mask)] = Entry(
      key: block &+ 1, value: state.rawValue)
  }

  func forget(_ block: UInt64) {
    guard let entries = unsafe entries else { return }
    let index = Int(truncatingIfNeeded: block & mask)
    if unsafe entries[index].key == block &+ 1 { unsafe entries[index] = Entry(key: 0, value: 0) }
  }

  func forget(_ blocks: Range<UInt64>) {
    if UInt64(blocks.count) > mask {
      forgetAll()
    } else {
      for block in blocks { forget(block) }
    }
  }

  func forgetAll() {
    guard let entries = unsafe entries else { return }
    unsafe memset(entries, 0, Int(mask + 1) * MemoryLayout<Entry>.stride)
  }
}

/// Where a virtual block is, in one word.
struct BlockState: Equatable {
  let rawValue: UInt64

  /// Nowhere.
  static var unmapped: BlockState { BlockState(rawValue: .max) }

  init(rawValue: UInt64) { self.rawValue = rawValue }

  /// - Precondition: `dataBlock` is below 2^40.
  init(dataBlock: UInt64, isShared: Bool) { rawValue = dataBlock << 1 | (isShared ? 1 : 0) }

  var isMapped: Bool { rawValue != .max }
  /// Whether another device may have the data block.
  var isShared: Bool { rawValue & 1 != 0 }
  var dataBlock: UInt64 { rawValue >> 1 }
}
