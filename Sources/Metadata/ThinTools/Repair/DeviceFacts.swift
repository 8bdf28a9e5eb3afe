import PersistentData
import ThinFormat

extension BtreeNodeView {
  /// Whether entry `i` of a leaf can be a device and the root of its mapping tree. A mapping of data block 1
  /// or more cannot: it is larger than any block number.
  func canNameDevice(_ i: Int, blockCount: UInt64) -> Bool {
    (1..<blockCount).contains(value64(i)) && Limits.isDeviceID(key(i))
  }
}

/// Entries of the leaves of both trees of devices, by leaf.
final class DeviceFacts {
  private var roots: [UInt64: [(id: UInt64, root: UInt64)]] = [:]
  private var details: [UInt64: [(id: UInt64, details: DeviceDetails)]] = [:]

  func addRoots(_ block: UInt64, _ node: borrowing BtreeNodeView) {
    for i in 0..<node.entryCount {
      roots[block, default: []].append((node.key(i), node.value64(i)))
    }
  }

  func addDetails(_ block: UInt64, _ node: borrowing BtreeNodeView) {
    for i in 0..<node.entryCount {
      let found = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
      details[block, default: []].append((node.key(i), found))
    }
  }

  /// Device id to root, of what is usable of the tree at `root`.
  func usableRoots(_ forest: TreeForest, root: UInt64) -> [UInt64: UInt64] {
    var found: [UInt64: UInt64] = [:]
    forest.forEachUsableLeaf(.devices, root: root) {
      for entry in roots[$0] ?? [] { found[entry.id] = entry.root }
    }
    return found
  }

  /// Device id to details, of what is usable of the tree at `root`.
  func usableDetails(_ forest: TreeForest, root: UInt64) -> [UInt64: DeviceDetails] {
    var found: [UInt64: DeviceDetails] = [:]
    forest.forEachUsableLeaf(.details, root: root) {
      for entry in details[$0] ?? [] { found[entry.id] = entry.details }
    }
    return found
  }
}
