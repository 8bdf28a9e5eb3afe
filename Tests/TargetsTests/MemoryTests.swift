import DataPath
import DeviceMapper
import Glibc
import Targets
import Testing

private let block = blockBytes

@Suite("Memory of pools")
struct MemoryTests {
  @Test(
    "What is known of mappings has a limit for all thin devices together, and still serves each")
  func mappings() throws {
    let world = try World()
    try world.makePool(dataBytes: 64 * block)
    for id in 1...60 {
      try world.message("create_thin \(id)")
      try world.activate(id, bytes: 100_000 * block)
      #expect(try world.write("thin\(id)", at: 99_999 * block, pattern(id, 512)) == 0)
    }
    #expect(world.mapper.memoryBytes < 20 << 20)
    for id in 1...60 {
      #expect(try world.read("thin\(id)", at: 99_999 * block, count: 512) == pattern(id, 512))
    }
    // A device that comes when others have gone gets as much as the first.
    for id in 1...60 { try world.dm.remove(.name("thin\(id)"), deferred: false, retry: false) }
    let before = world.mapper.memoryBytes
    try world.activate(1, bytes: 100_000 * block)
    #expect(world.mapper.memoryBytes - before == 1 << 20)
  }

  @Test(
    "Blocks that are made ready have a limit for all pools together, and each pool has one buffer")
  func blocks() throws {
    let world = try World()
    // Blocks of 1 MiB.
    for pool in ["a", "b"] {
      let meta = try world.add("meta\(pool)", byteCount: 1 << 20)
      let data = try world.add("data\(pool)", byteCount: 40 << 20)
      try world.create(
        pool, [world.line(40 << 11, "thin-pool", "\(meta) \(data) 2048 0 0")])
      _ = try world.dm.message(.name(pool), sector: 0, "create_thin 1")
      try world.create("\(pool)1", [world.line(36 << 11, "thin", "\(pool) 1")])
      world.disks["data\(pool)"]?.isHalted = true
    }
    var outcomes: [World.Outcome] = []
    for at in 0..<36 {
      for pool in ["a", "b"] {
        outcomes.append(
          try world.start(.write, "\(pool)1", at: at << 20, pattern(at, 512)))
      }
    }
    world.passes(20)
    #expect(world.mapper.memoryBytes <= 19 << 20)
    for pool in ["a", "b"] { world.disks["data\(pool)"]?.isHalted = false }
    world.finish(outcomes)
    #expect(outcomes.allSatisfy { $0.error == 0 })
    #expect(try world.read("b1", at: 35 << 20, count: 512) == pattern(35, 512))
    world.mapper.returnMemory()
    #expect(world.mapper.memoryBytes <= 9 << 20)
  }
}
