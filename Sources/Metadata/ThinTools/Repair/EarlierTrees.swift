import PersistentData
import ThinFormat

/// The mapping trees that devices had in an earlier generation that is whole, to tell which of several trees
/// followed which.
///
/// What a device maps later, it had then, or has been mapped since: at that generation's time or later.
///
/// Memory: 16 bytes for each mapping of trees that are compared, `mappingsMax` at most.
final class EarlierTrees {
  /// How a tree compares with the one that a device had.
  struct Kinship: Equatable {
    /// Whether it can have become of that one.
    var canFollow: Bool
    /// Mappings that both have.
    var common: Int
  }

  /// Mappings that are kept to compare.
  private static let mappingsMax = 1 << 22
  /// Root by device.
  let roots: [UInt64: UInt64]
  private let time: UInt32
  private let reader: BlockReader
  private var trees: [UInt64: [UInt64: UInt64]] = [:]
  private var mappingsLeft = EarlierTrees.mappingsMax

  /// - Parameters:
  ///   - generation: one that is whole.
  ///   - devices: those of now; one with the id of a device of then may be another, made later.
  init(
    _ reader: BlockReader, _ generation: RootScan.Roots, _ devices: [UInt64: DeviceDetails]
  ) {
    var same: Set<UInt64> = []
    try? TreeReader(reader, .details).forEach(root: generation.detailsRoot) { node, i in
      let before = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
      guard let now = devices[node.key(i)], now.creationTime == before.creationTime,
        now.transactionID == before.transactionID
      else { return }
      same.insert(node.key(i))
    }
    var roots: [UInt64: UInt64] = [:]
    try? TreeReader(reader, .devices).forEach(root: generation.mappingRoot) { node, i in
      if same.contains(node.key(i)) { roots[node.key(i)] = node.value64(i) }
    }
    self.roots = roots
    self.reader = reader
    time = generation.time
  }

  /// Compares a tree with a device's of then; nil where the device was not there, or there is too much to
  /// compare.
  func kinship(of block: UInt64, with id: UInt64) -> Kinship? {
    guard let root = roots[id], let before = mappings(root), let now = mappings(block) else {
      return nil
    }
    let latest = before.values.reduce(time) { max($0, Mapping(rawValue: $1).time) }
    var kinship = Kinship(canFollow: true, common: 0)
    for (key, value) in now {
      if before[key] == value {
        kinship.common += 1
      } else if Mapping(rawValue: value).time < latest {
        kinship.canFollow = false
      }
    }
    return kinship
  }

  /// Data block and time by virtual block.
  private func mappings(_ root: UInt64) -> [UInt64: UInt64]? {
    if let known = trees[root] { return known }
    var found: [UInt64: UInt64] = [:]
    let read: Void? = try? TreeReader(reader, .mappings).forEach(root: root) { node, i in
      if found.count < mappingsLeft { found[node.key(i)] = node.value64(i) }
    }
    guard read != nil, found.count < mappingsLeft else { return nil }
    mappingsLeft -= found.count
    trees[root] = found
    return found
  }
}
