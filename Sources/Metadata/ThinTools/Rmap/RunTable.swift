import ThinFormat

/// A run of one leaf: data blocks that follow each other, of virtual blocks that do.
struct LeafRun {
  var data: UInt64
  var virtual: UInt64
  /// At most the entries of a leaf.
  var length: UInt64
  /// The set of devices that have the leaf.
  var owners: UInt32

  func isOfSameBlocks(as other: LeafRun) -> Bool {
    data == other.data && virtual == other.virtual && length == other.length
  }
}

/// Puts runs in the order of their data blocks.
///
/// Runs are counted by ranges of data blocks (`count`), and kept while there is room. Where all were kept,
/// they are put in order here. Otherwise the counts tell how many ranges fit at a time (`windows`), and the
/// runs of each window are passed on once more, each straight to its range.
///
/// Memory: 16 bytes for each of `runsMax` runs, and 4 MiB for the counts.
struct RunTable: ~Copyable {
  /// A run in 16 bytes.
  private struct Packed {
    static let ownersMax: UInt64 = 1 << 24 - 1
    static let virtualMax: UInt64 = 1 << 56 - 1
    static let lengthMax: UInt64 = 1 << 8 - 1
    /// In place of the owners: the run does not fit, and its other half is its number in `wide`.
    static let isWide = ownersMax

    /// The data block in the upper 40 bits, the set of owners below.
    var place: UInt64 = 0
    /// The virtual block in the upper 56 bits, the length below.
    var target: UInt64 = 0

    func isBefore(_ other: Packed) -> Bool {
      (place >> 24, target) < (other.place >> 24, other.target)
    }
  }

  private static let rangesMax: UInt64 = 1 << 20
  private let runsMax: Int
  /// A range is of `1 << shift` data blocks.
  private let shift: UInt64
  /// The runs that begin in each range; while they are put in order, where the next one goes.
  private var counts: [UInt32]
  private var runs: [Packed] = []
  /// Runs that do not fit in 16 bytes: no pool of the kernel's has one.
  private var wide: [LeafRun] = []
  private var isComplete = true

  /// A table of runs of a device with `dataBlockCount` data blocks, which keeps up to `runsMax` at once, at
  /// least two.
  init(dataBlockCount: UInt64, runsMax: Int) {
    self.runsMax = max(2, runsMax)
    var shift: UInt64 = 0
    while dataBlockCount >> shift >= Self.rangesMax { shift += 1 }
    self.shift = shift
    counts = Array(repeating: 0, count: Int(dataBlockCount >> shift) + 1)
    runs.reserveCapacity(self.runsMax / 2)
  }

  // MARK: - Counting

  /// Counts a run, and keeps it while less than half of the room is used.
  /// - Precondition: it lies within the data device.
  @inline(__always)
  mutating func count(_ run: LeafRun) {
    counts[Int(run.data >> shift)] += 1
    if runs.count < runsMax / 2 { runs.append(packed(run)) } else { isComplete = false }
  }

  /// The windows of `all` whose runs fit in memory at once; one if all runs were kept.
  mutating func windows(of all: Range<UInt64>) -> [Range<UInt64>] {
    guard !isComplete else { return [all] }
    runs = []
    wide = []
    var windows: [Range<UInt64>] = []
    var (begin, sum) = (all.lowerBound, 0)
    for (range, count) in counts.enumerated() {
      if sum + Int(count) > runsMax, sum > 0 {
        let end = UInt64(range) << shift
        windows.append(begin..<end)
        (begin, sum) = (end, 0)
      }
      sum += Int(count)
    }
    return windows + [begin..<max(begin, all.upperBound)]
  }

  // MARK: - Order

  /// Calls `body` with the runs that begin in `window`, ordered by data block, virtual block and length.
  ///
  /// Each window is asked for once.
  /// - Parameter read: passes on each of these runs; not called if all runs were kept.
  /// - Throws: `changed` if there are others than were counted.
  mutating func forEach<E: Error>(
    in window: Range<UInt64>, changed: @autoclosure () -> E,
    read: ((LeafRun) -> Void) throws(E) -> Void, _ body: (LeafRun) throws(E) -> Void
  ) throws(E) {
    guard !window.isEmpty else { return }
    let ranges = Int(window.lowerBound >> shift)...Int((window.upperBound - 1) >> shift)
    var total: UInt32 = 0
    for range in ranges {
      let count = counts[range]
      counts[range] = total
      total += count
    }
    // What is not needed is gone before as much is taken again.
    let kept = isComplete ? runs : []
    runs = []
    runs = Array(repeating: Packed(), count: Int(total))
    var left = Int(total)
    if isComplete {
      for run in kept { put(run, &left) }
    } else {
      wide = []
      try read { run in put(packed(run), &left) }
    }
    guard left == 0 else { throw changed() }
    var first = 0
    for range in ranges {
      let end = max(first, Int(counts[range]))
      order(first, end)
      for i in first..<end { try body(unpacked(runs[i])) }
      first = end
    }
  }

  /// Puts a run in the next place of its range; `left` falls below zero if there is none.
  @inline(__always)
  private mutating func put(_ run: Packed, _ left: inout Int) {
    left -= 1
    let range = Int((run.place >> 24) >> shift)
    let place = Int(counts[range])
    guard place < runs.count else { return }
    runs[place] = run
    counts[range] += 1
  }

  /// Orders the runs of one range, which are few.
  private mutating func order(_ first: Int, _ end: Int) {
    if end - first > 32 { return runs[first..<end].sort { $0.isBefore($1) } }
    var i = first + 1
    while i < end {
      let run = runs[i]
      var place = i
      while place > first, run.isBefore(runs[place - 1]) {
        runs[place] = runs[place - 1]
        place -= 1
      }
      runs[place] = run
      i += 1
    }
  }

  @inline(__always)
  private mutating func packed(_ run: LeafRun) -> Packed {
    if UInt64(run.owners) < Packed.ownersMax, run.virtual <= Packed.virtualMax,
      run.length <= Packed.lengthMax
    {
      return Packed(
        place: run.data << 24 | UInt64(run.owners), target: run.virtual << 8 | run.length)
    }
    wide.append(run)
    return Packed(place: run.data << 24 | Packed.isWide, target: UInt64(wide.count - 1))
  }

  @inline(__always)
  private func unpacked(_ run: Packed) -> LeafRun {
    let owners = run.place & Packed.ownersMax
    if owners == Packed.isWide { return wide[Int(run.target)] }
    return LeafRun(
      data: run.place >> 24, virtual: run.target >> 8, length: run.target & Packed.lengthMax,
      owners: UInt32(owners))
  }
}
