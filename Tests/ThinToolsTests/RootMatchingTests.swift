import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import PersistentData
@testable import ThinTools

/// Which mapping tree is given to which device where the tree of devices is lost.
@Suite struct RootMatchingTests {
  private let device = MemoryDevice(byteCount: 64 * 4096)

  private func details(_ mapped: UInt64, created: UInt32 = 0) -> DeviceDetails {
    DeviceDetails(mappedBlocks: mapped, transactionID: 1, creationTime: created, snapshottedTime: 0)
  }

  /// A tree of so many mappings, to which something led `missing` times that is lost.
  private func tree(
    _ block: UInt64, _ mapped: UInt64, missing: UInt32 = 1, time: UInt32 = 0, isWhole: Bool = true
  ) -> Orphan {
    let extent = TreeForest.Extent(
      firstKey: 0, lastKey: 999, height: 2, leafEntries: mapped, isSound: isWhole)
    return Orphan(block: block, extent: extent, missing: missing, latestTime: time)
  }

  private func match(
    _ devices: [UInt64: DeviceDetails], _ trees: [Orphan], emptyRoots: [UInt64] = [],
    rebuilt: Set<UInt64> = [], earlier: EarlierTrees? = nil, history: DeviceHistory? = nil,
    isOnlyLoss: Bool = true
  ) -> RootMatching {
    RootMatching(
      devices.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }, trees, emptyRoots: emptyRoots,
      rebuilt: rebuilt, earlier: earlier, history: history, isOnlyLoss: isOnlyLoss)
  }

  /// A history in which each device had one tree.
  private func history(_ roots: [UInt64: UInt64]) -> DeviceHistory {
    device.putNode(
      60, kind: .devices, isLeaf: true,
      roots.sorted { $0.key < $1.key }.map { NodeEntry($0.key, $0.value) })
    return DeviceHistory(
      BlockReader(device), leaves: [60], before: 61, of: Set(roots.keys))
  }

  /// A whole generation of time 3 in which the devices had these trees.
  private func generation(_ roots: [UInt64: UInt64], _ now: [UInt64: DeviceDetails]) -> EarlierTrees
  {
    let sorted = roots.sorted { $0.key < $1.key }
    device.putNode(60, kind: .devices, isLeaf: true, sorted.map { NodeEntry($0.key, $0.value) })
    device.putNode(61, kind: .details, isLeaf: true, sorted.map { NodeEntry($0.key, 0) })
    device.change(61, .btreeNode) { bytes in
      let values = 32 + 8 * BtreeNodeRecord.entriesMax(valueSize: DeviceDetails.byteCount)
      for (i, entry) in sorted.enumerated() {
        now[entry.key]?.encode(into: bytes, at: values + i * DeviceDetails.byteCount)
      }
    }
    return EarlierTrees(
      BlockReader(device),
      RootScan.Roots(mappingRoot: 60, detailsRoot: 61, time: 3, transactionID: 2, candidates: 1),
      now)
  }

  /// A tree of a single leaf with these mappings: keys, data block of the first, time.
  private func putTree(_ block: UInt64, _ runs: [(keys: Range<UInt64>, data: UInt64, time: UInt32)])
  {
    device.putNode(
      block, isLeaf: true,
      runs.flatMap { run in
        run.keys.map {
          NodeEntry(
            $0,
            Mapping(dataBlock: run.data + $0 - run.keys.lowerBound, time: run.time).rawValue)
        }
      })
  }

  @Test("a device gets the tree with as many mappings, for certain if nothing else can be lost")
  func byNumber() {
    for isOnlyLoss in [true, false] {
      let found = match(
        [1: details(10), 2: details(20)], [tree(30, 20), tree(31, 10)], isOnlyLoss: isOnlyLoss)
      #expect(found.roots == [1: 31, 2: 30])
      #expect(found.doubtful == (isOnlyLoss ? [] : [1, 2]))
    }
  }

  @Test("the tree of a device that the details no longer list is given to no other")
  func unlistedDevice() {
    let found = match([1: details(10), 2: details(11)], [tree(30, 10), tree(31, 12)])
    #expect(found.roots == [1: 30] && found.doubtful == [])
  }

  @Test("of two devices with equal numbers the earlier gets the tree with later mappings; doubtful")
  func equalNumbers() {
    let devices: [UInt64: DeviceDetails] = [1: details(10, created: 4), 2: details(10, created: 2)]
    let found = match(devices, [tree(30, 10, time: 5), tree(31, 10, time: 9)])
    #expect(found.roots == [1: 30, 2: 31] && found.doubtful == [1, 2])
  }

  @Test("a tree is given to as many devices as it is missing references, and no more for certain")
  func missingReferences() {
    let devices: [UInt64: DeviceDetails] = [1: details(10), 2: details(10)]
    let both = match(devices, [tree(30, 10, missing: 2)])
    #expect(both.roots == [1: 30, 2: 30] && both.doubtful == [])
    // One of them has another tree, which is not found.
    let one = match(devices, [tree(30, 10)])
    #expect(one.roots == [1: 30] && one.doubtful == [1])
    let none = match(devices, [tree(30, 10, missing: 0)])
    #expect(none.roots == [:])
  }

  @Test("a tree that one device alone had earlier is that device's again")
  func sameTreeAsEarlier() {
    let now: [UInt64: DeviceDetails] = [1: details(10, created: 1), 2: details(10, created: 2)]
    let trees = [tree(30, 10, time: 9), tree(31, 10, time: 5)]
    // By times alone it would be the other way round.
    let found = match(now, trees, earlier: generation([1: 31, 2: 30], now))
    #expect(found.roots == [1: 31, 2: 30] && found.doubtful == [])
    // Then both had it: which of them has it still is unknown.
    let shared = match(now, trees, earlier: generation([1: 31, 2: 31], now))
    #expect(shared.roots.count == 2 && shared.doubtful == [1, 2])
  }

  @Test("a tree with an old mapping that a device did not have then is another device's")
  func kinship() {
    let now: [UInt64: DeviceDetails] = [1: details(10, created: 1), 2: details(10, created: 2)]
    putTree(40, [(0..<10, 100, 1)])
    putTree(41, [(0..<10, 200, 1)])
    // Each has kept half, and mapped the rest again.
    putTree(30, [(0..<5, 200, 1), (5..<10, 300, 8)])
    putTree(31, [(0..<5, 100, 1), (5..<10, 400, 5)])
    let found = match(
      now, [tree(30, 10, time: 8), tree(31, 10, time: 5)],
      earlier: generation([1: 40, 2: 41], now))
    #expect(found.roots == [1: 31, 2: 30] && found.doubtful == [1, 2])
  }

  @Test(
    "where a tree has as much in common with two devices, what the other tree cannot be decides")
  func otherTree() {
    let now: [UInt64: DeviceDetails] = [1: details(10, created: 2), 2: details(10, created: 1)]
    putTree(40, [(0..<10, 100, 1)])
    putTree(41, [(0..<9, 100, 1), (9..<10, 209, 1)])
    putTree(30, [(0..<9, 100, 1), (9..<10, 300, 5)])
    // The last is what 2 had and 1 did not.
    putTree(31, [(0..<8, 400, 8), (8..<9, 108, 1), (9..<10, 209, 1)])
    let found = match(
      now, [tree(30, 10, time: 5), tree(31, 10, time: 8)],
      earlier: generation([1: 40, 2: 41], now))
    #expect(found.roots == [1: 30, 2: 31] && found.doubtful == [1, 2])
  }

  @Test("a tree that one device alone had in any generation is given to it, doubtful")
  func byHistory() {
    let now: [UInt64: DeviceDetails] = [1: details(10, created: 1), 2: details(10, created: 2)]
    let trees = [tree(30, 10, time: 9), tree(31, 10, time: 5)]
    let found = match(now, trees, history: history([1: 31, 2: 30]))
    #expect(found.roots == [1: 31, 2: 30] && found.doubtful == [1, 2])
    // Both had the one: times decide.
    let shared = match(now, trees, history: history([1: 31, 2: 31]))
    #expect(shared.roots == [1: 30, 2: 31] && shared.doubtful == [1, 2])
  }

  @Test(
    "a damaged tree is given to a device that has more mappings, for certain if there is one of each"
  )
  func damagedTree() {
    let damaged = tree(30, 7, isWhole: false)
    let only = match([1: details(10)], [damaged])
    #expect(only.roots == [1: 30] && only.doubtful == [])
    let lossy = match([1: details(10)], [damaged], isOnlyLoss: false)
    #expect(lossy.roots == [1: 30] && lossy.doubtful == [1])
    let two = match([1: details(10), 2: details(20)], [damaged])
    #expect(two.roots == [2: 30] && two.doubtful == [2])
    // It has lost something, and so cannot have had as few.
    #expect(match([1: details(7)], [damaged]).roots == [:])
    // Its leaf that is made up has the number that the device lacked.
    let rebuilt = match([1: details(7)], [tree(30, 7)], rebuilt: [30])
    #expect(rebuilt.roots == [1: 30])
    #expect(match([1: details(6)], [tree(30, 7)], rebuilt: [30]).roots == [:])
  }

  @Test("devices without mappings get empty trees, as many as there are")
  func emptyTrees() {
    let now: [UInt64: DeviceDetails] = [
      1: details(0), 2: details(0), 3: details(0), 4: details(10),
    ]
    let found = match(now, [tree(30, 10)], emptyRoots: [20, 20])
    #expect(found.roots == [1: 20, 2: 20, 4: 30] && found.doubtful == [])
  }
}
