public import ThinFormat

// Lost parts of trees, and their replacement.
extension TreeForest {
  /// A lost node, replaced or not.
  public struct Hole: Equatable, Sendable {
    /// Its block.
    public var block: UInt64
    /// The range of keys that its parents leave for it.
    public var range: Range<UInt64>
    /// The number of levels of the subtree, known from its neighbours; nil if unknown.
    public var height: Int?
    /// Whether the node is unusable, rather than misplaced or a leaf with impossible values.
    public var isUnusable: Bool
    /// Whether it was replaced.
    public var isAdopted: Bool
  }

  /// The facts about a node that was walked and verified.
  public struct Extent: Equatable, Sendable {
    /// Its first key.
    public var firstKey: UInt64
    /// Its last key.
    public var lastKey: UInt64
    /// The number of levels of the subtree.
    public var height: Int
    /// The number of entries in all reachable leaves.
    public var leafEntries: UInt64
    /// Whether everything below is usable and in its place.
    public var isSound: Bool
  }

  /// Whether a block was reached in a walk.
  public func knows(_ block: UInt64) -> Bool { block < blockCount && table.index(of: block) != nil }

  /// The number of references to a block found in walks, as a root or in a node.
  public func references(to block: UInt64) -> UInt32 {
    block < blockCount ? counts.count(of: block) : 0
  }

  /// The kind of tree in which a usable block was reached.
  public func kind(of block: UInt64) -> TreeKind? {
    guard block < blockCount, let index = table.index(of: block) else { return nil }
    return table.node(index).state == .unusable ? nil : table.node(index).kind
  }

  /// The extent of a usable node; nil for one that is unusable or empty.
  public func extent(of block: UInt64) -> Extent? {
    guard block < blockCount, let index = table.index(of: block) else { return nil }
    let node = table.node(index)
    guard node.state == .sound || node.state == .faulty, node.entryCount > 0 else { return nil }
    return Extent(
      firstKey: node.firstKey, lastKey: node.lastKey, height: Int(node.height),
      leafEntries: node.leafEntries, isSound: node.state == .sound)
  }

  /// Calls `body` with the key range of each unusable or misplaced part of a tree. Only faulty
  /// subtrees are entered.
  /// - Parameter body: receives the block, the first key and the end of the range; returns false to
  ///   stop.
  public func forEachLostRange(
    _ kind: TreeKind, root: UInt64,
    _ body: (_ block: UInt64, _ range: Range<UInt64>) -> Bool
  ) {
    forEachHole(kind, root: root) { $0.isAdopted || body($0.block, $0.range) }
  }

  /// Calls `body` with each unusable or misplaced part of a tree, replaced ones included.
  public func forEachHole(_ kind: TreeKind, root: UInt64, _ body: (Hole) -> Bool) {
    let hole = Hole(
      block: root, range: 0..<UInt64.max, height: nil, isUnusable: false, isAdopted: false)
    _ = holes(kind, hole, 1, body)
  }

  private func holes(_ kind: TreeKind, _ at: Hole, _ level: Int, _ body: (Hole) -> Bool) -> Bool {
    guard at.block < blockCount, let index = table.index(of: at.block),
      table.node(index).kind == kind, level <= Limits.treeLevelsMax
    else { return body(at) }
    let node = table.node(index)
    if node.state == .unusable {
      var hole = at
      hole.isUnusable = true
      return body(hole)
    }
    guard node.state == .faulty else { return true }
    guard !node.isLeaf else { return body(at) }
    if node.isAdopted {
      var hole = at
      hole.isAdopted = true
      guard body(hole) else { return false }
    }
    let children = entries(ofNode: index, at.block, kind)
    if children.isEmpty { return node.isAdopted || body(at) }
    let height = children.compactMap { extent(of: $0.block)?.height }.max()
    for i in 0..<children.count {
      let low = max(at.range.lowerBound, i == 0 ? 0 : children[i].key)
      let high = min(at.range.upperBound, i + 1 < children.count ? children[i + 1].key : .max)
      guard low < high else { continue }
      let child = Hole(
        block: children[i].block, range: low..<high, height: height, isUnusable: false,
        isAdopted: false)
      guard holes(kind, child, level + 1, body) else { return false }
    }
    return true
  }

  /// Replaces an unusable node by an internal node with these children. An earlier replacement is
  /// dropped.
  /// - Parameter children: in ascending order, verified, without overlaps of their key ranges.
  public func adopt(_ children: [(key: UInt64, block: UInt64)], inPlaceOf block: UInt64) {
    guard block < blockCount, let index = table.index(of: block), !table.node(index).isLeaf
    else { return }
    var entries: UInt64 = 0
    var height = 1
    for child in children {
      guard let extent = extent(of: child.block) else { continue }
      entries = Self.sum(entries, extent.leafEntries)
      height = max(height, extent.height)
    }
    let kept = table.keep(children)
    table.update(index) {
      $0.kept = kept
      $0.entryCount = UInt16(clamping: children.count)
      $0.firstKey = children.first?.key ?? 0
      $0.leafEntries = entries
      $0.height = UInt8(clamping: height + 1)
      $0.state = .faulty
      $0.isAdopted = true
    }
  }
}
