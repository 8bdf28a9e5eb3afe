import PersistentData
import ThinFormat

/// Tells which mapping tree is which device's, where the tree of devices is lost and the details are not.
///
/// A device has as many mappings as its details say. Where several devices have as many, and their trees are
/// not one and the same, an earlier tree of devices helps: a root that was a device's then and is in use
/// still is that device's, if every one of these devices was there already and no other had it too. What is
/// left after that is a guess, and the devices are doubtful: the earlier device gets the tree with the later
/// mappings, as an origin that went on beside its snapshots.
struct RootMatching {
  /// Root by device.
  private(set) var roots: [UInt64: UInt64] = [:]
  /// Devices of which that is a guess.
  private(set) var doubtful: Set<UInt64> = []
  private var left: [Orphan]
  private var rest: [(id: UInt64, details: DeviceDetails)] = []

  /// - Parameters:
  ///   - devices: whose root is lost.
  ///   - trees: to which something led that is lost.
  ///   - emptyRoots: trees without a mapping, each as often as something led to it.
  ///   - earlier: root by device of an earlier tree of devices.
  ///   - isOnlyLoss: whether all trees are those of devices.
  init(
    _ devices: [(id: UInt64, details: DeviceDetails)], _ trees: [Orphan], emptyRoots: [UInt64],
    earlier: [UInt64: UInt64], isOnlyLoss: Bool
  ) {
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
    // What is damaged has fewer; of one device and one tree that are left it is certain all the same.
    rest.sort { $0.details.mappedBlocks > $1.details.mappedBlocks }
    for device in rest {
      guard
        let i = left.indices.filter({
          left[$0].missing > 0 && left[$0].extent.height > 1 && !left[$0].extent.isSound
            && left[$0].extent.leafEntries < device.details.mappedBlocks
        }).max(by: { left[$0].extent.leafEntries < left[$1].extent.leafEntries })
      else { continue }
      assign(device.id, i, isDoubtful: rest.count > 1 || !isOnlyLoss)
    }
  }

  private mutating func match(
    _ devices: [(id: UInt64, details: DeviceDetails)], _ count: UInt64, _ earlier: [UInt64: UInt64],
    _ isOnlyLoss: Bool
  ) {
    var fitting = left.indices.filter {
      left[$0].missing > 0 && left[$0].extent.isSound && left[$0].extent.leafEntries == count
    }
    let hasRoomForAll = fitting.reduce(0) { $0 + Int(left[$1].missing) } >= devices.count
    fitting.sort {
      (left[$0].latestTime, left[$0].block) > (left[$1].latestTime, left[$1].block)
    }
    var isCertain = isOnlyLoss && hasRoomForAll
    var open = devices.sorted {
      ($0.details.creationTime, $0.id) < ($1.details.creationTime, $1.id)
    }
    if fitting.count > 1, devices.allSatisfy({ earlier[$0.id] != nil }) {
      for device in open {
        guard let i = fitting.first(where: { left[$0].block == earlier[device.id] }),
          left[i].missing > 0, devices.count(where: { earlier[$0.id] == left[i].block }) == 1
        else { continue }
        assign(device.id, i, isDoubtful: !isCertain)
        open.removeAll { $0.id == device.id }
      }
    }
    let roots = fitting.filter { left[$0].missing > 0 }
    if roots.count > 1 { isCertain = false }
    for device in open {
      guard let i = roots.first(where: { left[$0].missing > 0 }) else {
        rest.append(device)
        continue
      }
      assign(device.id, i, isDoubtful: !isCertain)
    }
  }

  private mutating func assign(_ id: UInt64, _ i: Int, isDoubtful: Bool) {
    roots[id] = left[i].block
    left[i].missing -= 1
    if isDoubtful { doubtful.insert(id) }
  }
}
