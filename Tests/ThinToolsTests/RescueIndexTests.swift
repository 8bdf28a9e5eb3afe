import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

@testable import ThinTools

/// The index of a rescue: where every block of every device is, and what is lost.
@Suite struct RescueIndexTests {
  private func index(
    _ device: any BlockDevice, _ change: (inout RescueOptions) -> Void = { _ in }
  ) throws -> RescueIndex {
    var options = RescueOptions()
    change(&options)
    return try RescueIndex(device, options: options, progress: Progress())
  }

  /// The mappings of a device, and virtual blocks that are lost.
  private func mappings(_ index: RescueIndex, _ device: RescueDevice, blocks: UInt64) throws -> (
    mapped: [UInt64: UInt64], lost: Set<UInt64>
  ) {
    let layout = RescueLayout(index, device, dataByteCount: .max / 4)
    var mapped: [UInt64: UInt64] = [:]
    var lost: Set<UInt64> = []
    let size = index.blockBytes
    for extent in try extents(layout, blocks * size) {
      for block in extent.offset / size..<extent.end / size {
        switch extent.kind {
        case .data(let byte): mapped[block] = byte / size + block - extent.offset / size
        case .hole, .origin: break
        case .lost: lost.insert(block)
        case .beyond: Issue.record("nothing is beyond")
        }
      }
    }
    return (mapped, lost)
  }

  private func truth(_ pool: DumpedPool) -> [ThinID: [UInt64: UInt64]] {
    Dictionary(
      uniqueKeysWithValues: pool.devices.map {
        (ThinID($0.key), $0.value.mappings.mapValues(\.dataBlock))
      })
  }

  @Test("of a sound pool every mapping is found, in memory and in a temporary file")
  func soundPool() throws {
    let first = seed()
    for n in 0..<UInt64(6) {
      let pool = try RescuedPool(seed: first &+ n)
      for bytesMax in [1 << 20, 100] {
        let index = try index(pool.device) { $0.bytesMax = bytesMax }
        #expect(index.isSpilled == (bytesMax == 100))
        #expect(index.blockBytes == RescuedPool.blockBytes)
        #expect(index.devices.map(\.id.rawValue) == pool.truth.devices.keys.sorted())
        for device in index.devices {
          let found = try mappings(index, device, blocks: 100)
          #expect(found.mapped == truth(pool.truth)[device.id], "seed \(first &+ n)")
          #expect(found.lost.isEmpty && device.isWhole)
          #expect(device.endBlock.rawValue == (found.mapped.keys.max().map { $0 + 1 } ?? 0))
          #expect(device.mappedBlocks == UInt64(found.mapped.count))
        }
      }
    }
  }

  @Test("a lookup anywhere says the same as a walk")
  func lookups() throws {
    var random = SplitMix64(seed: seed())
    let pool = try RescuedPool(seed: random.next(), window: 300)
    let index = try index(pool.device) { $0.bytesMax = 1000 }
    for device in index.devices {
      var layout = RescueLayout(index, device, dataByteCount: pool.dataByteCount / 2)
      let size = 320 * index.blockBytes
      let walked = try extents(layout, size)
      for _ in 0..<2000 {
        let offset = UInt64.random(in: 0..<size / 512, using: &random) * 512
        let extent = try layout.extent(at: offset, limit: size)
        let whole = try #require(walked.first { $0.offset <= offset && offset < $0.end })
        #expect(extent.end == whole.end)
        switch (whole.kind, extent.kind) {
        case (.data(let a), .data(let b)): #expect(a + offset - whole.offset == b)
        default: #expect(whole.kind == extent.kind)
        }
      }
    }
  }

  @Test("of a damaged pool every block is right, or lost, or said to be doubtful")
  func damagedPool() throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<40 {
      let poolSeed = random.next() % 1_000_000
      let pool = try RescuedPool(seed: poolSeed, window: 2000)
      let blocks = try BlockCatalogue(pool.device).blocks
      let nodes =
        (blocks[.node(.mappings, isLeaf: true)] ?? [])
        + (blocks[.node(.mappings, isLeaf: false)] ?? [])
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        pool.device.edit(try #require(nodes.randomElement(using: &random)))[100] ^= 1
      }
      let index = try index(pool.device) { $0.bytesMax = 4096 }
      let truth = truth(pool.truth)
      for device in index.devices {
        let found = try mappings(index, device, blocks: 2100)
        let doubtful = device.doubtful
        for block in UInt64(0)..<2100
        where found.mapped[block] != truth[device.id]?[block] && !found.lost.contains(block) {
          #expect(
            doubtful.contains { $0.contains(VirtualBlock(block)) },
            "pool \(poolSeed), device \(device.id), block \(block)")
        }
      }
      let left = Set(truth.keys).subtracting(index.devices.map(\.id))
      #expect(left.isSubset(of: index.report.leftOut.compactMap(\.id)), "pool \(poolSeed)")
    }
  }

  @Test("what is saved and lost is what a repair saves and reports")
  func likeRepair() throws {
    let first = seed()
    var compared = 0
    for n in 0..<UInt64(16) {
      let trial = try RepairTrial(seed: first &+ n)
      var salvage = SalvageOptions()
      salvage.overrides.dataBlockSectors = RepairTrial.dataBlockSectors
      var repairing = RepairOptions()
      repairing.salvage = salvage
      let output = MemoryDevice(byteCount: Int(trial.device.byteCount) * 2)
      guard let result = try? ThinRepair.run(trial.device, to: output, options: repairing) else {
        continue
      }
      compared += 1
      let repaired = truth(DumpedPool(xml: try dumped(output)))
      let index = try index(trial.device) { $0.salvage = salvage }
      #expect(index.report.devices.map(\.id) == result.report.devices.map(\.id))
      for device in index.devices {
        let blocks = (repaired[device.id]?.keys.max() ?? 0) + 2
        let found = try mappings(index, device, blocks: blocks)
        #expect(found.mapped == repaired[device.id] ?? [:], "seed \(first &+ n)")
        let ranges = result.report.devices.first { $0.id == device.id }?.ranges ?? []
        for block in UInt64(0)..<blocks where found.mapped[block] == nil {
          let isLost = ranges.contains {
            $0.kind == .lost && $0.begin.rawValue <= block && block < $0.end?.rawValue ?? .max
          }
          #expect(found.lost.contains(block) == isLost, "seed \(first &+ n), block \(block)")
        }
      }
    }
    #expect(compared > 4)
  }

  @Test("a metadata snapshot is read as it was")
  func metadataSnapshot() throws {
    for seed in UInt64(1)...20 {
      let pool = try RescuedPool(seed: seed, metadataSnapshots: 300)
      guard pool.superblock.metadataSnapshot != 0 else { continue }
      let held = DumpedPool(xml: try dumped(pool.device) { $0.source = .metadataSnapshot })
      let index = try index(pool.device) { $0.source = .metadataSnapshot }
      #expect(index.devices.map(\.id.rawValue) == held.devices.keys.sorted())
      for device in index.devices {
        #expect(try mappings(index, device, blocks: 100).mapped == truth(held)[device.id])
        #expect(device.isWhole)
      }
      let other = MetadataBlock(pool.superblock.metadataSnapshot) + 1
      #expect(throws: ToolError.self) {
        try self.index(pool.device) { $0.source = .metadataSnapshotAt(other) }
      }
    }
  }

  @Test("a mapping beyond the end of the data device is said to be there, up to the last byte")
  func beyond() throws {
    let pool = try RescuedPool(seed: 7)
    let index = try index(pool.device)
    let end = pool.dataByteCount - index.blockBytes - 4096
    var beyond = 0
    for device in index.devices {
      let layout = RescueLayout(index, device, dataByteCount: end)
      for extent in try extents(layout, 100 * index.blockBytes) {
        switch extent.kind {
        case .data(let byte): #expect(byte + extent.byteCount <= end)
        case .beyond: beyond += 1
        default: break
        }
      }
    }
    #expect(beyond > 0)
  }

  @Test("more lost ranges than a report keeps make everything after them lost")
  func unsaidRanges() {
    var report = RepairReport.Device(id: 1, saved: 0)
    report.rangesMax = 3
    for i in UInt64(0)..<5 {
      report.add(.lost, Range((10 * i)..<(10 * i + 5)), block: MetadataBlock(i))
    }
    #expect(report.unsaidRanges == 2)
    let device = RescueDevice(report)
    #expect(device.lost.map(\.rawValues) == [0..<5, 10..<15, 20..<(.max)])
    #expect(!device.isWhole)
  }

  @Test("an impossible size of data blocks is refused")
  func blockSize() throws {
    let pool = try RescuedPool(seed: 7)
    for sectors in [0, 1, 127, 129, 1 << 31] as [UInt32] {
      let error = #expect(throws: ToolError.self) {
        try index(pool.device) { $0.salvage.overrides.dataBlockSectors = sectors }
      }
      #expect(error?.message.contains("--data-block-size") == true)
    }
  }
}

/// Where metadata may be.
@Suite struct RescueSourceTests {
  private let folder: ScratchFolder
  private let pool: RescuedPool
  private let bytes: [UInt8]

  init() throws {
    folder = try ScratchFolder()
    pool = try RescuedPool(seed: 11)
    bytes = (0..<(pool.device.byteCount / 4096)).flatMap { [device = pool.device] in
      Array(device.peek($0))
    }
  }

  private func isSame(_ device: any BlockDevice, blocks: UInt64) throws -> Bool {
    var isSame = true
    var seen: UInt64 = 0
    BlockStream(device).read(
      next: { () -> UInt64? in
        defer { seen += 1 }
        return seen < blocks ? seen : nil
      },
      body: { block, found, failure in
        let start = Int(block) * 4096
        if failure != nil
          || !found.withUnsafeBytes({ $0.elementsEqual(bytes[start..<(start + 4096)]) })
        {
          isSame = false
        }
      })
    let buffer = AlignedBuffer(count: 8192)
    try device.read(into: buffer.bytes, at: 4096)
    return isSame && buffer.bytes.elementsEqual(bytes[4096..<12288])
  }

  @Test(
    "metadata inside a larger device is read there, at any sector", arguments: [4096, 512, 1 << 20])
  func inside(_ offset: Int) throws {
    let path = try folder.file(
      "disk", bytes: [UInt8](repeating: 0xa5, count: offset) + bytes + [1, 2, 3])
    let device = try RescueSource.metadata(
      path, from: UInt64(offset), exclusive: true, progress: Progress())
    #expect(device.byteCount == UInt64(bytes.count + 3))
    #expect(try isSame(device, blocks: UInt64(bytes.count / 4096)))
    let index = try RescueIndex(device, progress: Progress())
    #expect(index.devices.map(\.id.rawValue) == pool.truth.devices.keys.sorted())
    #expect(throws: ToolError.self) {
      try RescueSource.metadata(path, from: 1 << 40, exclusive: true, progress: Progress())
    }
  }

  private func packed() throws -> [UInt8] {
    let path = folder.file("pack")
    let output = try TextOutput(path: path)
    _ = try ThinPack.run(pool.device, source: .current, to: output.sink, progress: Progress())
    try output.commit()
    return try contents(of: path)
  }

  @Test("packed metadata is unpacked, and of a damaged file the beginning is used")
  func packedFile() throws {
    let packed = try packed()
    let path = folder.file("pack")
    var device = try RescueSource.metadata(path, exclusive: true, progress: Progress()) { _ in
      Issue.record("the file is whole")
    }
    #expect(device.byteCount == UInt64(bytes.count))
    #expect(try isSame(device, blocks: UInt64(bytes.count / 4096)))
    _ = try folder.file("pack", bytes: Array(packed.dropLast(40)))
    var notices: [String] = []
    device = try RescueSource.metadata(path, exclusive: true, progress: Progress()) {
      notices.append($0)
    }
    #expect(notices.count == 1 && notices[0].contains("are used"))
    #expect(device.byteCount == UInt64(bytes.count))
    _ = try folder.file("pack", bytes: Array(packed.prefix(40)))
    #expect(throws: ToolError.self) {
      try RescueSource.metadata(path, exclusive: true, progress: Progress())
    }
    let error = #expect(throws: ToolError.self) {
      try RescueSource.metadata(path, from: 512, exclusive: true, progress: Progress())
    }
    #expect(error?.message.contains("--metadata-offset") == true)
  }
}
