import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Targets
import TestSupport
import Testing
import ThinTools

private let block = blockBytes

/// Differences that `contrib/kernel/compare-pools` has found, tested without a kernel.
@Suite("Behaviour of the kernel's pools that once differed here")
struct KernelSemanticsTests {
  @Test("a write that waits for space outlives any number of new tables")
  func heldThroughTables() throws {
    let world = try World()
    try world.makeFullPool()
    let late = try world.start(.write, "thin1", at: 8 * block, pattern(6, block))
    for _ in 0..<3 {
      world.passes()
      #expect(!late.isDone)
      // No larger than before: it waits again.
      try world.growPool(to: 4 * block)
    }
    try world.growPool(to: 5 * block)
    world.finish([late])
    #expect(late.error == 0)
    #expect(try world.read("thin1", at: 8 * block, count: block) == pattern(6, block))
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("a full pool ignores the end of an external origin")
  func originOfFullPool() throws {
    let world = try World()
    try world.makePool(dataBytes: 4 * block, "1 error_if_no_space")
    let origin = pattern(9, block + 4096)
    try world.add("origin", MemoryDisk(world.loop, bytes: origin, seed: 3))
    try world.message("create_thin 1")
    try world.activate(1, bytes: 16 * block, origin: "origin")
    #expect(try world.read("thin1", at: block, count: 8192) == origin[block...] + zeros(4096))
    #expect(try world.write("thin1", at: 4 * block, pattern(5, 4 * block)) == 0)
    #expect(try world.write("thin1", at: 9 * block, pattern(5, 4096)) == ENOSPC)
    #expect(try world.read("thin1", at: block, count: 4096) == Array(origin[block...]))
    #expect(try world.perform(.read, "thin1", at: block, count: 8192) == EIO)
    #expect(try world.perform(.read, "thin1", at: 2 * block, count: 4096) == EIO)
  }

  @Test("a device's own blocks are discarded below though a metadata snapshot refers to them")
  func discardWithMetadataSnapshot() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.makeThin(1, bytes: 16 * block)
    #expect(try world.write("thin1", at: 0, pattern(5, 4 * block)) == 0)
    try world.message("reserve_metadata_snap")
    #expect(try world.perform(.discard, "thin1", at: 0, count: 2 * block) == 0)
    #expect(world.disks["data"]?.count(.discard) == 1)
    // They are not free before the metadata snapshot is gone.
    #expect(try world.pool().data.used == 4)
    try world.message("release_metadata_snap")
    #expect(try world.pool().data.used == 2)
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("the metadata's low water mark is that of the device's size when the last table was loaded")
  func metadataLowWater() throws {
    let world = try World()
    try world.makePool(metaBytes: 64 * 4096, dataBytes: 16 * block)
    try world.dm.remove(.name("pool"), deferred: false, retry: false)
    try world.create("pool", [world.poolLine(16 * block)])
    world.disks["meta"]?.grow(to: 400 * 4096)
    // Before a resume the pool has 64 blocks, of which less than a quarter of the device's are free.
    try world.message("create_thin 1")
    #expect(try world.pool().metadataLowWater == 100)
    #expect(try world.event() == 0)
  }
}
