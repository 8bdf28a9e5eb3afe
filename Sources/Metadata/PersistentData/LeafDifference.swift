public import BlockIO
import ThinFormat

/// A leaf of one or both of two mapping trees.
public struct ComparedLeaf: Equatable, Sendable {
  /// The tree with the leaf.
  public enum Owner: Sendable {
    case left
    case right
    /// The same block is in both trees, so all its mappings are equal.
    case both
  }

  /// The tree with the leaf.
  public var owner: Owner
  /// Its block.
  public var block: UInt64
  /// The separator above it, in virtual blocks: a sound leaf has no smaller key.
  public var firstKey: UInt64
}

/// Lists the leaves in which two mapping trees differ, in key order, without reading them. Subtrees
/// that both trees share are skipped, or listed once.
///
/// Not every shared subtree is found: if its separators differ in the two trees, its leaves may be
/// listed for each tree. Memory: that of `InternalNodes` with keys, and a path of each tree.
public struct LeafDifference: ~Copyable {
  private let nodes: InternalNodes
  private let listsCommon: Bool
  private var left: TreePath
  private var right: TreePath
  private var lastFirstKey: UInt64 = 0

  /// Starts at the first leaves of the trees with these roots on `reader`'s device.
  /// - Parameter stream: of the same device; not in use while `next` runs.
  /// - Parameter listsCommon: whether to list leaves that both trees share, with the owner `both`.
  /// - Throws: `TreeFault` if the first path of a tree is unusable.
  public init(
    _ reader: BlockReader, stream: BlockStream, left: UInt64, right: UInt64, listsCommon: Bool
  ) throws(TreeFault) {
    let nodes = InternalNodes(reader, stream: stream, keepsKeys: true)
    let heights = (left: try nodes.height(of: left), right: try nodes.height(of: right))
    self.nodes = nodes
    self.listsCommon = listsCommon
    self.left = TreePath(root: left, height: heights.left, nodesMax: reader.blockCount)
    self.right = TreePath(root: right, height: heights.right, nodesMax: reader.blockCount)
  }

  /// The next leaf, nil at the end; `firstKey` never decreases. The caller that reads the block
  /// must check that it is a leaf, without a key below `firstKey` or at most the previous leaf's
  /// last one.
  /// - Throws: `TreeFault` at the first internal node that is unusable.
  public mutating func next() throws(TreeFault) -> ComparedLeaf? {
    guard let leaf = try nextLeaf() else { return nil }
    guard leaf.firstKey >= lastFirstKey else {
      throw TreeFault(
        .mappings, block: leaf.block,
        .keyBelowSeparator(expected: lastFirstKey, found: leaf.firstKey))
    }
    lastFirstKey = leaf.firstKey
    return leaf
  }

  private mutating func nextLeaf() throws(TreeFault) -> ComparedLeaf? {
    while true {
      guard let l = left.front else {
        guard right.front != nil else { return nil }
        if let leaf = try take(.right) { return leaf }
        continue
      }
      guard let r = right.front, !l.isCommon else {
        if let leaf = try take(.left) { return leaf }
        continue
      }
      if l.block == r.block && l.height == r.height {
        try right.advance()
        if listsCommon {
          left.markCommon()
        } else {
          try left.advance()
        }
        continue
      }
      // The leaf that begins first; or the node that is higher and may contain the other.
      let takesLeft =
        l.height == r.height
        ? l.firstKey <= r.firstKey
        : l.height > r.height ? l.firstKey <= r.firstKey : l.firstKey < r.firstKey
      if let leaf = try take(takesLeft ? .left : .right) { return leaf }
    }
  }

  /// Advances past the leaf at the front of a tree and returns it, or else descends one level.
  private mutating func take(_ side: ComparedLeaf.Owner) throws(TreeFault) -> ComparedLeaf? {
    // No closure over one of the two paths, which would need exclusive access to both.
    if side == .left {
      if let front = left.front, !front.isCommon { prefetch(left, besides: right) }
      return try left.take(nodes, side)
    }
    prefetch(right, besides: left)
    return try right.take(nodes, side)
  }

  /// Reads the next internal nodes of a path, except those that the other path shares.
  private func prefetch(_ path: borrowing TreePath, besides other: borrowing TreePath) {
    guard let front = path.front, front.height > 1, !nodes.isKept(front.block) else { return }
    let known = other.siblings(height: front.height, atMost: .max)
    nodes.prefetch(path.siblings(height: front.height, atMost: 64).subtracting(known))
  }
}

/// A position in a mapping tree: the nodes still to visit, along a path from the root.
private struct TreePath: ~Copyable {
  /// A node to visit.
  struct Front {
    var block: UInt64
    /// Its separator.
    var firstKey: UInt64
    /// 1 for a leaf.
    var height: Int
    var isCommon: Bool
  }

  private struct Level {
    var node: InternalNodes.Node
    var next = 0
    /// The number of levels of each child's subtree.
    var height: Int
    /// The children before this index are in both trees.
    var commonEnd = 0
  }

  private var levels: [Level]
  /// A tree contains a node once, so more nodes than blocks means a cycle.
  private var nodesLeft: UInt64

  init(root: UInt64, height: Int, nodesMax: UInt64) {
    nodesLeft = nodesMax
    let node = InternalNodes.Node(keys: [0], children: [UInt32(truncatingIfNeeded: root)])
    levels = [Level(node: node, height: height)]
  }

  var front: Front? {
    guard let level = levels.last else { return nil }
    return Front(
      block: UInt64(level.node.children[level.next]), firstKey: level.node.keys[level.next],
      height: level.height, isCommon: level.next < level.commonEnd)
  }

  /// The blocks of the front and of its later siblings, if they are of `height`.
  func siblings(height: Int, atMost max: Int) -> Set<UInt32> {
    guard let level = levels.last, level.height == height else { return [] }
    return Set(level.node.children[level.next...].prefix(max))
  }

  /// Marks the front as part of the other tree too.
  mutating func markCommon() {
    levels[levels.count - 1].commonEnd = levels[levels.count - 1].next + 1
  }

  /// Advances past the front.
  mutating func advance() throws(TreeFault) {
    guard let front else { return }
    guard nodesLeft > 0 else { throw TreeFault(.mappings, block: front.block, .cycle) }
    nodesLeft -= 1
    levels[levels.count - 1].next += 1
    while let last = levels.last, last.next == last.node.children.count { levels.removeLast() }
  }

  /// Advances past the front if it is a leaf, and returns it; otherwise descends to its first
  /// child.
  mutating func take(_ nodes: InternalNodes, _ side: ComparedLeaf.Owner) throws(TreeFault)
    -> ComparedLeaf?
  {
    guard let front else { return nil }
    try advance()
    if front.height == 1 {
      return ComparedLeaf(
        owner: front.isCommon ? .both : side, block: front.block, firstKey: front.firstKey)
    }
    guard let node = try nodes.node(front.block) else {
      throw TreeFault(
        .mappings, block: front.block, .unevenHeight(expected: front.height, found: 1))
    }
    guard let first = node.keys.first else {
      throw TreeFault(.mappings, block: front.block, .emptyInternalNode)
    }
    guard first >= front.firstKey else {
      throw TreeFault(
        .mappings, block: front.block,
        .keyBelowSeparator(expected: front.firstKey, found: first))
    }
    let count = node.children.count
    levels.append(
      Level(node: node, height: front.height - 1, commonEnd: front.isCommon ? count : 0))
    return nil
  }
}
