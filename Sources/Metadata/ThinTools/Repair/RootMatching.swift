import PersistentData
import ThinFormat

/// Tells which mapping tree is which device's, where the tree of devices is lost and the details are not.
///
/// A device has as many mappings as its details say. Where several devices have the same number, and their
/// trees are not one and the same, an earlier tree of devices helps: a root that was a device's then and is
/// still in use is that device's, if each of these devices was there already and no other had it too; and a
/// tree that cannot have become of the one that a device had then is another's (`EarlierTrees`).
///
/// The rest is a guess, and the devices are doubtful. Each gets the tree that has most in common with its
/// earlier one; of those that were not there, the earlier device gets the tree with the later mappings, as an
/// origin that went on beside its snapshots. Where nothing is known of that generation, a root that only one
/// of them had in any other one (`DeviceHistory`) is given to that device.
struct RootMatching {
  /// Root by device.
  private(set) var roots: [UInt64: UInt64] = [:]
  /// Devices of which that is a guess.
  private(set) var doubtful: Set<UInt64> = []
  private let history: DeviceHistory?
  private let rebuilt: Set<UInt64>
  private var left: [Orphan]
  private var rest: [(id: UInt64, details: DeviceDetails)] = []

  /// - Parameters:
  ///   - devices: whose root is lost.
  ///   - trees: to which something led that is lost.
  ///   - emptyRoots: trees without a mapping, each as often as something led to it.
  ///   - earlier: the trees of an earlier generation.
  ///   - history: the roots that devices had in any generation.
  ///   - rebuilt: those of the trees that have leaves which were made up, to the number that a device
  ///     lacked: their counts say nothing.
  ///   - isOnlyLoss: whether all trees are those of devices.
  init(
    _ devices: [(id: UInt64, details: DeviceDetails)], _ trees: [Orphan], emptyRoots: [UInt64],
    rebuilt: Set<UInt64>, earlier: EarlierTrees?, history: DeviceHistory?, isOnlyLoss: Bool
  ) {
    self.history = history
    self.rebuilt = rebuilt
    left = trees
    var empty = emptyRoots[...]
    var byCount: [UInt64: [(id: UInt64, details: DeviceDetails)]] = [:]
    for device in devices {
      if device.details.mappedBlocks > 0 {
        byCount[device.details.mappedBlocks, default: []].append(device)
      } else if let root = empty.popFirst() {
        // One is like the other.
        roots[device.id] = root
      }
    }
    for (count, devices) in byCount.sorted(by: { $0.key > $1.key }) {
      match(devices, count, earlier, isOnlyLoss)
    }
    matchDamaged(isOnlyLoss)
  }

  /// Gives damaged trees to devices whose count no whole tree has. They have fewer mappings; of one device
  /// and one tree that are left it is certain even so.
  private mutating func matchDamaged(_ isOnlyLoss: Bool) {
    var open = rest.sorted { $0.details.mappedBlocks > $1.details.mappedBlocks }
    let isGuess = open.count > 1 || !isOnlyLoss
    let damaged = left.indices.filter {
      left[$0].missing > 0 && left[$0].extent.height > 1 && !isWhole(left[$0])
    }
    if isGuess, let history { matchByHistory(&open, damaged, history) }
    for device in open {
      let fitting = damaged.filter {
        left[$0].missing > 0 && canBecome(left[$0], device.details.mappedBlocks)
      }
      guard let i = fitting.max(by: { left[$0].extent.leafEntries < left[$1].extent.leafEntries })
      else { continue }
      assign(device.id, i, isDoubtful: isGuess)
    }
  }

  /// Whether a damaged tree can have had so many mappings.
  private func canBecome(_ tree: Orphan, _ count: UInt64) -> Bool {
    tree.extent.leafEntries < count
      || tree.extent.leafEntries == count && rebuilt.contains(tree.block)
  }

  private mutating func match(
    _ devices: [(id: UInt64, details: DeviceDetails)], _ count: UInt64, _ earlier: EarlierTrees?,
    _ isOnlyLoss: Bool
  ) {
    var fitting = left.indices.filter {
      left[$0].missing > 0 && isWhole(left[$0]) && left[$0].extent.leafEntries == count
    }
    let places = fitting.reduce(0) { $0 + Int(left[$1].missing) }
    fitting.sort {
      (left[$0].latestTime, left[$0].block) > (left[$1].latestTime, left[$1].block)
    }
    let isCertain = isOnlyLoss && places >= devices.count
    var open = devices.sorted {
      ($0.details.creationTime, $0.id) < ($1.details.creationTime, $1.id)
    }
    let roots = earlier?.roots ?? [:]
    if fitting.count > 1, devices.allSatisfy({ roots[$0.id] != nil }) {
      for device in open {
        guard let i = fitting.first(where: { left[$0].block == roots[device.id] }),
          left[i].missing > 0, devices.count(where: { roots[$0.id] == left[i].block }) == 1
        else { continue }
        assign(device.id, i, isDoubtful: !isCertain)
        open.removeAll { $0.id == device.id }
      }
    }
    fitting.removeAll { left[$0].missing == 0 }
    let isOnlyTree = fitting.count < 2
    if !isOnlyTree, let earlier {
      matchByKinship(&open, fitting, earlier, isFull: places == devices.count)
    }
    if !isOnlyTree, let history { matchByHistory(&open, fitting, history) }
    let rest = fitting.filter { left[$0].missing > 0 }
    for device in open {
      guard let i = rest.first(where: { left[$0].missing > 0 }) else {
        self.rest.append(device)
        continue
      }
      assign(device.id, i, isDoubtful: !isCertain || !isOnlyTree)
    }
  }

  /// Gives devices trees that they had before and no other had, and takes them out of `open`.
  private mutating func matchByHistory(
    _ open: inout [(id: UInt64, details: DeviceDetails)], _ trees: [Int], _ history: DeviceHistory
  ) {
    var owners: [UInt64: Int] = [:]
    for device in open {
      for root in history.roots(of: device.id) { owners[root, default: 0] += 1 }
    }
    var places: [UInt64: Int] = [:]
    for i in trees where owners[left[i].block] ?? 0 <= Int(left[i].missing) {
      places[left[i].block] = i
    }
    open.removeAll { device in
      let count = device.details.mappedBlocks
      let root = history.roots(of: device.id).first {
        places[$0].map { i in
          left[i].missing > 0 && (isWhole(left[i]) || canBecome(left[i], count))
        } ?? false
      }
      guard let root, let i = places[root] else { return false }
      assign(device.id, i, isDoubtful: true)
      return true
    }
  }

  /// Gives devices the trees that became of their earlier ones, and takes them out of `open`.
  /// - Parameter isFull: whether there are as many trees as devices, so that each is one of theirs.
  private mutating func matchByKinship(
    _ open: inout [(id: UInt64, details: DeviceDetails)], _ trees: [Int], _ earlier: EarlierTrees,
    isFull: Bool
  ) {
    var kinships: [UInt64: [Int: EarlierTrees.Kinship]] = [:]
    for device in open where earlier.roots[device.id] != nil {
      for i in trees {
        kinships[device.id, default: [:]][i] = earlier.kinship(of: left[i].block, with: device.id)
      }
    }
    func canHave(_ id: UInt64, _ i: Int) -> Bool {
      left[i].missing > 0 && kinships[id]?[i]?.canFollow ?? true
    }
    /// A device and a tree of which no other is possible.
    func onlyPair() -> (id: UInt64, tree: Int)? {
      for device in open {
        let possible = trees.filter { canHave(device.id, $0) }
        if possible.count == 1 { return (device.id, possible[0]) }
      }
      for i in trees where isFull && left[i].missing > 0 {
        let possible = open.filter { canHave($0.id, i) }
        if possible.count <= Int(left[i].missing), let device = possible.first {
          return (device.id, i)
        }
      }
      return nil
    }
    while let (id, i) = onlyPair() {
      assign(id, i, isDoubtful: true)
      open.removeAll { $0.id == id }
    }
    // The rest is a guess.
    var pairs: [(id: UInt64, tree: Int, common: Int)] = []
    for device in open {
      for i in trees where canHave(device.id, i) {
        guard let kinship = kinships[device.id]?[i] else { continue }
        pairs.append((device.id, i, kinship.common))
      }
    }
    pairs.sort { $0.common > $1.common }
    for pair in pairs where left[pair.tree].missing > 0 && roots[pair.id] == nil {
      assign(pair.id, pair.tree, isDoubtful: true)
      open.removeAll { $0.id == pair.id }
    }
  }

  private func isWhole(_ tree: Orphan) -> Bool {
    tree.extent.isSound && !rebuilt.contains(tree.block)
  }

  private mutating func assign(_ id: UInt64, _ i: Int, isDoubtful: Bool) {
    roots[id] = left[i].block
    left[i].missing -= 1
    if isDoubtful { doubtful.insert(id) }
  }
}
