import PersistentData
import ThinFormat

/// The nodes to which mapping trees of earlier generations led.
///
/// A node that a device's tree led to earlier, and that lies unchanged in the same block, is most likely its
/// still. It need not be: the block may have been freed, and given to another device.
///
/// Memory: 24 bytes for each node, `nodesMax` of each device at most.
final class EarlierNodes {
  /// Nodes of one device that are remembered.
  private static let nodesMax = 1 << 16
  private let reader: BlockReader
  private let history: DeviceHistory
  /// The keys that a parent left to a node, by device and block.
  private var nodes: [UInt64: [UInt64: ClosedRange<UInt64>]] = [:]

  init(_ reader: BlockReader, _ history: DeviceHistory) {
    self.reader = reader
    self.history = history
  }

  /// Whether an earlier tree of a device led to `block`, where keys from `first` to `last` had their place.
  func led(_ id: UInt64, to block: UInt64, _ first: UInt64, _ last: UInt64) -> Bool {
    guard let keys = known(id)[block] else { return false }
    return keys.lowerBound <= first && last <= keys.upperBound
  }

  private func known(_ id: UInt64) -> [UInt64: ClosedRange<UInt64>] {
    if let known = nodes[id] { return known }
    var found: [UInt64: ClosedRange<UInt64>] = [:]
    var read: Set<UInt64> = []
    // The latest tree comes first: what it led to counts.
    for root in history.roots(of: id) { collect(root, 0...UInt64.max, 1, &read, &found) }
    nodes[id] = found
    return found
  }

  /// Adds the children of a node, and theirs. Leaves are not read, but for the first of their parent.
  private func collect(
    _ block: UInt64, _ keys: ClosedRange<UInt64>, _ level: Int, _ read: inout Set<UInt64>,
    _ found: inout [UInt64: ClosedRange<UInt64>]
  ) {
    guard level < Limits.treeLevelsMax, found.count < Self.nodesMax, read.count < Self.nodesMax,
      read.insert(block).inserted
    else { return }
    var children: [(block: UInt64, keys: ClosedRange<UInt64>)] = []
    try? reader.withNode(block, of: .mappings) { node in
      guard !node.isLeaf else { return }
      for i in 0..<node.entryCount {
        let last = i + 1 < node.entryCount ? node.key(i + 1) - 1 : keys.upperBound
        guard node.value64(i) < reader.blockCount, node.key(i) <= last else { continue }
        children.append((node.value64(i), node.key(i)...last))
      }
    }
    for child in children where found[child.block] == nil { found[child.block] = child.keys }
    var areLeaves = true
    for child in children.prefix(1) {
      try? reader.withNode(child.block, of: .mappings) { areLeaves = $0.isLeaf }
    }
    guard !areLeaves else { return }
    for child in children { collect(child.block, child.keys, level + 1, &read, &found) }
  }
}
