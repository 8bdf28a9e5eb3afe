import BlockIO
import PersistentData
import ThinFormat

/// A subtree to which a lost node led.
struct Orphan: Equatable {
  var block: UInt64
  /// What it spans.
  var extent: TreeForest.Extent
  /// How many nodes led to it that are lost.
  var missing: UInt32
  /// The latest time of a leaf's mappings; 0 for an internal node.
  var latestTime: UInt32
}

/// Finds what lost nodes led to.
///
/// The space map counts how many nodes lead to each block. Where fewer are left, the others are lost; and
/// because a block in use is not written to, what they led to is as it was. In a sound pool there is nothing
/// of that kind.
///
/// Memory: some 60 bytes for each node found, and 8 for each entry of those that are internal.
final class OrphanSearch {
  private struct Node {
    var kind: TreeKind?
    var isLeaf: Bool
    var latestTime: UInt32
    var children: [UInt64]
  }

  private let reader: BlockReader
  private let forest: TreeForest
  private let allocation: MetadataAllocation
  private let dataBlockCount: UInt64
  private let timeMax: UInt32
  /// Nodes that no walk has met, by block.
  private var nodes: [UInt64: Node] = [:]
  /// Blocks, met or not, to which more nodes led than are left.
  private var blocks: [UInt64] = []
  /// Those that were walked from here.
  private var walked: Set<UInt64> = []

  /// Reads every block that is in use and was not met.
  init(
    _ reader: BlockReader, _ forest: TreeForest, _ allocation: MetadataAllocation,
    dataBlockCount: UInt64, timeMax: UInt32, _ progress: Progress
  ) {
    self.reader = reader
    self.forest = forest
    self.allocation = allocation
    self.dataBlockCount = dataBlockCount
    self.timeMax = timeMax
    progress.begin("Looking for what lost nodes led to", total: reader.blockCount)
    var next: UInt64 = 1
    forest.stream.read(
      next: { () -> UInt64? in
        while next < reader.blockCount {
          next += 1
          progress.advance()
          guard self.missing(next - 1) > 0 else { continue }
          self.blocks.append(next - 1)
          if !forest.knows(next - 1) { return next - 1 }
        }
        return nil
      },
      body: { block, bytes, failure in
        if failure == nil, BlockHeader.kind(of: bytes) == .btreeNode { self.take(block, bytes) }
      })
    var settled: [UInt64: TreeKind?] = [:]
    for block in blocks where nodes[block] != nil {
      let kind = kind(of: block, &settled)
      nodes[block]?.kind = kind
    }
  }

  /// How many nodes that led to a block are lost.
  private func missing(_ block: UInt64) -> UInt32 {
    let counted = allocation.count(of: block)
    let found = forest.references(to: block) - (walked.contains(block) ? 1 : 0)
    return counted > found ? counted - found : 0
  }

  private func take(_ block: UInt64, _ bytes: RawSpan) {
    if let node = try? BtreeNodeView(
      validating: bytes, number: block, leafValueSize: TreeKind.details.valueSize), node.isLeaf
    {
      nodes[block] = Node(kind: .details, isLeaf: true, latestTime: 0, children: [])
      return
    }
    guard let node = try? BtreeNodeView(validating: bytes, number: block, leafValueSize: 8) else {
      return
    }
    var found = Node(kind: nil, isLeaf: node.isLeaf, latestTime: 0, children: [])
    guard node.isLeaf else {
      found.children = (0..<node.entryCount).map { node.value64($0) }
      nodes[block] = found
      return
    }
    var isDevices = node.entryCount > 0
    var isMappings = true
    for i in 0..<node.entryCount {
      isDevices = isDevices && node.canNameDevice(i, blockCount: reader.blockCount)
      let mapping = Mapping(rawValue: node.value64(i))
      isMappings = isMappings && mapping.dataBlock < dataBlockCount && mapping.time <= timeMax
      found.latestTime = max(found.latestTime, mapping.time)
    }
    guard isDevices || isMappings else { return }
    // A single mapping of data block 0 looks like a device, too. Only the root of the tree of devices can
    // have so few entries, and that is named by the superblock.
    found.kind = isDevices && !(isMappings && node.entryCount == 1) ? .devices : .mappings
    nodes[block] = found
  }

  /// Internal nodes are of the kind of the first leaf below them that can be told.
  private func kind(of block: UInt64, _ settled: inout [UInt64: TreeKind?]) -> TreeKind? {
    if let known = settled[block] { return known }
    guard let node = nodes[block] else { return forest.kind(of: block) }
    if node.isLeaf { return node.kind }
    // A node that leads back to itself is none.
    settled[block] = .some(nil)
    for child in node.children {
      guard let kind = kind(of: child, &settled) else { continue }
      settled[block] = kind
      return kind
    }
    return nil
  }

  /// Reads what hangs on orphans of `kind`, as `forest` does.
  func walk(
    _ kind: TreeKind, onLeaf: (_ block: UInt64, _ node: borrowing BtreeNodeView) -> Void
  ) {
    var below: Set<UInt64> = []
    for (block, node) in nodes where node.kind == kind && !forest.knows(block) {
      below.formUnion(node.children)
    }
    let highest = blocks.filter {
      nodes[$0]?.kind == kind && !below.contains($0) && !forest.knows($0)
    }
    walked.formUnion(highest)
    forest.walk(kind, roots: highest, onLeaf: onLeaf)
    for block in highest { _ = forest.verify(kind, root: block) }
  }

  /// Orphans of `kind` that have been walked and hold something; by block.
  func found(_ kind: TreeKind) -> [Orphan] {
    blocks.compactMap { block in
      let missing = self.missing(block)
      guard missing > 0, forest.kind(of: block) == kind, let extent = forest.extent(of: block)
      else {
        return nil
      }
      let time = nodes[block]?.latestTime ?? 0
      return Orphan(block: block, extent: extent, missing: missing, latestTime: time)
    }
  }

  /// Roots of devices without a mapping to which a lost node led, each as often as it did.
  func emptyRoots() -> [UInt64] {
    blocks.flatMap { block -> [UInt64] in
      guard forest.kind(of: block) == .mappings, forest.extent(of: block) == nil else { return [] }
      return Array(repeating: block, count: Int(missing(block)))
    }
  }
}
