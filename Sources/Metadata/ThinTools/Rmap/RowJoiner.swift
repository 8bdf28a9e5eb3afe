import BlockIO
import ThinFormat

/// Joins runs, which come in the order of their data blocks, to the longest rows for each device.
///
/// Devices that share a leaf have the same run of it, and nearly always the same row: they are one group. A
/// group whose devices go on differently gets an end for each of them.
///
/// Memory: 48 bytes for each group that may still grow, or waits for such a group before it, and four for
/// each of its devices, twelve where they end differently.
struct RowJoiner: ~Copyable {
  /// Devices with rows of the same begin.
  private struct Group {
    var data: UInt64
    var virtual: UInt64
    /// One above the last data block, where that is the same for all.
    var end: UInt64
    /// Where the devices are in `members`.
    var first: Int
    var count: UInt32
    /// Where the ends of the devices are in `ends`; nil where it is the same for all.
    var firstEnd: Int?
  }

  /// Where a device's last row is.
  private struct Place {
    /// The group, counted from the first of all; below zero for none.
    var group = -1
    /// Its number in the group.
    var member = 0
  }

  private static let handOnEvery = 4096
  private let ids: [ThinID]
  private let sets: OwnerSets
  private var groups: [Group] = []
  /// Groups in `groups` that were passed on, and groups that were removed from it.
  private var done = 0
  private var gone = 0
  private var members: [UInt32] = []
  private var ends: [UInt64] = []
  /// The last row of each device, as far as `placed` groups tell.
  private var last: [Place]
  private var placed = 0
  /// The highest end of a row, and the virtual block there if it is the same in all rows that end there.
  private var endMax: UInt64 = 0
  private var virtualAtEndMax: UInt64?

  private var rows: [Row] = []
  private var same: [ThinID] = []
  /// The run added last, and all devices that have one of the same blocks.
  private var pending: LeafRun?
  private var owners: [UInt32] = []
  private var isMixed = false
  private var untilHandOn = handOnEvery

  /// One row of one device.
  private struct Row {
    var end: UInt64
    var member: UInt32
    var virtual: UInt64
  }

  /// A joiner for devices with these ids, in ascending order, and for runs whose `owners` are of `sets`.
  init(ids: [ThinID], sets: OwnerSets) {
    self.ids = ids
    self.sets = sets
    last = Array(repeating: Place(), count: ids.count)
  }

  /// Adds a run: of no smaller data block than all before it, and next to those of the same blocks.
  ///
  /// `body` gets rows that no later run can extend, ordered by begin, end and device. Devices that follow
  /// each other and whose rows are the same come in one call.
  mutating func add(
    _ run: LeafRun, _ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    if let pending, pending.isOfSameBlocks(as: run) {
      sets.forEach(run.owners) { owners.append($0) }
      isMixed = true
      return
    }
    let before = pending
    addPending()
    pending = run
    if isMixed || before?.owners != run.owners {
      owners.removeAll(keepingCapacity: true)
      sets.forEach(run.owners) { owners.append($0) }
      owners.reverse()
      isMixed = false
    }
    untilHandOn -= 1
    guard untilHandOn == 0 else { return }
    untilHandOn = Self.handOnEvery
    try handOn(before: run.data, body)
  }

  /// Passes on what is left.
  mutating func finish(_ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void)
    throws(ToolError)
  {
    addPending()
    pending = nil
    try handOn(before: .max, body)
  }

  // MARK: - Runs

  private mutating func addPending() {
    guard let run = pending else { return }
    if isMixed { owners.sort() }
    // The usual case of blocks in no order: no row ends where this one begins.
    let isNew =
      run.data > endMax || run.data == endMax && virtualAtEndMax.map { $0 != run.virtual } == true
    if isNew {
      append(run, owners)
    } else {
      extend(run)
    }
    note(end: run.data + run.length, virtual: run.virtual + run.length)
  }

  private mutating func append(_ run: LeafRun, _ owners: [UInt32]) {
    groups.append(
      Group(
        data: run.data, virtual: run.virtual, end: run.data + run.length, first: members.count,
        count: UInt32(owners.count)))
    members += owners
  }

  private mutating func note(end: UInt64, virtual: UInt64) {
    if end > endMax {
      (endMax, virtualAtEndMax) = (end, virtual)
    } else if end == endMax, virtualAtEndMax != virtual {
      virtualAtEndMax = nil
    }
  }

  /// Extends the rows that end where the run begins, and begins one for every other device.
  private mutating func extend(_ run: LeafRun) {
    placeAll()
    if let group = wholeGroup(before: run) {
      groups[group].end += run.length
      return
    }
    var others: [UInt32] = []
    for owner in owners {
      let place = last[Int(owner)]
      guard place.group >= gone, ends(place, before: run) else {
        others.append(owner)
        continue
      }
      let group = place.group - gone
      if groups[group].firstEnd == nil {
        groups[group].firstEnd = ends.count
        for _ in 0..<groups[group].count { ends.append(groups[group].end) }
      }
      if let firstEnd = groups[group].firstEnd { ends[firstEnd + place.member] += run.length }
    }
    if !others.isEmpty { append(run, others) }
  }

  /// The group of exactly these devices that ends where the run begins.
  private func wholeGroup(before run: LeafRun) -> Int? {
    guard let first = owners.first else { return nil }
    let place = last[Int(first)]
    guard place.group >= gone else { return nil }
    let group = groups[place.group - gone]
    guard group.firstEnd == nil, Int(group.count) == owners.count, ends(place, before: run) else {
      return nil
    }
    return owners.allSatisfy { last[Int($0)].group == place.group } ? place.group - gone : nil
  }

  private func ends(_ place: Place, before run: LeafRun) -> Bool {
    let group = groups[place.group - gone]
    let end = group.firstEnd.map { ends[$0 + place.member] } ?? group.end
    return end == run.data && group.virtual + (end - group.data) == run.virtual
  }

  /// Notes where the last row of each device is.
  private mutating func placeAll() {
    var number = max(placed, gone)
    while number - gone < groups.count {
      let group = groups[number - gone]
      for member in 0..<Int(group.count) {
        last[Int(members[group.first + member])] = Place(group: number, member: member)
      }
      number += 1
    }
    placed = number
  }

  // MARK: - Rows

  /// Passes on rows that no run from `data` on can extend, up to the first that one may.
  private mutating func handOn(
    before data: UInt64, _ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    while done < groups.count {
      let begin = groups[done].data
      guard begin < data else { break }
      var next = done
      while next < groups.count, groups[next].data == begin, isClosed(groups[next], before: data) {
        next += 1
      }
      if next < groups.count, groups[next].data == begin { break }
      do throws(BlockIOError) { try pass(done..<next, body) } catch { throw ToolError(error) }
      done = next
    }
    removeDone()
  }

  private func isClosed(_ group: Group, before data: UInt64) -> Bool {
    guard let firstEnd = group.firstEnd else { return group.end < data }
    return ends[firstEnd..<(firstEnd + Int(group.count))].allSatisfy { $0 < data }
  }

  /// Passes on the rows of groups of one begin.
  private mutating func pass(
    _ range: Range<Int>, _ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void
  ) throws(BlockIOError) {
    let head = groups[range.lowerBound]
    if range.count == 1, head.firstEnd == nil {
      same.removeAll(keepingCapacity: true)
      for i in head.first..<(head.first + Int(head.count)) { same.append(ids[Int(members[i])]) }
      return try body(RmapRun(head.data..<head.end, virtual: head.virtual), same.span)
    }
    rows.removeAll(keepingCapacity: true)
    for group in groups[range] {
      for member in 0..<Int(group.count) {
        rows.append(
          Row(
            end: group.firstEnd.map { ends[$0 + member] } ?? group.end,
            member: members[group.first + member], virtual: group.virtual))
      }
    }
    rows.sort { ($0.end, $0.member, $0.virtual) < ($1.end, $1.member, $1.virtual) }
    var first = 0
    while first < rows.count {
      let row = rows[first]
      same.removeAll(keepingCapacity: true)
      while first < rows.count, rows[first].end == row.end, rows[first].virtual == row.virtual {
        same.append(ids[Int(rows[first].member)])
        first += 1
      }
      try body(RmapRun(head.data..<row.end, virtual: row.virtual), same.span)
    }
  }

  /// Gives back the memory of what was passed on.
  private mutating func removeDone() {
    if done == groups.count {
      members.removeAll(keepingCapacity: true)
      ends.removeAll(keepingCapacity: true)
    } else {
      guard done > max(1 << 15, groups.count / 2) else { return }
      let first = groups[done].first
      members.removeFirst(first)
      var kept: [UInt64] = []
      for i in done..<groups.count {
        groups[i].first -= first
        guard let firstEnd = groups[i].firstEnd else { continue }
        groups[i].firstEnd = kept.count
        kept += ends[firstEnd..<(firstEnd + Int(groups[i].count))]
      }
      ends = kept
    }
    groups.removeFirst(done)
    gone += done
    done = 0
  }
}
