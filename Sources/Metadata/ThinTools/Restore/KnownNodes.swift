/// Internal nodes of one level whose children are all shared. Another tree with the same sequence
/// of children can use them.
///
/// Memory: four bytes per child and about fifty per node.
struct KnownNodes {
  private struct Record {
    let node: NodeReference
    let first: Int
    let count: Int
    /// An older record with the same first child.
    let older: Int32?
  }

  /// The most records with the same first child to try.
  private static let alternativesMax = 4

  private var records: [Record] = []
  private var children: [UInt32] = []
  private var newest: [UInt32: Int32] = [:]

  /// Records a node and the blocks of its children.
  mutating func insert(_ node: NodeReference, children blocks: [UInt32]) {
    let index = Int32(records.count)
    records.append(
      Record(
        node: node, first: children.count, count: blocks.count, older: newest[blocks[0]]))
    newest[blocks[0]] = index
    children += blocks
  }

  /// A node whose first child is `child`.
  func beginning(with child: UInt64) -> Int32? { newest[UInt32(truncatingIfNeeded: child)] }

  /// The node of a record.
  func node(_ record: Int32) -> NodeReference { records[Int(record)].node }

  /// Children of a record's node.
  func childCount(_ record: Int32) -> Int { records[Int(record)].count }

  /// `record`, or another record with the same `matched` first children, whose next child is
  /// `child`.
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

/// The waiting nodes of one level above the leaves, in addition to keys and blocks.
struct LevelState {
  /// Whether other trees may use each waiting node too.
  var isShared: [Bool] = []
  /// The known node whose children the last waiting nodes may be: its record, the position of its
  /// first child, and the number of children matched so far.
  var candidate: (record: Int32, start: Int, matched: Int)?
  /// Nodes made from nodes that waited here.
  var known = KnownNodes()

  /// Drops the first `count` waiting nodes.
  /// - Parameter entriesMin: the number of nodes that must remain before a candidate, if any do.
  mutating func removeFirst(_ count: Int, entriesMin: Int) {
    isShared.removeFirst(count)
    guard let candidate else { return }
    let start = candidate.start - count
    self.candidate = start == 0 || start >= entriesMin ? candidate : nil
    self.candidate?.start = start
  }

  /// Drops the last `count` waiting nodes.
  mutating func removeLast(_ count: Int) {
    isShared.removeLast(count)
    candidate = nil
  }
}
