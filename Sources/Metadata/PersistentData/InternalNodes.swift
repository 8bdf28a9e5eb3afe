import BlockIO
import ThinFormat

/// Internal nodes of mapping trees, read on demand and cached for the next device that shares them:
/// `nodesKeptMax` of them, at one KiB each, or three with their keys.
final class InternalNodes {
  /// The children of an internal node.
  struct Node {
    /// The separator of each child; empty if keys are not kept.
    var keys: [UInt64] = []
    /// The blocks of the children, all below the device's end.
    var children: [UInt32] = []
  }

  let reader: BlockReader
  private let nodesKeptMax = 2048
  private let stream: BlockStream
  private let keepsKeys: Bool
  private var kept: [UInt64: Node] = [:]

  /// Nodes on `reader`'s device.
  /// - Parameter stream: of the same device; not in use while nodes are requested.
  init(_ reader: BlockReader, stream: BlockStream, keepsKeys: Bool) {
    self.reader = reader
    self.stream = stream
    self.keepsKeys = keepsKeys
  }

  /// Whether the node is cached.
  func isKept(_ block: UInt64) -> Bool { kept[block] != nil }

  /// The internal node at `block`; nil for a leaf.
  func node(_ block: UInt64) throws(TreeFault) -> Node? {
    if let known = kept[block] { return known }
    do throws(BlockProblem) {
      let node = try reader.withNode(block, of: .mappings) { view throws(BlockProblem) in
        try self.node(from: view)
      }
      if let node { keep(block, node) }
      return node
    } catch {
      throw TreeFault(.mappings, block: block, .unusable(error))
    }
  }

  /// The number of levels of the tree at `root`, found by following first children; 1 for a single
  /// leaf.
  func height(of root: UInt64) throws(TreeFault) -> Int {
    var height = 1
    var block = root
    while height <= Limits.treeLevelsMax {
      guard let first = try node(block)?.children.first else { return height }
      block = UInt64(first)
      height += 1
    }
    throw TreeFault(.mappings, block: root, .tooDeep)
  }

  /// Reads the nodes that are not cached together. A fault in one is reported when it is requested.
  func prefetch(_ blocks: some Sequence<UInt32>) {
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
          let view = try? validatedNode(bytes, number: block, kind: .mappings),
          let node = try? self.node(from: view)
        else { return }
        keep(block, node)
      })
  }

  private func node(from view: borrowing BtreeNodeView) throws(BlockProblem) -> Node? {
    guard !view.isLeaf else { return nil }
    var node = Node()
    node.children.reserveCapacity(view.entryCount)
    if keepsKeys { node.keys.reserveCapacity(view.entryCount) }
    for i in 0..<view.entryCount {
      let child = view.value64(i)
      guard child < reader.blockCount else { throw .beyondEnd(blockCount: reader.blockCount) }
      node.children.append(UInt32(child))
      if keepsKeys { node.keys.append(view.key(i)) }
    }
    return node
  }

  private func keep(_ block: UInt64, _ node: Node) {
    if kept.count >= nodesKeptMax { kept.removeAll(keepingCapacity: true) }
    kept[block] = node
  }
}
