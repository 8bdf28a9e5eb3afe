public import ThinFormat

/// Reads the entries of one small tree (devices, details, index) in key order.
public struct TreeReader {
  private let reader: BlockReader
  private let kind: TreeKind

  /// A reader of trees of `kind`.
  public init(_ reader: BlockReader, _ kind: TreeKind) {
    self.reader = reader
    self.kind = kind
  }

  /// Calls `body` for every entry of the tree at `root`, keys strictly ascending.
  /// - Throws: `TreeFault` at the first node that is unusable or misplaced.
  public func forEach(
    root: UInt64, _ body: (_ node: borrowing BtreeNodeView, _ entry: Int) -> Void
  ) throws(TreeFault) {
    var nodesLeft = reader.blockCount
    var previous: UInt64?
    try walk(root, parent: nil, level: 1, &nodesLeft, &previous, nil, body)
  }

  /// Calls `body` for every readable entry, keys strictly ascending, and `fault` for each node that
  /// is left out.
  public func forEachReadable(
    root: UInt64, fault: @escaping (TreeFault) -> Void,
    _ body: (_ node: borrowing BtreeNodeView, _ entry: Int) -> Void
  ) {
    var nodesLeft = reader.blockCount
    var previous: UInt64?
    do throws(TreeFault) {
      try walk(root, parent: nil, level: 1, &nodesLeft, &previous, fault, body)
    } catch {
      fault(error)
    }
  }

  private func walk(
    _ block: UInt64, parent: UInt64?, level: Int, _ nodesLeft: inout UInt64,
    _ previous: inout UInt64?, _ tolerate: ((TreeFault) -> Void)?,
    _ body: (borrowing BtreeNodeView, Int) -> Void
  ) throws(TreeFault) {
    guard nodesLeft > 0, level <= Limits.treeLevelsMax else {
      throw TreeFault(kind, block: block, parent: parent, .tooDeep)
    }
    nodesLeft -= 1
    var children: [UInt64] = []
    var disorder: (expected: UInt64, found: UInt64)?
    do throws(BlockProblem) {
      try reader.withNode(block, of: kind) { node throws(BlockProblem) in
        if node.entryCount > 0, let last = previous, node.key(0) <= last {
          disorder = (last &+ 1, node.key(0))
        } else if node.isLeaf {
          for i in 0..<node.entryCount { body(node, i) }
          if node.entryCount > 0 { previous = node.key(node.entryCount - 1) }
        } else {
          children.reserveCapacity(node.entryCount)
          for i in 0..<node.entryCount { children.append(node.value64(i)) }
        }
      }
    } catch {
      throw TreeFault(kind, block: block, parent: parent, .unusable(error))
    }
    if let disorder {
      throw TreeFault(
        kind, block: block, parent: parent,
        .keyBelowSeparator(expected: disorder.expected, found: disorder.found))
    }
    for child in children {
      do throws(TreeFault) {
        try walk(child, parent: block, level: level + 1, &nodesLeft, &previous, tolerate, body)
      } catch {
        guard let tolerate else { throw error }
        tolerate(error)
      }
    }
  }
}
