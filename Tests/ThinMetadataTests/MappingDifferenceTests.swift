import BlockIO
import PersistentData
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

/// A device that counts the blocks read from another.
private final class CountingDevice: BlockDevice {
  private let device: MemoryDevice
  private(set) var blocksRead = 0

  init(_ device: MemoryDevice) { self.device = device }

  var path: String { device.path }
  var byteCount: UInt64 { device.byteCount }
  var descriptor: Int32? { nil }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    blocksRead += buffer.count / Limits.blockBytes
    try device.read(into: buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try device.write(buffer, at: offset)
  }

  func flush() { device.flush() }
}

/// A pool of snapshots of snapshots, and what each device maps.
private struct Family {
  let device = MemoryDevice(byteCount: 4096 * 4096)
  var mappings: [ThinID: [VirtualBlock: DataBlock]] = [:]
  private let pool: PoolMetadata
  private var random: SplitMix64

  init(seed: UInt64, sizes: [Int] = [0, 10, 300, 3000, 9000]) throws {
    random = SplitMix64(seed: seed)
    pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: 200_000)
    try pool.commit()
    try pool.createThin(0)
    mappings[0] = [:]
    // A tree of one leaf, of two levels, or of three, by seed.
    let size = sizes.randomElement(using: &random) ?? 0
    try write(0, runs: size / 10, of: 1...20)
    for number in 1...UInt64.random(in: 1...4, using: &random) {
      let id = ThinID(number)
      let origin = ThinID(.random(in: 0..<number, using: &random))
      try pool.createSnapshot(id, origin: origin)
      mappings[id] = mappings[origin]
      for changed in [id, origin] where Bool.random(using: &random) {
        try write(changed, runs: .random(in: 0...40, using: &random), of: 1...8)
        try discard(changed)
      }
    }
    try pool.createThin(9)
    mappings[9] = [:]
    if Bool.random(using: &random) { try write(9, runs: 200, of: 1...4) }
    try pool.commit()
  }

  private mutating func write(_ id: ThinID, runs: Int, of lengths: ClosedRange<UInt64>) throws {
    let window = UInt64(max(10, runs * 30))
    for _ in 0..<runs {
      let first = UInt64.random(in: 0..<window, using: &random)
      for number in first..<first + .random(in: lengths, using: &random) {
        let block = VirtualBlock(number)
        if let found = try pool.lookup(id, block), !found.isShared { continue }
        let data = try pool.allocateDataBlock()
        try pool.insert(id, block, dataBlock: data)
        mappings[id]?[block] = data
      }
    }
  }

  private mutating func discard(_ id: ThinID) throws {
    let first = VirtualBlock(.random(in: 0..<2000, using: &random))
    let range = first..<first + UInt64.random(in: 1...600, using: &random)
    try pool.remove(id, range)
    mappings[id] = mappings[id]?.filter { !range.contains($0.key) }
  }
}

@Suite struct MappingDifferenceTests {
  private func runs(
    _ device: any BlockDevice, _ left: ThinID, _ right: ThinID, same: Bool,
    _ rule: MappingDifference.RunRule
  ) throws -> [DifferenceRun] {
    let view = try MetadataView(device, source: .current)
    let roots = Dictionary(
      uniqueKeysWithValues: try view.deviceRoots().map { ($0.id, $0.root) })
    var difference = try MappingDifference(
      view, left: #require(roots[left]), right: #require(roots[right]), includesSame: same,
      rule: rule)
    var found: [DifferenceRun] = []
    try difference.forEachRun {
      found.append($0)
      return true
    }
    return found
  }

  @Test("runs of a device are its mappings, each as long as it can be")
  func singleDevice() throws {
    let first = seed()
    for number in 0..<8 {
      let family = try Family(seed: first &+ UInt64(number))
      let view = try MetadataView(family.device, source: .current)
      for (id, root) in try view.deviceRoots() {
        var found: [MappingRun] = []
        try view.forEachRun(of: root) { found.append($0) }
        var blocks: [VirtualBlock: DataBlock] = [:]
        for run in found {
          for i in 0..<run.length { blocks[run.virtualBlock + i] = run.dataBlock + i }
        }
        #expect(blocks == family.mappings[id], "seed \(first) + \(number): \(id)")
        let areApart = zip(found, found.dropFirst()).allSatisfy { a, b in
          let end = a.virtualBlock + a.length
          return b.virtualBlock > end
            || b.virtualBlock == end
              && (b.dataBlock != a.dataBlock + a.length || b.time != a.time)
        }
        #expect(areApart, "seed \(first) + \(number): \(id)")
      }
    }
  }

  /// The runs as single blocks.
  private func blocks(_ runs: [DifferenceRun], withData: Bool) -> [VirtualBlock: DifferenceRun] {
    var result: [VirtualBlock: DifferenceRun] = [:]
    for run in runs {
      for i in 0..<run.length {
        var block = run
        block.virtualBlock = run.virtualBlock + i
        block.length = 1
        block.left = withData && run.kind != .rightOnly ? run.left + i : 0
        block.right = withData && run.kind != .leftOnly ? run.right + i : 0
        result[block.virtualBlock] = block
      }
    }
    return result
  }

  private func expected(
    _ left: [VirtualBlock: DataBlock], _ right: [VirtualBlock: DataBlock], withData: Bool
  ) -> [VirtualBlock: DifferenceRun] {
    var result: [VirtualBlock: DifferenceRun] = [:]
    for key in left.merging(right, uniquingKeysWith: { a, _ in a }).keys {
      let kind: DifferenceRun.Kind =
        switch (left[key], right[key]) {
        case (_, nil): .leftOnly
        case (nil, _): .rightOnly
        case (let l, let r): l == r ? .same : .different
        }
      result[key] = DifferenceRun(
        kind: kind, virtualBlock: key, length: 1, left: withData ? left[key] ?? 0 : 0,
        right: withData ? right[key] ?? 0 : 0)
    }
    return result
  }

  @Test("differences equal those of dictionaries, for any two of a family of snapshots")
  func model() throws {
    let first = seed()
    for number in 0..<8 {
      let family = try Family(seed: first &+ UInt64(number))
      for (left, lefts) in family.mappings {
        for (right, rights) in family.mappings {
          for rule in [MappingDifference.RunRule.dataBlocks, .virtualBlocks] {
            let withData = rule == .dataBlocks
            let all = try runs(family.device, left, right, same: true, rule)
            let wanted = expected(lefts, rights, withData: withData)
            let isEqual = blocks(all, withData: withData) == wanted
            #expect(isEqual, "seed \(first) + \(number): \(left) and \(right)")
            #expect(zip(all, all.dropFirst()).allSatisfy { a, b in isApart(a, b, rule) })
            let changes = try runs(family.device, left, right, same: false, rule)
            let isLess = changes.filter { $0.kind != .same } == all.filter { $0.kind != .same }
            #expect(isLess, "seed \(first) + \(number): changes of \(left) and \(right)")
          }
        }
      }
    }
  }

  /// Whether `b` comes after `a` and could not have been part of it.
  private func isApart(
    _ a: DifferenceRun, _ b: DifferenceRun, _ rule: MappingDifference.RunRule
  ) -> Bool {
    let end = a.virtualBlock + a.length
    guard b.virtualBlock == end, a.kind == b.kind else { return b.virtualBlock >= end }
    return rule == .dataBlocks
      && (a.kind != .rightOnly && a.left + a.length != b.left
        || a.kind != .leftOnly && a.right + a.length != b.right)
  }

  @Test("for two large trees that differ in one place, little more than that place is read")
  func reads() throws {
    let device = MemoryDevice(byteCount: 4096 * 4096)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: 100_000)
    try pool.commit()
    try pool.createThin(1)
    for block in 0..<UInt64(50_000) {
      try pool.insert(1, VirtualBlock(block), dataBlock: pool.allocateDataBlock())
    }
    try pool.createSnapshot(2, origin: 1)
    try pool.insert(2, 30_000, dataBlock: pool.allocateDataBlock())
    try pool.commit()
    let counting = CountingDevice(device)
    let found = try runs(counting, 1, 2, same: false, .dataBlocks).filter { $0.kind != .same }
    #expect(found.map(\.virtualBlock) == [30_000] && found.map(\.kind) == [.different])
    // Superblock, tree of devices, two paths of three, and the look for heights.
    #expect(counting.blocksRead <= 16)
    let equal = CountingDevice(device)
    #expect(try runs(equal, 1, 1, same: false, .dataBlocks).isEmpty)
    #expect(equal.blocksRead <= 8)
  }

  @Test("iteration stops when the caller returns false")
  func stops() throws {
    let family = try Family(seed: 3)
    let view = try MetadataView(family.device, source: .current)
    let roots = try view.deviceRoots()
    var difference = try MappingDifference(
      view, left: roots[0].root, right: roots[1].root, includesSame: true, rule: .dataBlocks)
    var calls = 0
    try difference.forEachRun { _ in
      calls += 1
      return calls < 3
    }
    #expect(calls == 3)
  }

  @Test("any damage to trees leads to a fault that names the tree")
  func damage() throws {
    let first = seed()
    var random = SplitMix64(seed: first)
    var faults = 0
    for number in 0..<40 {
      let family = try Family(seed: first &+ UInt64(number % 4), sizes: [3000])
      let view = try MetadataView(family.device, source: .current)
      let roots = try view.deviceRoots().map(\.root)
      // A node's entries replaced, with a sound checksum: keys and children of any value.
      let nodes = (1..<UInt64(600)).filter { block in
        let bytes = RawSpan(_unsafeBytes: family.device.peek(block))
        let node = try? BtreeNodeView(validating: bytes, number: block, leafValueSize: 8)
        return (node?.entryCount ?? 0) > 0
      }
      let block = try #require(nodes.randomElement(using: &random))
      let (isLeaf, entries) = family.device.nodeEntries(block)
      var changed = entries
      let at = Int.random(in: 0..<entries.count, using: &random)
      let other = entries[Int.random(in: 0..<entries.count, using: &random)]
      switch Int.random(in: 0..<3, using: &random) {
      case 0: changed[at].value = other.value
      case 1: changed[at].key = UInt64.random(in: 0...60_000, using: &random)
      default: changed[at].value = UInt64.random(in: 0...600, using: &random)
      }
      family.device.putNode(block, isLeaf: isLeaf, changed)
      for left in roots {
        for right in roots where left != right {
          do throws(TreeFault) {
            var difference = try MappingDifference(
              view, left: left, right: right, includesSame: true, rule: .dataBlocks)
            var last: VirtualBlock = 0
            try difference.forEachRun {
              #expect($0.virtualBlock >= last)
              last = $0.virtualBlock + $0.length
              return true
            }
          } catch {
            faults += 1
          }
        }
      }
    }
    #expect(faults > 0, "seed \(first)")
  }
}
