import PersistentData
import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import ThinTools

/// Trees of mappings in memory that lost a node, and leaves that it may have led to.
///
/// The lost node of a device is the second child of its root, for keys from 100 to 199, and is internal.
private struct LostNodes {
  let device = MemoryDevice(byteCount: 128 * 4096)
  let forest: TreeForest
  private(set) var roots: [(id: UInt64, root: UInt64)] = []
  private(set) var orphans: [Orphan] = []
  private let reader: BlockReader

  init() {
    reader = BlockReader(device)
    forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
  }

  private func putLeaf(_ block: UInt64, _ keys: ClosedRange<UInt64>) {
    device.putNode(block, isLeaf: true, keys.map { NodeEntry($0, $0 << 24) })
  }

  /// A device whose tree is at `root`, in four blocks from there on, and leads to `lost`, which is zeros.
  /// - Parameter from: the first key for which the lost node is.
  mutating func addDevice(_ id: UInt64, root: UInt64, lost: UInt64, from: UInt64 = 100) {
    putLeaf(root + 1, 0...9)
    putLeaf(root + 2, 200...209)
    device.putNode(root + 3, isLeaf: false, [NodeEntry(0, root + 1)])
    device.putNode(root + 4, isLeaf: false, [NodeEntry(200, root + 2)])
    device.putNode(
      root, isLeaf: false,
      [NodeEntry(0, root + 3), NodeEntry(from, lost), NodeEntry(200, root + 4)])
    forest.walk(.mappings, roots: [root]) { _, _ in }
    #expect(!forest.verify(.mappings, root: root).isSound)
    roots.append((id, root))
  }

  /// A leaf with these keys to which something led `missing` times that is lost.
  mutating func addOrphan(
    _ block: UInt64, _ keys: ClosedRange<UInt64>, missing: UInt32 = 1, time: UInt32 = 0
  ) throws {
    putLeaf(block, keys)
    try addOrphan(block, missing, time)
  }

  /// A node over the leaf in the next block.
  mutating func addHighOrphan(_ block: UInt64, _ keys: ClosedRange<UInt64>) throws {
    putLeaf(block + 1, keys)
    device.putNode(block, isLeaf: false, [NodeEntry(keys.lowerBound, block + 1)])
    try addOrphan(block, 1, 0)
  }

  private mutating func addOrphan(_ block: UInt64, _ missing: UInt32, _ time: UInt32) throws {
    forest.walk(.mappings, roots: [block]) { _, _ in }
    _ = forest.verify(.mappings, root: block)
    let extent = try #require(forest.extent(of: block))
    orphans.append(Orphan(block: block, extent: extent, missing: missing, latestTime: time))
  }

  /// What is decided.
  /// - Parameters:
  ///   - lacking: mappings that devices lack.
  ///   - earlier: the device that led to a block by the earlier tree at block 120.
  func run(
    _ lacking: [UInt64: UInt64], choice: OrphanChoice = .none,
    earlier: (id: UInt64, block: UInt64, key: UInt64)? = nil, isDoubtful: Bool = false
  ) -> OrphanAdoption {
    var adoption = OrphanAdoption(.mappings, forest, roots: roots, lacking: lacking)
    adoption.isDoubtful = isDoubtful
    if let earlier {
      device.putNode(120, isLeaf: false, [NodeEntry(earlier.key, earlier.block)])
      device.putNode(121, kind: .devices, isLeaf: true, [NodeEntry(earlier.id, 120)])
      let history = DeviceHistory(reader, leaves: [121], before: 122, of: Set(roots.map(\.id)))
      adoption.earlier = EarlierNodes(reader, history)
    }
    adoption.run(orphans, choice: choice)
    return adoption
  }

  /// Leaves of a device, in the order of their keys.
  func leaves(of root: UInt64) -> [UInt64] {
    var found: [UInt64] = []
    forest.forEachUsableLeaf(.mappings, root: root) { found.append($0) }
    return found
  }
}

extension OrphanAdoption {
  /// What was adopted for certain, and what was not, by the block of the lost node.
  fileprivate var taken: [UInt64: (certain: [UInt64], doubtful: [UInt64])] {
    adopted.mapValues { children in
      (children.filter { !$0.isDoubtful }.map(\.block), children.filter(\.isDoubtful).map(\.block))
    }
  }
}

/// Which subtrees are put into the place of a lost node.
@Suite struct OrphanAdoptionTests {
  @Test("what fits into one place alone is put there for certain, in the order of keys")
  func onePlace() throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    try nodes.addOrphan(40, 150...159)
    try nodes.addOrphan(41, 100...149)
    try nodes.addOrphan(42, 160...199)
    let adoption = nodes.run([1: 100])
    #expect(adoption.adopted.keys.map { $0 } == [30])
    #expect(
      adoption.adopted[30] == [
        .init(block: 41, firstKey: 100, lastKey: 149, isDoubtful: false),
        .init(block: 40, firstKey: 150, lastKey: 159, isDoubtful: false),
        .init(block: 42, firstKey: 160, lastKey: 199, isDoubtful: false),
      ])
    #expect(adoption.unclear.isEmpty)
    #expect(nodes.leaves(of: 10) == [11, 41, 40, 42, 12])
  }

  @Test("where something else may be lost as well, it is put there and doubtful")
  func somethingElseLost() throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    try nodes.addOrphan(40, 100...109)
    let taken = nodes.run([1: 10], isDoubtful: true).taken
    #expect(taken[30]?.doubtful == [40] && taken[30]?.certain == [])
  }

  @Test("where something else may be lost as well, what has exactly the number lacking goes first")
  func exactNumber() throws {
    for (lacking, taken) in [(20, [40, 41]), (19, [38])] as [(UInt64, [UInt64])] {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      try nodes.addOrphan(38, 150...168)
      try nodes.addOrphan(40, 100...109)
      try nodes.addOrphan(41, 120...129)
      let adoption = nodes.run([1: lacking], isDoubtful: true)
      #expect(adoption.taken[30]?.doubtful == taken && adoption.taken[30]?.certain == [])
      #expect(adoption.unclear.isEmpty)
    }
  }

  @Test("what has exactly the number that two devices lack is theirs if two nodes led to it")
  func exactNumberTwice() throws {
    for missing in [1, 2] as [UInt32] {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      nodes.addDevice(7, root: 20, lost: 31)
      try nodes.addOrphan(38, 150...158, missing: missing)
      try nodes.addOrphan(40, 100...109, missing: missing)
      let adoption = nodes.run([1: 10, 7: 10], isDoubtful: true)
      let places = missing == 2 ? [30, 31] : [] as [UInt64]
      #expect(adoption.adopted.keys.sorted() == places)
      for place in places { #expect(adoption.taken[place]?.doubtful == [40]) }
      #expect(adoption.unclear.map(\.owners) == (missing == 2 ? [] : [[1, 7], [1, 7]]))
    }
  }

  @Test(
    "what has a key outside of the place does not fit, and is not called unclear",
    arguments: [99...120, 190...200, 90...210, 50...60, 205...210] as [ClosedRange<UInt64>],
    OrphanChoice.allCases)
  func keysOutside(_ keys: ClosedRange<UInt64>, _ choice: OrphanChoice) throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    try nodes.addOrphan(40, keys)
    let adoption = nodes.run([:], choice: choice)
    #expect(adoption.adopted.isEmpty && adoption.unclear.isEmpty)
    #expect(nodes.leaves(of: 10) == [11, 12])
  }

  @Test("a node that is as high as the lost one was not below it")
  func height() throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    try nodes.addHighOrphan(40, 100...109)
    let adoption = nodes.run([1: 10], choice: .newest)
    #expect(adoption.adopted.isEmpty && adoption.unclear.isEmpty)
  }

  @Test(
    "what has more mappings than the device lacks does not fit; without details, any number does")
  func mappingsLacking() throws {
    for (lacking, fits) in [([1: 9], false), ([1: 10], true), ([:], true)]
      as [([UInt64: UInt64], Bool)]
    {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      try nodes.addOrphan(40, 100...109)
      let adoption = nodes.run(lacking, choice: .newest)
      #expect(adoption.taken[30]?.certain == (fits ? [40] : nil), "\(lacking)")
      #expect(adoption.unclear.isEmpty)
    }
  }

  @Test("what fits two devices is left out and named with both, unless the user prefers one")
  func twoPlaces() throws {
    for choice in OrphanChoice.allCases {
      var nodes = LostNodes()
      nodes.addDevice(7, root: 20, lost: 31)
      nodes.addDevice(1, root: 10, lost: 30)
      try nodes.addOrphan(40, 100...109)
      let adoption = nodes.run([1: 10, 7: 10], choice: choice)
      if choice == .none {
        #expect(adoption.adopted.isEmpty)
        #expect(adoption.unclear == [.init(orphan: nodes.orphans[0], owners: [1, 7])])
        continue
      }
      // Something led to it once: one of the two gets it.
      #expect(adoption.adopted.count == 1 && adoption.unclear.isEmpty)
      #expect(adoption.taken.values.first?.doubtful == [40], "\(choice)")
    }
  }

  @Test("a device that details no longer list is a second place, with any number of mappings")
  func unlistedDevice() throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    nodes.addDevice(7, root: 20, lost: 31)
    try nodes.addOrphan(40, 100...109)
    // 1 lacks exactly what is found.
    let adoption = nodes.run([1: 10])
    #expect(adoption.adopted.isEmpty)
    #expect(adoption.unclear.first?.owners == [1, 7])
  }

  @Test("what as many lost nodes led to as there are places is put into each for certain")
  func missingTwice() throws {
    var nodes = LostNodes()
    nodes.addDevice(1, root: 10, lost: 30)
    nodes.addDevice(7, root: 20, lost: 31)
    try nodes.addOrphan(40, 100...109, missing: 2)
    let adoption = nodes.run([1: 10, 7: 10])
    #expect(adoption.taken[30]?.certain == [40] && adoption.taken[31]?.certain == [40])
    #expect(adoption.unclear.isEmpty)
    #expect(nodes.leaves(of: 10) == [11, 40, 12] && nodes.leaves(of: 20) == [21, 40, 22])
  }

  @Test("a lost node that two devices share is one place, within the keys of both")
  func sharedNode() throws {
    for (keys, fits) in [(100...109, false), (120...129, true)] as [(ClosedRange<UInt64>, Bool)] {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      nodes.addDevice(7, root: 20, lost: 30, from: 120)
      try nodes.addOrphan(40, keys)
      let adoption = nodes.run([1: 10, 7: 10])
      #expect(adoption.taken[30]?.certain == (fits ? [40] : nil), "\(keys)")
      #expect(nodes.leaves(of: 20) == (fits ? [21, 40, 22] : [21, 22]))
    }
  }

  @Test("of two that fit into the same place neither is taken, unless the user prefers one")
  func rivals() throws {
    for (choice, preferred) in [(OrphanChoice.none, nil), (.newest, 41), (.oldest, 40)]
      as [(OrphanChoice, UInt64?)]
    {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      // 42 is beside both, and fits whichever of them is right.
      try nodes.addOrphan(40, 100...109, time: 5)
      try nodes.addOrphan(41, 109...114, time: 7)
      try nodes.addOrphan(42, 115...119, time: 6)
      let adoption = nodes.run([1: 50], choice: choice)
      #expect(adoption.taken[30]?.certain == [42])
      #expect(adoption.taken[30]?.doubtful == (preferred.map { [$0] } ?? []))
      #expect(adoption.unclear.map(\.orphan.block) == (preferred == nil ? [40, 41] : []))
    }
  }

  @Test("of two places, the device whose tree led to it earlier, for these keys, gets it; doubtful")
  func earlierTree() throws {
    for (id, key, place) in [(7, 100, 31), (1, 100, 30), (7, 105, nil)]
      as [(UInt64, UInt64, UInt64?)]
    {
      var nodes = LostNodes()
      nodes.addDevice(1, root: 10, lost: 30)
      nodes.addDevice(7, root: 20, lost: 31)
      try nodes.addOrphan(40, 100...109)
      let adoption = nodes.run([1: 10, 7: 10], earlier: (id, 40, key))
      #expect(
        adoption.adopted.keys.first == place && adoption.adopted.count == (place == nil ? 0 : 1))
      #expect(place == nil || adoption.taken.values.first?.doubtful == [40])
      #expect(adoption.unclear.isEmpty == (place != nil))
    }
  }
}
