import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

private let block = blockBytes

@Suite("Checks of metadata before it is written")
struct DoubtfulMetadataTests {
  /// A pool of 16 blocks with devices 1 and 2, both with block 0 mapped. `change` may damage it in
  /// ways that no pool would.
  private func made(_ change: (PoolMetadata) throws -> Void = { _ in }) throws -> [UInt8] {
    let device = MemoryDevice(byteCount: 1 << 20)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: 16)
    try pool.commit()
    for id in [1, 2] as [ThinID] {
      try pool.createThin(id)
      try pool.openDevice(id)
      try pool.insert(id, 0, dataBlock: try pool.allocateDataBlock())
    }
    try change(pool)
    try pool.commit()
    var bytes = zeros(1 << 20)
    try bytes.withUnsafeMutableBytes { try device.read(into: $0, at: 0) }
    return bytes
  }

  private func world(_ verdict: MetadataVerdict, _ asked: @escaping () -> Void = {}) throws -> World
  {
    let world = try World()
    world.mapper.judgeMetadata = { _, answer in
      asked()
      answer(verdict)
    }
    return world
  }

  @Test("refused metadata is not written, and the error has the reason")
  func refused() throws {
    let meta = try made()
    let world = try world(.refused(["block 7 is damaged", "do this"]))
    try world.add("meta", MemoryDisk(world.loop, bytes: meta, seed: 1))
    try world.add("data", byteCount: 16 * block)
    do throws(DeviceMapperError) {
      try world.dm.create(DeviceCreation(name: "pool", table: [world.poolLine(16 * block)]))
      Issue.record("made")
    } catch {
      #expect(error.code == EUCLEAN && error.reason.contains("block 7 is damaged"), "\(error)")
    }
    #expect(try world.dm.list().isEmpty)
    #expect(world.disks["meta"]?.count(.write) == 0)
  }

  @Test("metadata is checked once in the life of a pool, and never if nothing is written")
  func once() throws {
    let meta = try made()
    var count = 0
    let world = try world(.sound) { count += 1 }
    try world.makePool(meta: meta, data: zeros(16 * block), "1 read_only")
    #expect(count == 0)
    try world.reload("pool", [world.poolLine(16 * block)])
    try world.dm.suspend(.name("pool"), [])
    try world.resume("pool")
    try world.growPool(to: 32 * block)
    #expect(try count == 1 && world.pool().mode == .readWrite)
  }

  @Test("a pool reports a clean end only if it was found sound, and nothing has failed since")
  func cleanEnd() throws {
    let meta = try made()
    for (verdict, fails, isClean) in [
      (MetadataVerdict.sound, false, true), (.unknown, false, false), (.sound, true, false),
    ] {
      let world = try world(verdict)
      var closed: [String] = []
      world.mapper.poolClosed = { closed.append($0.name) }
      try world.makePool(meta: meta, data: zeros(16 * block))
      try world.activate(1, bytes: 8 * block)
      #expect(try world.write("thin1", at: block, pattern(1, block)) == 0)
      if fails {
        world.disks["data"]?.fails = { operation, _ in operation == .flush }
        #expect(try world.perform(.flush, "thin1") == EIO)
        world.disks["data"]?.fails = { _, _ in false }
      }
      world.mapper.removeAll()
      #expect(closed == (isClean ? ["pool"] : []))
    }
  }

  @Test(
    "without a check, blocks beyond the data or counted as free are neither read nor overwritten"
  )
  func unchecked() throws {
    let meta = try made { pool in
      // Block 9 is free, 100 is beyond the end.
      try pool.insert(1, 1, dataBlock: 9)
      try pool.insert(1, 2, dataBlock: 100)
    }
    let world = try world(.unknown)
    try world.makePool(meta: meta, data: pattern(5, 32 * block))
    try world.activate(1, bytes: 8 * block)
    try world.activate(2, bytes: 8 * block)
    for virtual in [1, 2] {
      let read = try world.start(.read, "thin1", at: virtual * block, count: 512)
      world.finish([read])
      #expect(read.error == EIO)
      #expect(try world.write("thin1", at: virtual * block, pattern(6, 512)) == EIO)
    }
    #expect(world.log.contains { $0.contains("counted as free") })
    // Earlier and new mappings are both right, even before the commit.
    #expect(try world.read("thin1", at: 0, count: block) == pattern(5, block))
    #expect(try world.write("thin1", at: 4 * block, pattern(7, 512)) == 0)
    #expect(try world.read("thin1", at: 4 * block, count: 512) == pattern(7, 512))
  }

  @Test("metadata and data of pools never share bytes, and no origin exposes other volumes")
  func roles() throws {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.message("create_thin 1")
    let (meta, data) = (world.path("meta"), world.path("data"))
    let other = try world.add("other", byteCount: 16 * block)
    let length = UInt64(16 * block / 512)
    #expect(link(data, world.path("hard")) == 0 && symlink(meta, world.path("soft")) == 0)
    for name in ["hard", "soft"] {
      world.disks[name] = world.disks[name == "hard" ? "data" : "meta"]
    }
    var half = DeviceCreation(
      name: "half", table: [world.line(length / 2, "linear", "\(data) \(length / 2)")])
    half.isReadOnly = true
    try world.dm.create(half)
    func refusal(_ type: String, _ parameters: String) throws -> String? {
      do throws(DeviceMapperError) {
        try world.dm.create(
          DeviceCreation(name: "x", table: [world.line(length, type, parameters)]))
        try world.dm.remove(.name("x"), deferred: false, retry: false)
        return nil
      } catch {
        return error.reason
      }
    }
    for origin in [data, meta, world.path("hard"), world.path("soft"), "half"] {
      let text = try refusal("thin", "pool 1 \(origin)")
      #expect(text?.contains("cannot be an external origin") == true, "\(origin)")
    }
    for (metadata, bytes) in [
      (other, data), (other, world.path("hard")),
    ] {
      let text = try refusal("thin-pool", "\(metadata) \(bytes) 128 0 0")
      #expect(text?.contains("pool") == true, "\(metadata) \(bytes): \(text ?? "taken")")
    }
    #expect(try refusal("thin-pool", "\(other) half 128 0 0")?.contains("half") == true)
    #expect(try refusal("thin", "pool 1 \(other)") == nil)
    // Pools are usually made of parts of one disk that do not overlap.
    let disk = try world.add("disk", byteCount: 64 * block)
    try world.create("a", [world.line(2048, "linear", "\(disk) 0")])
    try world.create("b", [world.line(length, "linear", "\(disk) 2048")])
    #expect(try refusal("thin-pool", "a b 128 0 0") == nil)
    try world.create("c", [world.line(length, "linear", "\(disk) 2047")])
    #expect(try refusal("thin-pool", "a c 128 0 0") != nil)
  }
  @Test("the devices of a pool cannot be written except by the pool, by earlier or later tables")
  func writableBeside() throws {
    let world = try World()
    let length = UInt64(16 * block / 512)
    let disk = try world.add("disk", byteCount: 64 * block)
    let (other, spare) = (
      try world.add("other", byteCount: 64 * block), try world.add("spare", byteCount: 1 << 20)
    )
    try world.create("tmeta", [world.line(2048, "linear", "\(disk) 0")])
    try world.create("tdata", [world.line(length, "linear", "\(disk) 2048")])
    try world.create("pool", [world.line(length, "thin-pool", "tmeta tdata 128 0 0")])
    func fault(_ body: () throws(DeviceMapperError) -> Void) -> String {
      do throws(DeviceMapperError) {
        try body()
        return ""
      } catch {
        return error.reason
      }
    }
    func make(_ line: TableLine, isReadOnly: Bool = false) -> String {
      var creation = DeviceCreation(name: "x", table: [line])
      creation.isReadOnly = isReadOnly
      return fault { () throws(DeviceMapperError) in
        try world.dm.create(creation)
        try world.dm.remove(.name("x"), deferred: false, retry: false)
      }
    }
    let (last, stripes) = (2048 + length - 1, "2 8 \(other) 0 \(disk) 2000")
    for line in [
      world.line(8, "linear", "\(disk) \(last)"), world.line(8, "linear", "tdata 0"),
      world.line(128, "striped", stripes), world.line(8, "linear", "tmeta 0"),
    ] {
      let text = make(line)
      #expect(
        text.contains("x would be written") && text.contains("of pool pool"), "\(line): \(text)")
      #expect(make(line, isReadOnly: true) == "")
    }
    #expect(make(world.line(8, "linear", "\(disk) \(last + 1)")) == "")
    // An existing device that gets another table.
    try world.create("y", [world.line(8, "linear", "\(other) 0")])
    let line = world.line(8, "linear", "\(disk) 2048")
    #expect(
      fault { () throws(DeviceMapperError) in
        try world.dm.load(.name("y"), [line], readOnly: false)
      }.contains("y would be written"))
    // The devices below the pool can grow, but not over each other.
    try world.reload("tdata", [world.line(2 * length, "linear", "\(disk) 2048")])
    let over = world.line(length, "linear", "\(disk) 1024")
    #expect(
      fault { () throws(DeviceMapperError) in
        try world.dm.load(.name("tdata"), [over], readOnly: false)
      }.contains("tmeta of pool pool"))
    // The pool is created after the device that overlaps it.
    func makeSecond() -> String {
      make(world.line(length, "thin-pool", "\(spare) \(other) 128 0 0"))
    }
    #expect(makeSecond().contains("y would be written through to \(other)"))
    try world.dm.load(.name("y"), [world.line(8, "linear", "\(other) 0")], readOnly: true)
    try world.resume("y")
    #expect(makeSecond() == "")
    try world.dm.load(.name("y"), [world.line(8, "linear", "\(other) 0")], readOnly: false)
    #expect(makeSecond().contains("y would be written through to \(other)"))
  }
}
