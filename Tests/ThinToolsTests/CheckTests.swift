import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

@Suite struct CheckTests {
  @Test("metadata that the kernel wrote is clean", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let device = try FileDevice(path: Pools.path(name), access: .readOnly, exclusive: false)
    let report = try checked(device)
    #expect(report.isClean, "\(report.text)")
    #expect(report.needsCheck == (name == "needs-check"))
    #expect(try checked(device) { $0.superblockOnly = true }.isClean)
    #expect(try checked(device) { $0.skipMappings = true }.isClean)
    if name == "held-metadata-snapshot" {
      let snapshot = try checked(device) { $0.metadataSnapshot = true }
      #expect(snapshot.isClean && snapshot.transactionID == 8, "\(snapshot.text)")
    } else {
      #expect(throws: ToolError.self) { try checked(device) { $0.metadataSnapshot = true } }
    }
  }

  @Test(
    // A few: contrib/trials damage does thousands, where every tool is tried in a release build.
    "no random damage is missed, none is reported elsewhere, and nothing traps",
    arguments: [
      ("held-metadata-snapshot", 30), ("snapshots-of-snapshots", 30), ("multi-level", 5),
    ])
  func damageTrials(_ pool: String, _ count: UInt64) throws {
    let trial = try DamageTrial(image: Pools.path(pool))
    let first = seed()
    for n in first..<(first + count) {
      let (damage, outcome) = trial.run(seed: n)
      #expect(
        !outcome.isFault,
        "seed \(n): \(damage): \(outcome)")
    }
  }

  // MARK: - Places

  @Test("damage to a leaf is reported with its block, and every affected device and range")
  func places() throws {
    for name in ["snapshots-of-snapshots", "multi-level"] {
      let pool = try PoolUnderTest(name)
      let roots = pool.roots(pool.device.superblock)
      let leaves = roots.mapValues { pool.leaves(of: $0) }
      var random = SplitMix64(seed: seed())
      let all = Set(leaves.values.flatMap { $0.map(\.block) }).sorted()
      for _ in 0..<20 {
        let block = try #require(all.randomElement(using: &random))
        pool.device.edit(block)[100] ^= 1
        let report = try checked(pool.device)
        #expect(report.has(.fatal, "bad checksum", block: block), "\(report.text)")
        let found = report.findings.filter { $0.deviceID != nil }
        let expected = leaves.flatMap { id, leaves in
          leaves.filter { $0.block == block }.map { "\(id) \($0.range)" }
        }
        #expect(
          found.map { "\($0.deviceID ?? 0) \($0.virtualBlocks ?? 0..<0)" }.sorted()
            == expected.sorted())
        #expect(found.allSatisfy { $0.block?.rawValue == block && $0.severity == .fatal })
        for finding in found { #expect(finding.message.contains("\(block)")) }
        pool.device.revert()
      }
    }
  }

  // MARK: - Trees

  @Test("a key that occurs twice in a leaf is fatal, wherever it is")
  func duplicateKeys() throws {
    let pool = try PoolUnderTest("block-size-64k")
    let leaf = try pool.block(.node(.mappings, isLeaf: true))
    let (_, entries) = pool.device.nodeEntries(leaf)
    try #require(entries.count > 10)
    for i in 1..<entries.count {
      var changed = entries
      changed[i].key = changed[i - 1].key
      pool.device.putNode(leaf, isLeaf: true, changed)
      let report = try checked(pool.device)
      #expect(report.has(.fatal, "keys out of order: entry \(i)", block: leaf))
      pool.device.revert()
    }
  }

  @Test("a leaf below the minimum is a fault, though no mapping is lost")
  func underfullLeaf() throws {
    var found = 0
    for name in ["multi-level", "block-size-64k", "snapshots-of-snapshots"] {
      let pool = try PoolUnderTest(name)
      let before = try dumped(pool.device)
      let parents = pool.catalogue.blocks[.node(.mappings, isLeaf: false)] ?? []
      let children = parents.map { pool.device.nodeEntries($0).entries }
      let uses = children.flatMap { $0.map(\.value) }
        .reduce(into: [UInt64: Int]()) { $0[$1, default: 0] += 1 }
      for (parent, siblings) in zip(parents, children) where siblings.count > 1 {
        for i in 1..<siblings.count {
          let (a, b) = (siblings[i - 1].value, siblings[i].value)
          let (first, second) = (pool.device.nodeEntries(a), pool.device.nodeEntries(b))
          guard first.isLeaf, uses[a] == 1, uses[b] == 1, second.entries.count > 83,
            first.entries.count + second.entries.count - 83 <= 252
          else { continue }
          // All but 83 entries move to the neighbour.
          let moved = second.entries.count - 83
          pool.device.putNode(a, isLeaf: true, first.entries + second.entries.prefix(moved))
          pool.device.putNode(b, isLeaf: true, Array(second.entries.dropFirst(moved)))
          var changed = siblings
          changed[i].key = second.entries[moved].key
          pool.device.putNode(parent, isLeaf: false, changed)
          let report = try checked(pool.device)
          #expect(report.minorCount == 1 && !report.isDamaged && report.leakCount == 0)
          #expect(report.has(.minor, "expected at least 84 entries, found 83", block: b))
          #expect(
            try DumpedPool(xml: dumped(pool.device)) == DumpedPool(xml: before),
            "no mapping is lost")
          pool.device.revert()
          found += 1
        }
        if found > 5 { break }
      }
    }
    #expect(found > 0, "no pool has two leaves to move entries between")
  }

  @Test("a device in only one of the two trees is fatal")
  func deviceMismatch() throws {
    let pool = try PoolUnderTest("deleted-devices")
    for kind in [TreeKind.devices, .details] {
      let leaf = try pool.block(.node(kind, isLeaf: true))
      pool.device.change(leaf, .btreeNode) { bytes in
        let count = bytes.load(fromByteOffset: 16, as: UInt32.self)
        bytes.storeBytes(of: count - 1, toByteOffset: 16, as: UInt32.self)
      }
      let report = try checked(pool.device) { $0.skipMappings = true }
      #expect(report.has(.fatal, "but expected"), "\(report.text)")
      pool.device.revert()
    }
  }

  @Test("a device whose details have a wrong number of mappings is fatal")
  func mappedCount() throws {
    let pool = try PoolUnderTest("deleted-devices")
    let leaf = try pool.block(.node(.details, isLeaf: true))
    pool.device.change(leaf, .btreeNode) { $0[1040] &+= 1 }
    #expect(try checked(pool.device).has(.fatal, "unexpected number of mappings, expected"))
  }

  // MARK: - Headers

  @Test("a superblock of another magic or version is refused though its checksum is right")
  func superblockFields() throws {
    let pool = try PoolUnderTest("fresh")
    for (offset, text) in [(32, "bad superblock magic"), (40, "expected version")] {
      pool.device.change(0, .superblock) { $0[offset] ^= 0x10 }
      let error = #expect(throws: ToolError.self) { try checked(pool.device) }
      #expect(error?.isDamage == true && error?.message.contains(text) == true)
      pool.device.revert()
    }
    pool.device.changeSuperblock { $0.time = Limits.timeMax + 1 }
    #expect(try checked(pool.device).has(.fatal, "expected a time of at most 16777215", block: 0))
  }

  @Test("a block with another block's number is found though its checksum is right")
  func blockNumbers() throws {
    let pool = try PoolUnderTest("held-metadata-snapshot")
    for (role, blocks) in pool.catalogue.blocks {
      let block = blocks[0]
      let found = BlockHeader.kind(of: RawSpan(_unsafeBytes: pool.device.peek(block)))
      let kind = try #require(found)
      pool.device.change(block, kind) { $0[8] ^= 1 }
      do {
        let report = try checked(pool.device)
        #expect(report.has(.fatal, "wrong block number", block: block), "\(role): \(report.text)")
      } catch {
        #expect(role == .superblock && (error as? ToolError)?.isDamage == true)
        #expect("\(error)".contains("wrong block number"))
      }
      pool.device.revert()
    }
  }

  // MARK: - Space maps

  @Test("a wrong number of allocated blocks is found in both maps")
  func allocated() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    for delta: UInt64 in [1, .max] {
      pool.device.changeSuperblock { $0.dataSpaceMap.allocated &+= delta }
      #expect(try checked(pool.device).has(.minor, "data space map: superblock says", block: 0))
      pool.device.revert()
      pool.device.changeSuperblock { $0.metadataSpaceMap.allocated &+= delta }
      #expect(try checked(pool.device).has(.minor, "metadata space map: superblock says", block: 0))
      pool.device.revert()
    }
  }

  /// Block, kind of block and offset of the first index entry of each map.
  private func indexes(of pool: PoolUnderTest) throws
    -> [(name: String, block: UInt64, kind: BlockKind, offset: Int)]
  {
    [
      ("data", try pool.block(.node(.spaceMapIndex, isLeaf: true)), .btreeNode, 1376),
      ("metadata", try pool.block(.index), .index, 16),
    ]
  }

  @Test("an index entry's wrong number of free blocks is found in both maps")
  func freeCount() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    for index in try indexes(of: pool) {
      for delta: UInt32 in [1, .max] {
        pool.device.change(index.block, index.kind) { bytes in
          let free = bytes.load(fromByteOffset: index.offset + 8, as: UInt32.self)
          bytes.storeBytes(of: free &+ delta, toByteOffset: index.offset + 8, as: UInt32.self)
        }
        let report = try checked(pool.device)
        #expect(report.has(.minor, "\(index.name) space map: index entry of bitmap 0 says"))
        #expect(!report.isDamaged)
        pool.device.revert()
      }
    }
  }

  @Test("a hint that hides free blocks is found, one that hides none is not")
  func noneFreeBefore() throws {
    let pool = try PoolUnderTest("discard-holes")
    for index in try indexes(of: pool) {
      let at = index.offset + 12
      let bitmap = pool.device.peek(index.block).load(fromByteOffset: index.offset, as: UInt64.self)
      let entries = RawSpan(_unsafeBytes: pool.device.peek(bitmap))
      var firstFree = 0
      while Bitmap.count(entries, firstFree) != 0 { firstFree += 1 }
      for hint in [0, firstFree, firstFree + 1, 16320] {
        pool.device.change(index.block, index.kind) {
          $0.storeBytes(of: UInt32(hint), toByteOffset: at, as: UInt32.self)
        }
        let report = try checked(pool.device)
        #expect(report.isClean == (hint <= firstFree), "\(index.name) \(hint)")
        #expect(report.has(.minor, "says none is free before \(hint)") == (hint > firstFree))
        pool.device.revert()
      }
    }
  }

  @Test("a bitmap without an index entry is fatal")
  func missingIndexEntry() throws {
    let pool = try PoolUnderTest("multi-level")
    let index = try pool.block(.node(.spaceMapIndex, isLeaf: true))
    pool.device.change(index, .btreeNode) { bytes in
      let count = bytes.load(fromByteOffset: 16, as: UInt32.self)
      bytes.storeBytes(of: count - 1, toByteOffset: 16, as: UInt32.self)
    }
    #expect(try checked(pool.device).has(.fatal, "data space map: expected 5 index entries"))
    pool.device.revert()
    // One in the middle, so that the number is another bitmap's.
    pool.device.change(index, .btreeNode) { $0[32 + 8 * 4] = 9 }
    let report = try checked(pool.device)
    #expect(report.has(.fatal, "expected an index entry for bitmap 4, found 9"), "\(report.text)")
  }

  @Test("counts that are too high are leaks, counts that are too low are fatal")
  func counts() throws {
    let pool = try PoolUnderTest("metadata-refcounts")
    for role in [BlockCatalogue.Role.dataBitmap, .metadataBitmap] {
      let bitmap = try pool.block(role)
      let name = role == .dataBitmap ? "data" : "metadata"
      let counts = (0..<100).map {
        Bitmap.count(RawSpan(_unsafeBytes: pool.device.peek(bitmap)), $0)
      }
      for entry in counts.indices {
        for count: UInt8 in 0...3 where count != counts[entry] {
          pool.device.change(bitmap, .bitmap) { Bitmap.setCount($0, entry, count) }
          let report = try checked(pool.device)
          if count < counts[entry] {
            #expect(
              report.has(.fatal, "\(name) blocks have bad reference counts"), "\(report.text)")
          } else {
            #expect(report.has(.leak, "1 \(name) blocks have leaked:\n  \(entry): expected count"))
            #expect(!report.isDamaged, "\(report.text)")
          }
          pool.device.revert()
        }
      }
    }
  }

  @Test("a large count that is wrong is found, whether too high or too low")
  func overflowCounts() throws {
    let pool = try PoolUnderTest("data-refcounts")
    let leaves = pool.catalogue.blocks[.node(.spaceMapOverflow, isLeaf: true)] ?? []
    var tried = 0
    for leaf in leaves {
      let entries = pool.device.peek(leaf).load(fromByteOffset: 16, as: UInt32.self)
      for i in 0..<Int(min(entries, 20)) {
        let at = 2720 + 4 * i
        let count = pool.device.peek(leaf).load(fromByteOffset: at, as: UInt32.self)
        for wrong in [count + 1, count - 1, 0, 2, .max] where wrong != count {
          pool.device.change(leaf, .btreeNode) {
            $0.storeBytes(of: wrong, toByteOffset: at, as: UInt32.self)
          }
          let report = try checked(pool.device)
          #expect(!report.isClean, "\(leaf): \(count) -> \(wrong)")
          #expect(report.isDamaged == (wrong < count), "\(leaf): \(count) -> \(wrong)")
          pool.device.revert()
          tried += 1
        }
      }
    }
    #expect(tried > 0)
  }

  // MARK: - Sizes

  @Test("a device shorter than its space map is reported, even if every used block exists")
  func shortDevice() throws {
    let pool = try PoolUnderTest("fresh")
    let blocks = pool.device.superblock.metadataSpaceMap.blockCount
    pool.device.truncate(blocks: Int(blocks) - 1)
    let report = try checked(pool.device)
    #expect(
      report.has(.fatal, "more than the metadata device has, \(blocks - 1)", block: 0),
      "\(report.text)")
  }

  @Test("a device of 17 GiB is accepted, and the part that a pool cannot use is ignored")
  func largeDevice() throws {
    let folder = try ScratchFolder()
    let path = try folder.copy(of: Pools.path("fresh"), as: "large", size: 17 << 30)
    let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    #expect(try checked(device).isClean)
  }

  // MARK: - The flag

  @Test("the needs-check flag is cleared on request, and nothing else of meaning changes")
  func clearsFlag() throws {
    let pool = try PoolUnderTest("needs-check")
    let before = Array(pool.device.peek(0))
    var report = try checked(pool.device)
    #expect(report.needsCheck && !report.clearedNeedsCheck && pool.device.changedBlocks.isEmpty)
    report = try checked(pool.device) { $0.skipMappings = true }
    #expect(report.isClean && report.needsCheck && pool.device.changedBlocks.isEmpty)

    report = try checked(pool.device) { $0.clearNeedsCheck = true }
    #expect(report.clearedNeedsCheck && !report.needsCheck)
    #expect(pool.device.changedBlocks == [0])
    let after = Array(pool.device.peek(0))
    // Memory of the kernel's, left in the unused parts of the space map areas, may go.
    let areas = [96..<192, 224..<320]
    let changes = before.indices.filter { i in
      before[i] != after[i] && i > 3 && !areas.contains { $0.contains(i) }
    }
    #expect(changes == [4] && before[4] ^ after[4] == 1)
    #expect(try checked(pool.device).isClean)
  }

  @Test("the needs-check flag of a damaged pool stays")
  func keepsFlag() throws {
    let pool = try PoolUnderTest("needs-check")
    let leaf = try pool.block(.node(.mappings, isLeaf: true))
    pool.device.edit(leaf)[200] ^= 4
    let report = try checked(pool.device) { $0.clearNeedsCheck = true }
    #expect(report.isDamaged && report.needsCheck && !report.clearedNeedsCheck)
    #expect(pool.device.changedBlocks == [leaf])
  }
}
