import BlockIO
import PersistentData
import Testing
import ThinFormat

@testable import ThinTools

/// A pool written down twice: as text with defs and refs, and as what each device must hold.
private struct ModelPool {
  var pool = PoolText(dataBlocks: 2_000_000)
  var expected: [UInt64: [PoolImage.Entry]] = [:]
  private var random: SplitMix
  private var nextData = 0

  init(seed: UInt64) { random = SplitMix(state: seed) }

  /// Mappings of `count` blocks from `key` on, in runs, with gaps at times.
  private mutating func run(_ key: Int, _ count: Int) -> (text: PoolText, [PoolImage.Entry]) {
    var text = PoolText()
    text.text = ""
    var entries: [PoolImage.Entry] = []
    var key = key
    var left = count
    while left > 0 {
      let length = min(left, [1, 1, 2, 5, 100, 700][random.below(6)])
      text.map(key, nextData, length, time: random.below(9))
      let time = UInt32(text.text.split(separator: "\"").dropLast().last ?? "") ?? 0
      for i in 0..<length {
        entries.append(
          PoolImage.Entry(key: UInt64(key + i), dataBlock: UInt64(nextData + i), time: time))
      }
      key += length + [0, 0, 1, 9][random.below(4)]
      nextData += length + random.below(2)
      left -= length
    }
    return (text, entries)
  }

  /// Defs and devices of random sizes, most near the limits of a node.
  mutating func fill() {
    let sizes = [0, 1, 83, 84, 126, 252, 253, 335, 336, 504, 505, 2000, 31_752, 33_000]
    let own = [0, 0, 0, 1, 83, 84, 253, 600]
    let gap = 1_000_000
    var defs: [[PoolImage.Entry]] = []
    let defCount = random.below(5)
    for d in 0..<defCount {
      let (text, entries) = run((2 * d + 1) * gap, sizes[random.below(sizes.count)])
      pool.beginDef("def \(d)")
      pool.text += text.text
      pool.endDef()
      defs.append(entries)
    }
    for id in 0..<(1 + random.below(5)) {
      var text = PoolText()
      text.text = ""
      var entries: [PoolImage.Entry] = []
      for d in 0...defCount {
        let (more, added) = run(2 * d * gap, own[random.below(own.count)])
        text.text += more.text
        entries += added
        if d < defCount && random.below(4) > 0 {
          text.ref("def \(d)")
          entries += defs[d]
        }
      }
      pool.beginDevice(id, mapped: entries.count)
      pool.text += text.text
      pool.endDevice()
      expected[UInt64(id)] = entries
    }
  }
}

private struct SplitMix {
  var state: UInt64
  mutating func below(_ bound: Int) -> Int {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return Int((z ^ z >> 31) % UInt64(bound))
  }
}

/// Two devices that share `shared` mappings with `before` and `after` of their own around.
private func pair(before: Int, shared: Int, after: Int) -> PoolText {
  var pool = PoolText(dataBlocks: 1_000_000)
  pool.beginDef("d")
  if shared > 0 { pool.map(1_000_000, 0, shared) }
  pool.endDef()
  for id in 0..<2 {
    pool.beginDevice(id, mapped: before + shared + after)
    let data = 500_000 + id * 200_000
    if before > 0 { pool.map(0, data, before) }
    pool.ref("d")
    if after > 0 { pool.map(5_000_000, data + before, after) }
    pool.endDevice()
  }
  return pool
}

struct RestoreSharingTests {
  @Test("random defs, refs and own mappings are restored unchanged", arguments: 0..<24)
  func model(_ seed: UInt64) throws {
    var model = ModelPool(seed: seed)
    model.fill()
    let device = zeroDevice(blocks: 16384)
    try restore(model.pool.whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [], "seed \(seed)")
    #expect(Set(image.roots.keys) == Set(model.expected.keys))
    for (id, entries) in model.expected {
      #expect(image.mappings(of: id) == entries, "seed \(seed), device \(id)")
    }
  }

  @Test("a device that is one ref shares the whole tree", arguments: [0, 1, 84, 253, 40_000])
  func wholeTree(_ count: Int) throws {
    let device = zeroDevice(blocks: 1024)
    try restore(pair(before: 0, shared: count, after: 0).whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    #expect(image.roots[0] == image.roots[1])
    #expect(image.count(of: image.roots[0] ?? 0) == 2)
  }

  @Test("devices of the same refs share the whole tree")
  func sameRefs() throws {
    var pool = PoolText()
    for d in 0..<3 {
      pool.beginDef("\(d)")
      pool.map(d * 1000, d * 1000, 300)
      pool.endDef()
    }
    for (id, refs) in [[0, 1, 2], [0, 2], [0, 1, 2]].enumerated() {
      pool.beginDevice(id, mapped: refs.count * 300)
      for d in refs { pool.ref("\(d)") }
      pool.endDevice()
    }
    let device = zeroDevice(blocks: 64)
    try restore(pool.whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    #expect(image.roots[0] == image.roots[2] && image.roots[0] != image.roots[1])
  }

  @Test("empty devices that no ref joins have a leaf each")
  func emptyDevices() throws {
    var pool = PoolText()
    for id in 0..<2 {
      pool.beginDevice(id, mapped: 0)
      pool.endDevice()
    }
    let device = zeroDevice(blocks: 64)
    try restore(pool.whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [] && image.roots[0] != image.roots[1])
  }

  /// Blocks beyond the two devices' own leaves, when they share leaves and when not.
  @Test(
    "all leaves are shared, but for one at an end with less than a third of a leaf beside it",
    arguments: [(0, 84), (84, 0), (84, 100), (83, 0), (0, 83), (1, 1), (83, 83)])
  func edges(_ before: Int, _ after: Int) throws {
    let shared = 2520
    let device = zeroDevice(blocks: 1024)
    try restore(pair(before: before, shared: shared, after: after).whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    let leaves = try leafCounts(device, image)
    let unshared = (1..<84).contains(before) ? 1 : 0
    let atEnd = (1..<84).contains(after) ? 1 : 0
    #expect(leaves.filter { $0 == 2 }.count == 10 - unshared - atEnd)
  }

  /// The counts of all mapping leaves.
  private func leafCounts(_ device: FileDevice, _ image: PoolImage) throws -> [UInt32] {
    var result: [UInt64: UInt32] = [:]
    for root in image.roots.values {
      let buffer = AlignedBuffer(count: 4096)
      try device.read(into: buffer.bytes, at: root * 4096)
      let node = try BtreeNodeView(validating: buffer.span, number: root, leafValueSize: 8)
      for i in 0..<node.entryCount {
        result[node.value64(i)] = image.count(of: node.value64(i))
      }
    }
    return Array(result.values)
  }

  @Test("internal nodes of a long def are shared by devices with further mappings around it")
  func internalNodes() throws {
    // 200 leaves: one internal node. 100 own leaves before make their own.
    let device = zeroDevice(blocks: 4096)
    try restore(pair(before: 25_200, shared: 50_400, after: 25_200).whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    let buffer = AlignedBuffer(count: 4096)
    let root = image.roots[0] ?? 0
    try device.read(into: buffer.bytes, at: root * 4096)
    let node = try BtreeNodeView(validating: buffer.span, number: root, leafValueSize: 8)
    #expect((0..<node.entryCount).map { image.count(of: node.value64($0)) } == [1, 2, 1])
  }

  @Test("devices that differ in one leaf each share all internal nodes but the one above it")
  func scatteredDifferences() throws {
    // 1000 leaves; device i has its own leaf 50 * i, so that no def is longer than 49 leaves.
    var pool = PoolText(dataBlocks: 1_000_000)
    for i in 0..<20 {
      pool.beginDef("one \(i)")
      pool.map(i * 50 * 252, i * 50 * 252, 252)
      pool.endDef()
      pool.beginDef("rest \(i)")
      pool.map((i * 50 + 1) * 252, (i * 50 + 1) * 252, 49 * 252)
      pool.endDef()
    }
    for id in 0...20 {
      pool.beginDevice(id, mapped: 252_000)
      for i in 0..<20 {
        if id == i {
          pool.map(i * 50 * 252, 500_000 + id * 252, 252)
        } else {
          pool.ref("one \(i)")
        }
        pool.ref("rest \(i)")
      }
      pool.endDevice()
    }
    let device = zeroDevice(blocks: 4096)
    let result = try restore(pool.whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    // Leaves, four internal nodes and a root; for every other device a leaf, an internal node and
    // a root. Without sharing these would be five per device.
    let mappings: UInt64 = 1000 + 5 + 20 * 3
    // Superblock, details, devices, bitmaps with index and no overflow; the metadata space map
    // with about a thousand counts above two.
    let others: UInt64 = 3 + 62 + 1 + 1 + 2 + 5
    #expect(result.superblock.metadataSpaceMap.allocated <= mappings + others)
  }

  @Test("a def that nothing refers to leaves no counts behind", arguments: [0, 5, 300, 40_000])
  func unused(_ count: Int) throws {
    var pool = PoolText()
    pool.beginDef("unused")
    if count > 0 { pool.map(0, 0, count) }
    pool.endDef()
    let device = zeroDevice(blocks: 1024)
    try restore(pool.whole, to: device)
    let image = try PoolImage(device)
    #expect(image.problems == [])
    #expect(image.superblock.dataSpaceMap.allocated == 0)
  }
}
