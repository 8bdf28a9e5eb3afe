import PersistentData

/// Finds runs of leaves that always occur together, and those that occur more than once: the
/// `<def>`s of a dump. Devices are added leaf by leaf in order. The result equals that of the
/// original tools, so the rules are theirs:
///
/// - a run ends if different leaves follow it in different devices, or if the next leaf begins a
///   run;
/// - a run begins at the start of a device, at a leaf with different predecessors, and after the
///   end of a run;
/// - a run is shared if its first leaf was found twice to begin a run, or the step into it was
///   taken twice.
///
/// Memory: eight bytes per metadata block that is a leaf, and some for every place at which devices
/// diverge.
struct SharedRuns: ~Copyable {
  private let blockCount: UInt64
  /// The block number of the first predecessor and successor of a leaf; 0 for none, because block 0
  /// is the superblock.
  private let before: ZeroedArray<UInt32>
  private let after: ZeroedArray<UInt32>
  private var heads: Bitset
  private var tails: Bitset
  private var shared: Bitset
  private var leaves: Bitset
  /// The successors after the first, of leaves that have more than one.
  private var otherSuccessors: [UInt32: [UInt32]] = [:]
  private var previous: UInt64?

  init(blockCount: UInt64) {
    self.blockCount = blockCount
    before = ZeroedArray(count: Int(blockCount))
    after = ZeroedArray(count: Int(blockCount))
    heads = Bitset(limit: blockCount)
    tails = Bitset(limit: blockCount)
    shared = Bitset(limit: blockCount)
    leaves = Bitset(limit: blockCount)
  }

  private mutating func markHead(_ leaf: UInt64) {
    if !heads.insert(leaf) { shared.insert(leaf) }
  }

  /// Ends the current device.
  mutating func endSequence() {
    if let last = previous { tails.insert(last) }
    previous = nil
  }

  /// The next leaf of the current device.
  mutating func add(_ leaf: UInt64) {
    leaves.insert(leaf)
    if let last = previous {
      if !addStep(from: last, to: leaf) { shared.insert(leaf) }
      let known = before[Int(leaf)]
      if known == 0 {
        before[Int(leaf)] = UInt32(last)
      } else if UInt64(known) != last {
        markHead(leaf)
      }
    } else {
      markHead(leaf)
    }
    previous = leaf
  }

  /// Records a step. Returns whether it is new.
  private mutating func addStep(from: UInt64, to: UInt64) -> Bool {
    let first = after[Int(from)]
    if first == 0 {
      after[Int(from)] = UInt32(to)
      return true
    }
    if UInt64(first) == to { return false }
    let others = otherSuccessors[UInt32(from), default: []]
    if others.contains(UInt32(to)) { return false }
    otherSuccessors[UInt32(from)] = others + [UInt32(to)]
    return true
  }

  /// Determines where runs begin and end. Call once, after the last device.
  mutating func complete() {
    endSequence()
    var from: UInt64 = 0
    var newTails: [UInt64] = []
    while let leaf = leaves.first(from: from) {
      from = leaf + 1
      let next = UInt64(after[Int(leaf)])
      let many = otherSuccessors[UInt32(leaf)]
      // Only the smallest successor counts; a leaf with several is a tail anyway.
      if next == 0 || many != nil || heads.contains(next) { newTails.append(leaf) }
    }
    for leaf in newTails { tails.insert(leaf) }
    from = 0
    while let leaf = tails.first(from: from) {
      from = leaf + 1
      let next = UInt64(after[Int(leaf)])
      if next != 0 { markHead(next) }
      for other in otherSuccessors[UInt32(leaf)] ?? [] { markHead(UInt64(other)) }
    }
  }

  /// Whether `leaf` begins a run that occurs more than once.
  func isSharedHead(_ leaf: UInt64) -> Bool { heads.contains(leaf) && shared.contains(leaf) }

  /// The next shared head at or after block `from`.
  func firstSharedHead(from: UInt64) -> UInt64? {
    var from = from
    while let head = heads.first(from: from) {
      if shared.contains(head) { return head }
      from = head + 1
    }
    return nil
  }

  /// Calls `body` with the leaves of the run that begins at `head`.
  func forEachLeaf<E: Error>(ofRun head: UInt64, _ body: (UInt64) throws(E) -> Void) throws(E) {
    var leaf = head
    var left = blockCount
    while left > 0 {
      try body(leaf)
      if tails.contains(leaf) { return }
      leaf = UInt64(after[Int(leaf)])
      left -= 1
    }
  }

  /// Whether `leaf` ends a run.
  func isTail(_ leaf: UInt64) -> Bool { tails.contains(leaf) }
}
