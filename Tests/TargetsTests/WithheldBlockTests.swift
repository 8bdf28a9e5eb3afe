import DataPath
import DeviceMapper
import Glibc
import Targets
import Testing
import ThinTools

private let block = blockBytes

@Suite("Withheld data blocks")
struct WithheldBlockTests {
  private func crashed(_ world: World) throws -> CheckReport {
    try World.check(try #require(world.disks["meta"]).durable)
  }

  @Test(
    "a block is not allocated while it is being discarded, across commits, and a crash leaves no leak",
    arguments: [false, true])
  func discards(_ isShared: Bool) throws {
    let world = try World()
    try world.makePool(dataBytes: 4 * block, "1 error_if_no_space")
    try world.makeThin(1, bytes: 16 * block)
    #expect(try world.write("thin1", at: 0, pattern(5, 4 * block)) == 0)
    if isShared {
      try world.dm.suspend(.name("thin1"), [])
      try world.message("create_snap 2 1")
      try world.dm.resume(.name("thin1"), [], node: NodeOptions())
      try world.message("delete 2")
    }
    let data = try #require(world.disks["data"])
    // Commits go on.
    data.halted = [.discard]
    let discard = try world.start(.discard, "thin1", at: block, count: 2 * block)
    world.passes()
    for _ in 0..<2 {
      // Commits.
      #expect(try world.pool().data.used == 4)
      #expect(try crashed(world).isClean)
      world.passes()
    }
    #expect(!discard.isDone)
    let refused = try world.start(.write, "thin1", at: 8 * block, pattern(6, block))
    world.passes()
    #expect(refused.isDone && refused.error == ENOSPC)
    data.halted = []
    world.finish([discard])
    #expect(discard.error == 0)
    #expect(try world.pool().data.used == 2)
    #expect(try world.write("thin1", at: 8 * block, pattern(7, 2 * block)) == 0)
    #expect(try world.read("thin1", at: 8 * block, count: 2 * block) == pattern(7, 2 * block))
    #expect(try world.read("thin1", at: block, count: 2 * block) == zeros(2 * block))
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test(
    "a block that a metadata snapshot releases while it is being discarded is not allocated yet")
  func metadataSnapshot() throws {
    let world = try World()
    try world.makePool(dataBytes: 2 * block, "1 error_if_no_space")
    try world.makeThin(1, bytes: 16 * block)
    #expect(try world.write("thin1", at: 0, pattern(5, 2 * block)) == 0)
    try world.message("reserve_metadata_snap")
    let data = try #require(world.disks["data"])
    // Commits go on.
    data.halted = [.discard]
    let discard = try world.start(.discard, "thin1", at: 0, count: block)
    world.passes()
    try world.message("release_metadata_snap")
    #expect(try world.pool().data.used == 2)
    #expect(try crashed(world).isClean)
    let refused = try world.start(.write, "thin1", at: 8 * block, pattern(6, block))
    world.passes()
    #expect(refused.isDone && refused.error == ENOSPC)
    data.halted = []
    world.finish([discard])
    #expect(try world.pool().data.used == 1)
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test(
    "a block that is being filled counts as used, and a crash before it is mapped leaves no leak")
  func preparations() throws {
    let world = try World()
    try world.makePool(dataBytes: 2 * block, "1 error_if_no_space")
    try world.makeThin(1, bytes: 16 * block)
    let data = try #require(world.disks["data"])
    data.halted = [.read, .write]
    let writes = try (0..<2).map {
      try world.start(.write, "thin1", at: $0 * block, pattern($0, 512))
    }
    world.passes()
    #expect(try world.pool().data.used == 2)
    #expect(try crashed(world).isClean)
    let refused = try world.start(.write, "thin1", at: 8 * block, pattern(6, 512))
    world.passes()
    #expect(refused.isDone && refused.error == ENOSPC)
    // The first cannot be filled: its block is free again.
    data.fails = { operation, _ in operation == .write }
    data.halted = []
    world.finish(writes)
    data.fails = { _, _ in false }
    #expect(writes.allSatisfy { $0.error == EIO })
    #expect(try world.pool().data.used == 0)
    #expect(try world.write("thin1", at: 0, pattern(7, 2 * block)) == 0)
    #expect(try world.read("thin1", at: 0, count: 2 * block) == pattern(7, 2 * block))
    let report = try world.checkedAtEnd()
    #expect(report.isClean, "\(report.findings)")
  }

  @Test("a discard that fails halfway ends once, when the parts passed down have ended")
  func failureHalfWay() throws {
    var ends = 0
    for failing in 0..<40 {
      let world = try World()
      world.mapper.metadataCacheBlocks = 1
      try world.makePool(dataBytes: 16 * block)
      try world.makeThin(1, bytes: 16 * block)
      // Mapped backwards: each block is a run of its own.
      for number in (0..<8).reversed() {
        #expect(try world.write("thin1", at: number * block, pattern(number, block)) == 0)
      }
      #expect(try world.perform(.flush, "thin1") == 0)
      let (meta, data) = (try #require(world.disks["meta"]), try #require(world.disks["data"]))
      let first = meta.count(.read) + failing
      meta.fails = { operation, number in operation == .read && number == first }
      data.halted = [.discard]
      let discard = try world.start(.discard, "thin1", at: 0, count: 8 * block)
      world.passes()
      #expect(!discard.isDone || data.pendingCount == 0, "\(failing)")
      data.halted = []
      world.finish([discard])
      world.passes()
      meta.fails = { _, _ in false }
      if discard.error != 0 { ends += 1 }
      let report = try world.checkedAtEnd()
      #expect(report.isClean, "\(report.findings)")
    }
    #expect(ends > 0)
  }
}
