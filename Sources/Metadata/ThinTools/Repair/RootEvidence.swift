import PersistentData
import ThinFormat

/// What speaks for a pair of roots.
struct Evidence {
  var isPreferred: Bool
  /// Devices whose mapping tree is damaged or has another number of mappings than the details
  /// say.
  var mismatches = 0
  /// The latest time of any mapping, and how many mappings have it.
  var latest = Latest()

  /// Whole devices first; then the pair with the later mappings, or more of the latest: times only
  /// grow, and mappings of a time get fewer only when they are discarded or overwritten.
  func isBeaten(by other: Evidence) -> Bool {
    if isPreferred != other.isPreferred { return other.isPreferred }
    if mismatches != other.mismatches { return other.mismatches < mismatches }
    return (other.latest.time, other.latest.count) > (latest.time, latest.count)
  }
}

/// A time, and how many mappings have it.
struct Latest {
  var time: UInt32 = 0
  var count = 0

  mutating func add(_ other: Latest) {
    if other.time > time {
      self = other
    } else if other.time == time {
      count += other.count
    }
  }
}

/// The mapping trees of all candidates, which share most of their nodes: each is read once.
final class MappingTrees {
  private let reader: BlockReader
  private let forest: TreeForest
  private var leaves: [UInt64: Latest] = [:]
  private var trees: [UInt64: (entries: UInt64, isSound: Bool, latest: Latest)] = [:]

  init(_ reader: BlockReader) {
    self.reader = reader
    forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
  }

  func walk(_ deviceRoots: Set<UInt64>) {
    var roots: Set<UInt64> = []
    for root in deviceRoots {
      try? TreeReader(reader, .devices).forEach(root: root) { node, i in
        roots.insert(node.value64(i))
      }
    }
    forest.walk(.mappings, roots: roots) { block, node in
      var latest = Latest()
      for i in 0..<node.entryCount {
        latest.add(Latest(time: Mapping(rawValue: node.value64(i)).time, count: 1))
      }
      leaves[block] = latest
    }
  }

  private func tree(_ root: UInt64) -> (entries: UInt64, isSound: Bool, latest: Latest) {
    if let known = trees[root] { return known }
    let summary = forest.verify(.mappings, root: root)
    var latest = Latest()
    forest.forEachUsableLeaf(.mappings, root: root) { latest.add(leaves[$0] ?? Latest()) }
    trees[root] = (summary.leafEntries, summary.isSound, latest)
    return (summary.leafEntries, summary.isSound, latest)
  }

  /// Calls `body` with the leaves of a device tree and of all its mapping trees; returns false where
  /// the device tree cannot be read.
  func forEachLeaf(_ deviceRoot: UInt64, _ body: (UInt64) -> Void) -> Bool {
    let read: Void? = try? TreeReader(reader, .devices).forEach(root: deviceRoot) { node, i in
      if i == 0 { body(RecordView<BlockHeader>(node.bytes)[BlockHeader.blockNumber]) }
    }
    return read != nil && forEachMappingLeaf(deviceRoot, body)
  }

  /// Calls `body` with the leaves of all mapping trees of a device tree; returns false where that
  /// cannot be read.
  func forEachMappingLeaf(_ deviceRoot: UInt64, _ body: (UInt64) -> Void) -> Bool {
    var roots: Set<UInt64> = []
    let read: Void? = try? TreeReader(reader, .devices).forEach(root: deviceRoot) { node, i in
      roots.insert(node.value64(i))
    }
    for root in roots { forest.forEachUsableLeaf(.mappings, root: root, body) }
    return read != nil
  }

  func evidence(_ deviceRoot: UInt64, _ detailsRoot: UInt64, isPreferred: Bool) -> Evidence {
    var evidence = Evidence(isPreferred: isPreferred)
    var roots: [UInt64] = []
    try? TreeReader(reader, .devices).forEach(root: deviceRoot) { node, i in
      roots.append(node.value64(i))
    }
    var i = 0
    try? TreeReader(reader, .details).forEach(root: detailsRoot) { node, entry in
      defer { i += 1 }
      guard i < roots.count else { return }
      let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(entry))
      let tree = tree(roots[i])
      if !tree.isSound || tree.entries != details.mappedBlocks { evidence.mismatches += 1 }
      evidence.latest.add(tree.latest)
    }
    return evidence
  }
}
