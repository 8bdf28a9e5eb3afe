import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import PersistentData

/// Trees that no kernel writes. Every reader must end, and report the fault. (No time limit: it
/// would include the time that a test waits for others.)
@Suite struct HostileTreeTests {
  private let device = MemoryDevice(byteCount: 64 * 4096)

  /// The first fault that each reader of trees reports.
  private func faults(root: UInt64) -> (reader: TreeFault?, leaves: TreeFault?, forest: [TreeFault])
  {
    var readerFault: TreeFault?
    var leavesFault: TreeFault?
    let reader = BlockReader(device)
    do throws(TreeFault) {
      try TreeReader(reader, .mappings).forEach(root: root) { _, _ in }
    } catch { readerFault = error }
    do throws(TreeFault) {
      try LeafSequence(reader, stream: BlockStream(device)).forEach(root: root) { _ in }
    } catch { leavesFault = error }
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    var found: [TreeFault] = []
    forest.onFault = { found.append($0) }
    forest.walk(.mappings, roots: [root]) { _, _ in }
    let summary = forest.verify(.mappings, root: root)
    #expect(summary.isSound == !found.contains { $0.isFatal })
    return (readerFault, leavesFault, found)
  }

  private func leaf(_ block: UInt64, from key: UInt64, count: Int = 126) {
    device.putNode(block, isLeaf: true, (0..<count).map { NodeEntry(key + UInt64($0), 0) })
  }

  @Test("a sound tree has no faults")
  func sound() {
    leaf(2, from: 0)
    leaf(3, from: 500)
    device.putNode(1, isLeaf: false, [NodeEntry(0, 2), NodeEntry(400, 3)])
    let found = faults(root: 1)
    #expect(found.reader == nil && found.leaves == nil && found.forest.isEmpty)
  }

  @Test("a node that is its own child is a cycle")
  func selfCycle() {
    device.putNode(1, isLeaf: false, [NodeEntry(0, 1)])
    let found = faults(root: 1)
    #expect(found.reader?.problem == .tooDeep)
    #expect(found.leaves?.problem == .tooDeep)
    #expect(found.forest.contains { $0.problem == .cycle && $0.block == 1 })
  }

  @Test("a cycle beside a sound path is found")
  func hiddenCycle() {
    leaf(3, from: 0)
    device.putNode(2, isLeaf: false, [NodeEntry(0, 3), NodeEntry(200, 1)])
    device.putNode(1, isLeaf: false, [NodeEntry(0, 2)])
    // Block 1 is where a leaf should be, which is for the reader of leaves to find.
    let found = faults(root: 1)
    #expect(found.reader != nil)
    #expect(found.forest.contains { $0.problem == .cycle && $0.block == 1 && $0.parent == 2 })
  }

  @Test("more levels than the format allows are refused", arguments: [15, 16, 17, 40])
  func depth(_ levels: Int) {
    for level in 1..<levels {
      device.putNode(UInt64(level), isLeaf: false, [NodeEntry(0, UInt64(level + 1))])
    }
    leaf(UInt64(levels), from: 0)
    let found = faults(root: 1)
    #expect((found.reader?.problem == .tooDeep) == (levels > 16))
    #expect((found.leaves?.problem == .tooDeep) == (levels > 16))
    #expect(found.forest.contains { $0.problem == .tooDeep } == (levels > 16))
  }

  @Test("a tree in which every path is the same chain of nodes is read in bounded time")
  func sharedChain() {
    // 252 entries in each of twelve levels, all to the same child: 10 to the 29th paths.
    let every = (0..<252).map { UInt64($0) }
    for level in 1..<13 {
      device.putNode(UInt64(level), isLeaf: false, every.map { NodeEntry($0, UInt64(level + 1)) })
    }
    for lowest in [true, false] {
      // The chain ends in a leaf, or in a node without children.
      device.putNode(13, isLeaf: lowest, [])
      let found = faults(root: 1)
      #expect(found.reader != nil && found.leaves != nil)
      #expect(found.forest.contains { $0.isFatal } || lowest)
    }
    // A long first path sets the height; all others end early, in a node without children.
    leaf(20, from: 0)
    for level in (21...33).reversed() {
      let child: UInt64 = level == 33 ? 20 : UInt64(level + 1)
      device.putNode(UInt64(level), isLeaf: false, [NodeEntry(0, child)])
    }
    device.putNode(
      21, isLeaf: false, [NodeEntry(0, 22)] + every.dropFirst().map { NodeEntry($0, 1) })
    device.putNode(10, isLeaf: false, [])
    let found = faults(root: 21)
    #expect(found.reader != nil && found.leaves != nil && !found.forest.isEmpty)
  }

  @Test(
    "more entries than there are numbers for, of nodes that lead to the same node, are 2^64 - 1")
  func uncountable() {
    leaf(1, from: 0, count: 252)
    for level in UInt64(2)...10 {
      device.putNode(level, isLeaf: false, (0..<252).map { NodeEntry($0, level - 1) })
    }
    let reader = BlockReader(device)
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    forest.walk(.mappings, roots: [10]) { _, _ in }
    let summary = forest.verify(.mappings, root: 10)
    #expect(summary.leafEntries == .max && !summary.isSound)
    // 252^8 is the last power of it that fits.
    #expect(forest.extent(of: 8)?.leafEntries == (0..<8).reduce(UInt64(1)) { all, _ in all * 252 })
    forest.adopt([(0, 10), (300, 9)], inPlaceOf: 10)
    #expect(forest.extent(of: 10)?.leafEntries == .max)
  }

  @Test("children of the wrong kind, out of range or damaged are reported with their parents")
  func children() {
    leaf(2, from: 0)
    device.putNode(3, kind: .details, isLeaf: true, [])
    device.putNode(
      1, isLeaf: false,
      [NodeEntry(0, 2), NodeEntry(200, 3), NodeEntry(300, 1000), NodeEntry(400, 5)])
    let found = faults(root: 1).forest
    #expect(
      found.contains {
        $0.block == 3
          && $0.problem == .unusable(.format(.field(.valueSize, expected: 8, found: 24)))
      })
    #expect(
      found.contains {
        $0.block == 1 && $0.problem == .pointsBeyondEnd(entry: 2, child: 1000, blockCount: 64)
      })
    #expect(found.contains { $0.block == 5 })
    #expect(faults(root: 64).forest.first?.problem == .unusable(.beyondEnd(blockCount: 64)))
  }

  @Test("keys outside the parent's range, uneven heights and underfull nodes are found")
  func misplaced() {
    leaf(2, from: 0)
    leaf(3, from: 100)
    device.putNode(1, isLeaf: false, [NodeEntry(1, 2), NodeEntry(110, 3)])
    var found = faults(root: 1).forest
    #expect(
      found.contains { $0.block == 2 && $0.problem == .keyBelowSeparator(expected: 1, found: 0) })
    #expect(
      found.contains {
        $0.block == 2 && $0.problem == .keyNotBelowNextSeparator(limit: 110, found: 125)
      })
    #expect(
      found.contains {
        $0.block == 3 && $0.problem == .keyBelowSeparator(expected: 110, found: 100)
      })
    leaf(4, from: 500, count: 83)
    device.putNode(3, isLeaf: false, [NodeEntry(500, 4)])
    device.putNode(1, isLeaf: false, [NodeEntry(0, 2), NodeEntry(500, 3)])
    found = faults(root: 1).forest
    #expect(found.contains { $0.block == 3 && $0.problem == .unevenHeight(expected: 1, found: 2) })
    #expect(found.contains { $0.block == 4 && $0.problem == .underfull(expected: 84, found: 83) })
  }

  @Test("the ranges of lost leaves reach from one key of the parent to the next, and to both ends")
  func lostRanges() {
    func lost(_ wrecked: UInt64...) -> [String] {
      for i in 0..<3 { leaf(UInt64(10 + i), from: UInt64(100 + i * 1000)) }
      device.putNode(
        1, isLeaf: false, (0..<3).map { NodeEntry(UInt64(100 + $0 * 1000), UInt64(10 + $0)) })
      for block in wrecked { device.edit(block)[99] ^= 1 }
      let forest = TreeForest(BlockReader(device), counts: ReferenceCounts(blockCount: 64))
      forest.walk(.mappings, roots: [1]) { _, _ in }
      _ = forest.verify(.mappings, root: 1)
      var ranges: [String] = []
      forest.forEachLostRange(.mappings, root: 1) { block, range in
        ranges.append("\(block): \(range)")
        return true
      }
      return ranges
    }
    #expect(lost() == [])
    #expect(lost(10) == ["10: 0..<1100"])
    #expect(lost(11) == ["11: 1100..<2100"])
    #expect(lost(12, 10) == ["10: 0..<1100", "12: 2100..<\(UInt64.max)"])
    #expect(lost(1) == ["1: 0..<\(UInt64.max)"])
  }

  @Test("a block that two kinds of tree refer to is cross-linked")
  func crossLinked() {
    let reader = BlockReader(device)
    leaf(1, from: 0)
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: 64))
    var found: [TreeFault] = []
    forest.onFault = { found.append($0) }
    forest.walk(.mappings, roots: [1]) { _, _ in }
    forest.walk(.details, roots: [1]) { _, _ in }
    #expect(!forest.verify(.details, root: 1).isSound)
    #expect(found == [TreeFault(.details, block: 1, .crossLinked)])
    #expect(forest.verify(.mappings, root: 1).leafEntries == 126)
  }

  @Test("shared nodes are read once and judged for each tree that has them")
  func shared() {
    for i in 0..<10 { leaf(UInt64(10 + i), from: UInt64(i * 1000)) }
    let common = (0..<10).map { NodeEntry(UInt64($0 * 1000), UInt64(10 + $0)) }
    for root in 1...5 { device.putNode(UInt64(root), isLeaf: false, common) }
    let counts = ReferenceCounts(blockCount: 64)
    let forest = TreeForest(BlockReader(device), counts: counts)
    var nodes = 0
    var leaves = 0
    forest.onNode = { nodes += 1 }
    forest.walk(.mappings, roots: 1...5) { _, _ in leaves += 1 }
    #expect(nodes == 15 && leaves == 10)
    for root in 1...5 {
      let summary = forest.verify(.mappings, root: UInt64(root))
      #expect(summary == .init(leafEntries: 1260, isSound: true, lastKey: 9125))
    }
    #expect((10..<20).allSatisfy { counts.count(of: $0) == 5 })
  }
}
