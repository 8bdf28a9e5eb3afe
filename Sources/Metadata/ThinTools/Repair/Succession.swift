import PersistentData
import ThinFormat

/// Tells by what two generations of a pool hold whether one of them can have followed the other.
///
/// A pool's time only grows. What a transaction maps, and the devices that it makes, get the time of then;
/// everything else it has from the generation before it. So a generation did not follow another that lacks
/// something it has and names a later time than that something's.
///
/// Memory: 8 bytes for each leaf of two generations, and 16 for each mapping compared, `mappingsMax` at most.
final class Succession {
  private struct Contents {
    var leaves: Set<UInt64> = []
    var details: [UInt64: DeviceDetails] = [:]
    /// The latest time that anything names.
    var time: UInt32 = 0
    /// The latest transaction in which a device was made.
    var transactionID: UInt64 = 0
    /// Whether nothing of its mapping trees is lost, and nothing of its details.
    var hasAllMappings = true
    var hasAllDetails = true
  }

  private struct Entry: Hashable {
    var key: UInt64
    var value: UInt64
  }

  /// Mappings that are compared: any one of them is enough.
  private static let mappingsMax = 1 << 20
  private let reader: BlockReader
  private var known: [[UInt64]: Contents] = [:]

  init(_ reader: BlockReader) { self.reader = reader }

  /// Whether a generation can have been made after another. Both may be damaged; what is left tells.
  func canFollow(_ later: RootScan.Roots, _ earlier: RootScan.Roots) -> Bool {
    let (a, b) = (contents(later), contents(earlier))
    for (id, details) in a.details {
      if let before = b.details[id], before.creationTime == details.creationTime {
        if details.snapshottedTime < before.snapshottedTime { return false }
      } else if b.hasAllDetails,
        details.creationTime < b.time || details.transactionID < b.transactionID
      {
        return false
      }
    }
    return !b.hasAllMappings || !hasOlderMappings(a, than: b)
  }

  /// The latest time that a generation names.
  func latestTime(of roots: RootScan.Roots) -> UInt32 { contents(roots).time }

  /// Whether `a` maps what `b` does not, at a time before the latest of `b`.
  private func hasOlderMappings(_ a: Contents, than b: Contents) -> Bool {
    var own: Set<Entry> = []
    for leaf in a.leaves.subtracting(b.leaves).sorted() where own.count < Self.mappingsMax {
      forEachMapping(leaf) { if Mapping(rawValue: $0.value).time < b.time { own.insert($0) } }
    }
    // What they share last: where a leaf is another device's now, it may hold the same.
    for leaf in b.leaves.subtracting(a.leaves).sorted() + b.leaves.intersection(a.leaves).sorted() {
      guard !own.isEmpty else { return false }
      forEachMapping(leaf) { own.remove($0) }
    }
    return !own.isEmpty
  }

  private func forEachMapping(_ leaf: UInt64, _ body: (Entry) -> Void) {
    try? reader.withNode(leaf, of: .mappings) { node in
      guard node.isLeaf else { return }
      for i in 0..<node.entryCount { body(Entry(key: node.key(i), value: node.value64(i))) }
    }
  }

  private func contents(_ roots: RootScan.Roots) -> Contents {
    if let found = known[[roots.mappingRoot, roots.detailsRoot]] { return found }
    var found = Contents()
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    var (devices, hasAllMappings, hasAllDetails): ([UInt64], Bool, Bool) = ([], true, true)
    TreeReader(reader, .devices).forEachReadable(
      root: roots.mappingRoot, fault: { _ in hasAllMappings = false }
    ) { node, i in
      devices.append(node.value64(i))
    }
    forest.onFault = { if $0.isFatal { hasAllMappings = false } }
    var (leaves, time): (Set<UInt64>, UInt32) = ([], 0)
    forest.walk(.mappings, roots: devices.sorted()) { block, node in
      leaves.insert(block)
      for i in 0..<node.entryCount { time = max(time, Mapping(rawValue: node.value64(i)).time) }
    }
    for root in devices { _ = forest.verify(.mappings, root: root) }
    TreeReader(reader, .details).forEachReadable(
      root: roots.detailsRoot, fault: { _ in hasAllDetails = false }
    ) { node, i in
      let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
      found.details[node.key(i)] = details
      time = max(time, details.creationTime, details.snapshottedTime)
      found.transactionID = max(found.transactionID, details.transactionID)
    }
    forest.onFault = { _ in }
    found.leaves = leaves
    found.time = time
    (found.hasAllMappings, found.hasAllDetails) = (hasAllMappings, hasAllDetails)
    known[[roots.mappingRoot, roots.detailsRoot]] = found
    return found
  }
}
