import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// Passes everything on, and records the writes between flushes.
private final class JournalDevice: BlockDevice {
  enum Step { case write(offset: UInt64, bytes: [UInt8]), flush }
  private let inner: MemoryDevice
  private(set) var steps: [Step] = []
  var path: String { inner.path }
  var byteCount: UInt64 { inner.byteCount }
  var descriptor: Int32? { nil }

  init(_ inner: MemoryDevice) { self.inner = inner }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try inner.read(into: buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    // Devices promise only to write each sector as a whole.
    for at in stride(from: 0, to: buffer.count, by: 512) {
      steps.append(.write(offset: offset + UInt64(at), bytes: Array(buffer[at..<(at + 512)])))
    }
    try inner.write(buffer, at: offset)
  }

  func flush() { steps.append(.flush) }

  /// Puts a possible state after a power cut after `count` steps onto `device`: everything before
  /// the last flush, and any part of the later writes.
  func replay(_ count: Int, on device: MemoryDevice, _ random: inout some RandomNumberGenerator)
    throws
  {
    var durable = 0
    for (i, step) in steps.prefix(count).enumerated() { if case .flush = step { durable = i } }
    for (i, step) in steps.prefix(count).enumerated() {
      guard case .write(let offset, let bytes) = step, i < durable || Bool.random(using: &random)
      else { continue }
      try bytes.withUnsafeBytes { try device.write($0, at: offset) }
    }
  }
}

@Suite struct MendTests {
  /// Makes reference counts too high and index sums wrong, in both space maps. No mapping is
  /// affected.
  private func leak(_ pool: PoolUnderTest, _ random: inout SplitMix64) throws {
    for role in [BlockCatalogue.Role.dataBitmap, .metadataBitmap] {
      let isData = role == .dataBitmap
      let root =
        isData ? pool.device.superblock.dataSpaceMap : pool.device.superblock.metadataSpaceMap
      let bitmaps = pool.catalogue.blocks[role] ?? []
      for (j, bitmap) in bitmaps.enumerated() {
        let here = min(root.blockCount, UInt64((j + 1) * 16320)) - UInt64(j * 16320)
        for _ in 0..<Int.random(in: 0...30, using: &random) {
          let entry = Int.random(in: 0..<Int(here), using: &random)
          let old = Bitmap.count(RawSpan(_unsafeBytes: pool.device.peek(bitmap)), entry)
          guard old < 3 else { continue }
          let new = UInt8.random(in: (old + 1)...3, using: &random)
          pool.device.change(bitmap, .bitmap) { Bitmap.setCount($0, entry, new) }
        }
      }
    }
    pool.device.changeSuperblock {
      $0.dataSpaceMap.allocated &+= UInt64.random(in: 1...9, using: &random)
      $0.metadataSpaceMap.allocated &-= UInt64.random(in: 0...2, using: &random)
    }
  }

  @Test(
    "a repair frees leaked blocks, corrects all sums, and changes no mapping",
    arguments: [
      "snapshots-of-snapshots", "held-metadata-snapshot", "data-refcounts", "grown", "needs-check",
      "multi-level",
    ])
  func repairs(_ name: String) throws {
    let pool = try PoolUnderTest(name)
    try expectRepairs(pool)
    try expectRepairs(pool.restoredCopy())
  }

  private func expectRepairs(_ pool: PoolUnderTest) throws {
    var random = SplitMix64(seed: seed())
    let before = try dumped(pool.device)
    let clean = try checked(pool.device)
    for round in 0..<3 {
      try leak(pool, &random)
      let found = try checked(pool.device)
      #expect(found.leakCount + found.minorCount > 0 && !found.isDamaged, "\(found.text)")
      let mended = try checked(pool.device) {
        if round % 2 == 0 { $0.autoRepair = true } else { $0.clearNeedsCheck = true }
      }
      #expect(mended.repairedSpaceMaps && mended.isClean && !mended.needsCheck, "\(mended.text)")
      let after = try checked(pool.device)
      #expect(after.isClean, "\(after.text)")
      #expect(after.metadataFreeBlocks == mended.metadataFreeBlocks)
      // A map may take a block more or less than before, being written at once.
      #expect(after.metadataFreeBlocks + 8 > clean.metadataFreeBlocks)
      #expect(
        try withoutFlag(dumped(pool.device)) == withoutFlag(before), "no mapping is affected")
      pool.device.revert()
    }
  }

  @Test("a repair works on a device that has grown since the pool was last active")
  func repairsOnLargerDevice() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    var random = SplitMix64(seed: seed())
    try leak(pool, &random)
    pool.device.keep()
    pool.device.grow(byteCount: Int(pool.device.byteCount) * 3)
    let before = try dumped(pool.device)
    #expect(try checked(pool.device) { $0.autoRepair = true }.repairedSpaceMaps)
    #expect(try checked(pool.device).isClean)
    #expect(try dumped(pool.device) == before)
  }

  @Test("a space map that ends before the blocks in use is damage")
  func metadataMapTooShort() throws {
    let pool = try PoolUnderTest("snapshots-of-snapshots")
    pool.device.changeSuperblock { $0.metadataSpaceMap.blockCount = 100 }
    #expect(try checked(pool.device).isDamaged)
  }

  private func withoutFlag(_ dump: String) -> String { dump.replacing(" flags=\"1\"", with: "") }

  @Test("a power cut at any point of a repair leaves the old space maps or the new")
  func powerCut() throws {
    var random = SplitMix64(seed: seed())
    for name in ["snapshots-of-snapshots", "held-metadata-snapshot"] {
      let pool = try PoolUnderTest(name).restoredCopy()
      let before = try dumped(pool.device)
      try leak(pool, &random)
      pool.device.keep()
      let found = try checked(pool.device)
      let journal = JournalDevice(pool.device)
      #expect(try checked(journal) { $0.autoRepair = true }.repairedSpaceMaps)
      pool.device.revert()
      for cut in 0...journal.steps.count {
        for _ in 0..<2 {
          try journal.replay(cut, on: pool.device, &random)
          let report = try checked(pool.device)
          #expect(report.isClean || report.findings == found.findings, "\(cut): \(report.text)")
          if cut == journal.steps.count { #expect(report.isClean) }
          #expect(try dumped(pool.device) == before)
          pool.device.revert()
        }
      }
      #expect(journal.steps.count > 8)
    }
  }

  @Test("if anything is damaged, nothing is written")
  func damaged() throws {
    var random = SplitMix64(seed: seed())
    let pool = try PoolUnderTest("needs-check")
    try leak(pool, &random)
    pool.device.keep()
    // Either a leaf that cannot be read, or a count that is too low next to counts that are too
    // high.
    for isUnreadable in [true, false] {
      if isUnreadable {
        pool.device.edit(try pool.block(.node(.mappings, isLeaf: true)))[100] ^= 1
      } else {
        let bitmap = try pool.block(.dataBitmap)
        pool.device.change(bitmap, .bitmap) { Bitmap.setCount($0, 0, 0) }
      }
      let changed = pool.device.changedBlocks
      let before = changed.map { Array(pool.device.peek($0)) }
      for repairs in [true, false] {
        let report = try checked(pool.device) {
          if repairs { $0.autoRepair = true } else { $0.clearNeedsCheck = true }
        }
        #expect(report.isDamaged && report.needsCheck && !report.repairedSpaceMaps)
        #expect(pool.device.changedBlocks == changed)
        #expect(changed.map { Array(pool.device.peek($0)) } == before)
      }
      pool.device.revert()
    }
  }
}
