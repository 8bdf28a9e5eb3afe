/// Internal nodes of one level that consist of shared nodes only: another tree in which the same
/// children follow one another can use them.
///
/// Memory: four bytes per child and about fifty per node.
struct KnownNodes {
  private struct Record {
    let node: NodeReference
    let first: Int
    let count: Int
    /// Another record with the same first child, known for longer.
    let older: Int32?
  }

  /// Records with the same first child that are looked at.
  private static let alternativesMax = 4

  private var records: [Record] = []
  private var children: [UInt32] = []
  private var newest: [UInt32: Int32] = [:]

  /// Remembers a node and the blocks of its children.
  mutating func insert(_ node: NodeReference, children blocks: [UInt32]) {
    let index = Int32(records.count)
    records.append(
      Record(
        node: node, first: children.count, count: blocks.count, older: newest[blocks[0]]))
    newest[blocks[0]] = index
    children += blocks
  }

  /// A node that begins with `child`.
  func beginning(with child: UInt64) -> Int32? { newest[UInt32(truncatingIfNeeded: child)] }

  /// The node of a record.
  func node(_ record: Int32) -> NodeReference { records[Int(record)].node }

  /// Children of a record's node.
  func childCount(_ record: Int32) -> Int { records[Int(record)].count }

  /// `record`, or one that begins with the same `matched` children, if `child` comes next in it.
  func continuing(_ record: Int32, matched: Int, with child: UInt64) -> Int32? {
    let start = records[Int(record)].first
    var next: Int32? = newest[children[start]]
    if has(record, matched, child) { return record }
    for _ in 0..<Self.alternativesMax {
      guard let index = next else { return nil }
      let other = records[Int(index)].first
      if has(index, matched, child),
        children[other..<(other + matched)] == children[start..<(start + matched)]
      {
        return index
      }
      next = records[Int(index)].older
    }
    return nil
  }

  private func has(_ record: Int32, _ position: Int, _ child: UInt64) -> Bool {
    let record = records[Int(record)]
    return position < record.count
      && children[record.first + position] == UInt32(truncatingIfNeeded: child)
  }
}

/// What waits in one level above the leaves, besides keys and blocks.
struct LevelState {
  /// Per waiting node, whether other trees may have it too.
  var isShared: [Bool] = []
  /// The known node that the last waiting nodes may be all children of: its record, where its
  /// first child waits, and how many do.
  var candidate: (record: Int32, start: Int, matched: Int)?
  /// Nodes made of what waited here.
  var known = KnownNodes()

  /// Forgets the first `count` waiting nodes.
  /// - Parameter entriesMin: how many must be left in front of a candidate, if any are.
  mutating func removeFirst(_ count: Int, entriesMin: Int) {
    isShared.removeFirst(count)
    guard let candidate else { return }
    let start = candidate.start - count
    self.candidate = start == 0 || start >= entriesMin ? candidate : nil
    self.candidate?.start = start
  }

  /// Forgets the last `count` waiting nodes.
  mutating func removeLast(_ count: Int) {
    isShared.removeLast(count)
    candidate = nil
  }
}
