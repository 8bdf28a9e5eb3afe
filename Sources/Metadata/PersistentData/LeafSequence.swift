public import BlockIO
import ThinFormat

/// Lists the leaves of mapping trees in key order without reading them, at one read per internal
/// node, a two-hundredth of the tree. Memory: that of `InternalNodes` without keys.
public final class LeafSequence {
  private let nodes: InternalNodes

  /// Lists leaves of trees on `reader`'s device.
  /// - Parameter stream: of the same device; not in use while leaves are listed.
  public init(_ reader: BlockReader, stream: BlockStream) {
    nodes = InternalNodes(reader, stream: stream, keepsKeys: false)
  }

  /// Calls `body` with every leaf of the tree at `root`, in key order. The caller that reads the
  /// block must check that it is a leaf.
  /// - Throws: `TreeFault` at the first internal node that is unusable.
  public func forEach(root: UInt64, _ body: (UInt64) throws(TreeFault) -> Void) throws(TreeFault) {
    let height = try nodes.height(of: root)
    var nodesLeft = nodes.reader.blockCount
    try visit(root, height, &nodesLeft, body)
  }

  private func visit(
    _ block: UInt64, _ height: Int, _ nodesLeft: inout UInt64,
    _ body: (UInt64) throws(TreeFault) -> Void
  ) throws(TreeFault) {
    // A tree contains a node once, so more nodes than blocks means a cycle. Counting only leaves is
    // not enough: a few damaged nodes can have countless paths before the first one ends in a leaf.
    guard nodesLeft > 0 else { throw TreeFault(.mappings, block: block, .cycle) }
    nodesLeft -= 1
    if height == 1 { return try body(block) }
    guard let node = try nodes.node(block) else {
      throw TreeFault(.mappings, block: block, .unevenHeight(expected: height, found: 1))
    }
    if height > 2 { nodes.prefetch(node.children) }
    for child in node.children { try visit(UInt64(child), height - 1, &nodesLeft, body) }
  }
}
