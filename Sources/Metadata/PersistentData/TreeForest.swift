public import BlockIO
public import ThinFormat

/// Walks any number of trees that may share nodes, reading every physical node once, level by level
/// and in disk order, and then checks how nodes fit together.
///
/// Invariants: a block is read when its first reference is counted, so that cycles end. `table` has
/// every block that was read as a node, with its kind of tree.
public final class TreeForest {
  /// Called for every problem.
  public var onFault: (TreeFault) -> Void = { _ in }
  /// Called for every node read, for progress.
  public var onNode: () -> Void = {}

  private let reader: BlockReader
  let blockCount: UInt64
  /// Reads the nodes; available for other reads between walks.
  public let stream: BlockStream
  let counts: ReferenceCounts
  var table: NodeTable
  private var frontier: Bitset
  private var nextFrontier: Bitset

  /// A forest on `reader`'s device. References to nodes are counted in `counts`. Blocks outside of
  /// either are beyond the end.
  public init(_ reader: BlockReader, counts: ReferenceCounts) {
    self.reader = reader
    blockCount = min(reader.blockCount, counts.blockCount)
    self.counts = counts
    stream = BlockStream(reader.device)
    table = NodeTable(blockCount: blockCount)
    frontier = Bitset(limit: blockCount)
    nextFrontier = Bitset(limit: blockCount)
  }

  /// Counts one reference to each of `roots`, and reads the blocks that were not read yet.
  /// - Parameter onLeaf: receives every sound leaf, once.
  public func walk(
    _ kind: TreeKind, roots: some Sequence<UInt64>,
    onLeaf: (_ block: UInt64, _ node: borrowing BtreeNodeView) -> Void
  ) {
    nextFrontier.removeAll()
    for root in roots { reference(root, kind, parent: nil, entry: 0) }
    var level = 0
    while nextFrontier.first(from: 0) != nil {
      swap(&frontier, &nextFrontier)
      nextFrontier.removeAll()
      level += 1
      if level > Limits.treeLevelsMax {
        refuseFrontier(kind)
        return
      }
      readFrontier(kind, onLeaf)
    }
  }

  private func refuseFrontier(_ kind: TreeKind) {
    var from: UInt64 = 0
    while let block = frontier.first(from: from) {
      onFault(TreeFault(kind, block: block, .tooDeep))
      table.insert(block, .init(kind, state: .unusable))
      from = block + 1
    }
  }

  private func readFrontier(
    _ kind: TreeKind, _ onLeaf: (UInt64, borrowing BtreeNodeView) -> Void
  ) {
    var from: UInt64 = 0
    stream.read(
      next: { () -> UInt64? in
        guard let block = frontier.first(from: from) else { return nil }
        from = block + 1
        return block
      },
      body: { block, bytes, failure in
        onNode()
        do throws(BlockProblem) {
          if let failure { throw .io(failure) }
          try take(block, try validatedNode(bytes, number: block, kind: kind), kind, onLeaf)
        } catch {
          onFault(TreeFault(kind, block: block, .unusable(error)))
          table.insert(block, .init(kind, state: .unusable))
        }
      })
  }

  private func take(
    _ block: UInt64, _ view: borrowing BtreeNodeView, _ kind: TreeKind,
    _ onLeaf: (UInt64, borrowing BtreeNodeView) -> Void
  ) throws(BlockProblem) {
    var node = NodeTable.Node(kind)
    node.entryCount = UInt16(view.entryCount)
    if view.entryCount > 0 {
      node.firstKey = view.key(0)
      node.lastKey = view.key(view.entryCount - 1)
    }
    if view.isLeaf {
      node.height = 1
      node.leafEntries = UInt64(view.entryCount)
      node.state = .sound
      table.insert(block, node)
      onLeaf(block, view)
      return
    }
    node.kept = table.keep(view)
    table.insert(block, node)
    if view.entryCount == 0 { onFault(TreeFault(kind, block: block, .emptyInternalNode)) }
    for i in 0..<view.entryCount {
      reference(view.value64(i), kind, parent: block, entry: i)
    }
  }

  private func reference(_ block: UInt64, _ kind: TreeKind, parent: UInt64?, entry: Int) {
    guard block < blockCount else {
      if let parent {
        onFault(
          TreeFault(
            kind, block: parent,
            .pointsBeyondEnd(entry: entry, child: block, blockCount: blockCount)))
      } else {
        onFault(
          TreeFault(kind, block: block, .unusable(.beyondEnd(blockCount: blockCount))))
      }
      return
    }
    if counts.increment(block) == 0 { nextFrontier.insert(block) }
  }

  // MARK: - Verification

  /// The totals of a tree.
  public struct Summary: Equatable, Sendable {
    /// The number of entries in all reachable leaves, as often as they are reached; 2^64 - 1 at most.
    public var leafEntries: UInt64
    /// Whether every node is usable and in its place.
    public var isSound: Bool
    /// The largest key, if the tree is sound and not empty.
    public var lastKey: UInt64?
  }

  /// Verifies the tree at `root`, which must have been walked. Each subtree is verified once,
  /// however many trees share it.
  public func verify(_ kind: TreeKind, root: UInt64) -> Summary {
    guard root < blockCount else { return Summary(leafEntries: 0, isSound: false) }
    let state = verify(kind, block: root, parent: nil, level: 1)
    guard state != .unusable, let index = table.index(of: root) else {
      return Summary(leafEntries: 0, isSound: false)
    }
    let node = table.node(index)
    return Summary(
      leafEntries: node.leafEntries, isSound: state == .sound,
      lastKey: node.leafEntries > 0 && state == .sound ? node.lastKey : nil)
  }

  private func verify(_ kind: TreeKind, block: UInt64, parent: UInt64?, level: Int)
    -> NodeTable.State
  {
    guard let index = table.index(of: block), table.node(index).kind == kind else {
      onFault(TreeFault(kind, block: block, parent: parent, .crossLinked))
      return .unusable
    }
    switch table.node(index).state {
    case .sound, .faulty, .unusable: return table.node(index).state
    case .inProgress:
      onFault(TreeFault(kind, block: block, parent: parent, .cycle))
      return .unusable
    case .unverified: break
    }
    guard level <= Limits.treeLevelsMax else {
      onFault(TreeFault(kind, block: block, parent: parent, .tooDeep))
      return .unusable
    }
    table.update(index) { $0.state = .inProgress }
    let state = verifyChildren(kind, block, index, level)
    table.update(index) { $0.state = state }
    return state
  }

  private func verifyChildren(_ kind: TreeKind, _ block: UInt64, _ index: Int, _ level: Int)
    -> NodeTable.State
  {
    let children = entries(ofNode: index, block, kind)
    guard children.count > 0 else { return .faulty }
    var state = NodeTable.State.sound
    var leafEntries: UInt64 = 0
    var lastKey = table.node(index).lastKey
    var height: UInt8 = 0

    func fault(_ child: UInt64, _ problem: TreeFault.Problem) {
      let fault = TreeFault(kind, block: child, parent: block, problem)
      onFault(fault)
      guard fault.isFatal else { return }
      state = .faulty
      guard let at = table.index(of: child) else { return }
      table.update(at) {
        $0.state = .faulty
        $0.isMisplaced = true
      }
    }

    for i in 0..<children.count {
      let child = children[i].block
      guard child < blockCount else {
        state = .faulty
        continue
      }
      let childState = verify(kind, block: child, parent: block, level: level + 1)
      guard childState != .unusable, let at = table.index(of: child) else {
        state = .faulty
        continue
      }
      if childState == .faulty { state = .faulty }
      let node = table.node(at)
      leafEntries = Self.sum(leafEntries, node.leafEntries)
      let minimum = BtreeNodeRecord.entriesMax(valueSize: node.isLeaf ? kind.valueSize : 8) / 3
      if node.entryCount < UInt16(minimum) {
        fault(child, .underfull(expected: minimum, found: Int(node.entryCount)))
      }
      if height == 0 { height = node.height }
      if node.height != height && childState == .sound {
        fault(child, .unevenHeight(expected: Int(height), found: Int(node.height)))
      }
      guard node.entryCount > 0 else { continue }
      if node.firstKey < children[i].key {
        fault(child, .keyBelowSeparator(expected: children[i].key, found: node.firstKey))
      }
      if i + 1 < children.count && node.lastKey >= children[i + 1].key {
        fault(
          child, .keyNotBelowNextSeparator(limit: children[i + 1].key, found: node.lastKey))
      }
      lastKey = max(lastKey, node.lastKey)
    }
    table.update(index) {
      $0.leafEntries = leafEntries
      $0.lastKey = lastKey
      // At least 2, even if no child is usable: 1 means a leaf.
      $0.height = max(1, min(height, 254)) + 1
    }
    return state
  }

  /// The sum of two numbers of entries, 2^64 - 1 at most: nodes that lead to the same node many times, level
  /// by level, have more than there are numbers for.
  package static func sum(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let (sum, isTooLarge) = a.addingReportingOverflow(b)
    return isTooLarge ? .max : sum
  }

  func entries(ofNode index: Int, _ block: UInt64, _ kind: TreeKind)
    -> [(key: UInt64, block: UInt64)]
  {
    let node = table.node(index)
    if node.kept != .max {
      return (0..<Int(node.entryCount)).map {
        (table.keptKey(node.kept, $0), table.keptChild(node.kept, $0))
      }
    }
    let entries = try? reader.withNode(block, of: kind) { view throws(BlockProblem) in
      var result: [(key: UInt64, block: UInt64)] = []
      result.reserveCapacity(view.entryCount)
      for i in 0..<view.entryCount { result.append((view.key(i), view.value64(i))) }
      return result
    }
    return entries ?? []
  }

  /// Calls `body` for every leaf that is sound and in its place, in key order: the rest of a
  /// damaged tree. Leaves with impossible values are included.
  /// - Precondition: the tree was verified.
  public func forEachUsableLeaf<E: Error>(
    _ kind: TreeKind, root: UInt64, _ body: (UInt64) throws(E) -> Void
  ) throws(E) {
    try usableLeaves(kind, root, 1, body)
  }

  private func usableLeaves<E: Error>(
    _ kind: TreeKind, _ block: UInt64, _ level: Int, _ body: (UInt64) throws(E) -> Void
  ) throws(E) {
    guard block < blockCount, level <= Limits.treeLevelsMax,
      let index = table.index(of: block)
    else { return }
    let node = table.node(index)
    guard node.kind == kind, node.state != .unusable, node.state != .inProgress,
      level == 1 || !node.isMisplaced
    else { return }
    if node.isLeaf { return try body(block) }
    for child in entries(ofNode: index, block, kind) {
      try usableLeaves(kind, child.block, level + 1, body)
    }
  }

  /// Marks a leaf with impossible values, for `verify` and `forEachLostRange`.
  public func markFaulty(leaf block: UInt64) {
    guard let index = table.index(of: block) else { return }
    table.update(index) { $0.state = .faulty }
  }
}
