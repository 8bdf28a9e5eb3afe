public import BlockIO
import ThinFormat

/// Lists the leaves of mapping trees in key order without reading them, which takes one read per
/// internal node: a two-hundredth of the tree.
///
/// Internal nodes that many devices share are kept, `nodesKeptMax` of them at one KiB.
public final class LeafSequence {
  private let nodesKeptMax = 2048
  private let reader: BlockReader
  private let stream: BlockStream
  private var kept: [UInt64: [UInt32]] = [:]

  /// Lists leaves of trees on `reader`'s device.
  /// - Parameter stream: of the same device, not in use while leaves are listed.
  public init(_ reader: BlockReader, stream: BlockStream) {
    self.reader = reader
    self.stream = stream
  }

  /// Calls `body` with every leaf of the tree at `root`, in key order. That a block in a leaf's
  /// place is one is for whoever reads it to check.
  /// - Throws: `TreeFault` at the first internal node that is unusable.
  public func forEach(root: UInt64, _ body: (UInt64) throws(TreeFault) -> Void) throws(TreeFault) {
    let height = try self.height(root)
    var nodesLeft = reader.blockCount
    try visit(root, height, &nodesLeft, body)
  }

  private func height(_ root: UInt64) throws(TreeFault) -> Int {
    var height = 1
    var block = root
    while height <= Limits.treeLevelsMax {
      guard let children = try children(of: block), let first = children.first else {
        return height
      }
      block = UInt64(first)
      height += 1
    }
    throw TreeFault(.mappings, block: root, .tooDeep)
  }

  private func visit(
    _ block: UInt64, _ height: Int, _ nodesLeft: inout UInt64,
    _ body: (UInt64) throws(TreeFault) -> Void
  ) throws(TreeFault) {
    // A tree holds a node once, so more nodes than blocks means that one is met again and again.
    // Leaves alone would not do: the paths through a few damaged nodes can be beyond counting
    // before the first of them ends in a leaf.
    guard nodesLeft > 0 else { throw TreeFault(.mappings, block: block, .cycle) }
    nodesLeft -= 1
    if height == 1 { return try body(block) }
    guard let children = try children(of: block) else {
      throw TreeFault(.mappings, block: block, .unevenHeight(expected: height, found: 1))
    }
    if height > 2 { prefetch(children) }
    for child in children { try visit(UInt64(child), height - 1, &nodesLeft, body) }
  }

  /// The children of an internal node, nil for a leaf.
  private func children(of block: UInt64) throws(TreeFault) -> [UInt32]? {
    if let known = kept[block] { return known }
    do throws(BlockProblem) {
      let children = try reader.withNode(block, of: .mappings) { node throws(BlockProblem) in
        try self.children(of: node)
      }
      if let children { keep(block, children) }
      return children
    } catch {
      throw TreeFault(.mappings, block: block, .unusable(error))
    }
  }

  private func children(of node: borrowing BtreeNodeView) throws(BlockProblem) -> [UInt32]? {
    guard !node.isLeaf else { return nil }
    var children: [UInt32] = []
    children.reserveCapacity(node.entryCount)
    for i in 0..<node.entryCount {
      let child = node.value64(i)
      guard child < reader.blockCount else { throw .beyondEnd(blockCount: reader.blockCount) }
      children.append(UInt32(child))
    }
    return children
  }

  private func keep(_ block: UInt64, _ children: [UInt32]) {
    if kept.count >= nodesKeptMax { kept.removeAll(keepingCapacity: true) }
    kept[block] = children
  }

  /// Reads siblings together. What is wrong with one is found when its turn comes.
  private func prefetch(_ blocks: [UInt32]) {
    let missing = blocks.filter { kept[UInt64($0)] == nil }
    var at = 0
    stream.read(
      next: { () -> UInt64? in
        guard at < missing.count else { return nil }
        at += 1
        return UInt64(missing[at - 1])
      },
      body: { block, bytes, failure in
        guard failure == nil,
          let node = try? validatedNode(bytes, number: block, kind: .mappings),
          let children = try? self.children(of: node)
        else { return }
        keep(block, children)
      })
  }
}
