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
import ThinTools

private let block = blockBytes

@Suite("Pools in user space that are served read-only")
struct ReadOnlyPoolTests {
  /// Metadata and data of a pool with thin device 1 and its snapshot 2.
  private func made(needsCheck: Bool) throws -> (meta: [UInt8], data: [UInt8]) {
    let world = try World()
    try world.makePool(dataBytes: 16 * block)
    try world.makeThin(1, bytes: 8 * block)
    #expect(try world.write("thin1", at: 0, pattern(1, 2 * block)) == 0)
    try world.snapshot(2, of: 1)
    #expect(try world.write("thin1", at: block, pattern(2, block)) == 0)
    if needsCheck {
      #expect(try world.perform(.flush, "thin1") == 0)
      #expect(try world.write("thin1", at: 4 * block, pattern(3, block)) == 0)
      world.disks["data"]?.fails = { operation, _ in operation == .flush }
      #expect(try world.perform(.flush, "thin1") == EIO)
      world.disks["data"]?.fails = { _, _ in false }
    }
    let report = try world.checkedAtEnd()
    #expect(report.isClean && report.needsCheck == needsCheck)
    return (try #require(world.disks["meta"]).bytes, try #require(world.disks["data"]).bytes)
  }

  private func serve(_ meta: [UInt8], _ data: [UInt8], _ features: String) throws -> World {
    let world = try World()
    world.mapper.isReadOnly = true
    world.mapper.commitIntervalNanoseconds = 1
    try world.makePool(meta: meta, data: data, features)
    for id in 1...2 {
      let line = world.line(UInt64(8 * block / 512), "thin", "pool \(id)")
      var request = DeviceCreation(name: "thin\(id)", table: [line])
      request.isReadOnly = true
      try world.dm.create(request)
    }
    return world
  }

  /// Everything that would write.
  private func provoke(_ world: World) throws {
    for operation in [.write, .discard, .writeZeroes] as [BlockOperation] {
      let bytes = operation == .write ? pattern(9, block) : []
      for at in [0, 5 * block] {
        #expect(try world.perform(operation, "thin1", at: at, count: block, bytes) != 0)
      }
    }
    _ = try world.perform(.flush, "thin1")
    for text in ["create_thin 7", "create_snap 7 1", "delete 2", "reserve_metadata_snap"] {
      #expect(throws: DeviceMapperError.self) { try world.message(text) }
    }
    _ = try world.status()
    try world.dm.suspend(.name("pool"), [])
    try world.resume("pool")
    try world.reload("pool", [world.poolLine(16 * block)])
    #expect(try world.pool().mode == .readOnly)
    world.passes()
  }

  private func expectUntouched(_ world: World, _ meta: [UInt8], _ data: [UInt8]) {
    world.mapper.removeAll()
    for (name, bytes) in [("meta", meta), ("data", data)] {
      let disk = world.disks[name]
      #expect(disk?.count(.write) == 0 && disk?.count(.discard) == 0)
      #expect(disk?.count(.writeZeroes) == 0 && disk?.bytes == bytes)
    }
  }

  @Test(
    "nothing is written, whatever the requests, the table and the metadata",
    arguments: ["0", "1 read_only"], [false, true])
  func untouched(_ features: String, _ needsCheck: Bool) throws {
    let (meta, data) = try made(needsCheck: needsCheck)
    let world = try serve(meta, data, features)
    let old = pattern(1, 2 * block)
    let new = Array(old[0..<block]) + pattern(2, block)
    #expect(try world.read("thin1", at: 0, count: 3 * block) == new + zeros(block))
    #expect(try world.read("thin2", at: 0, count: 3 * block) == old + zeros(block))
    #expect(try world.pool().needsCheck == needsCheck)
    try provoke(world)
    #expect(try world.read("thin1", at: 0, count: 3 * block) == new + zeros(block))
    expectUntouched(world, meta, data)
  }

  @Test("a pool with damaged metadata is read as far as possible, and never changed")
  func damaged() throws {
    let (good, data) = try made(needsCheck: false)
    var meta = good
    var failures = 0
    // Each block of metadata that is in use, but for the superblock.
    for number in 1..<meta.count / 4096
    where good[number * 4096..<number * 4096 + 4096].contains(where: { $0 != 0 }) {
      meta = good
      for at in stride(from: 40, to: 4096, by: 97) { meta[number * 4096 + at] ^= 0x5a }
      let world: World
      do { world = try serve(meta, data, "0") } catch {
        failures += 1
        continue
      }
      for id in 1...2 {
        let read = try world.start(.read, "thin\(id)", at: 0, count: 2 * block)
        world.finish([read])
        if read.error != 0 { failures += 1 }
      }
      try provoke(world)
      expectUntouched(world, meta, data)
    }
    #expect(failures > 0)
  }

  @Test(
    "look-ups need neither space maps, nor details, nor the whole data disk"
  )
  func lost() throws {
    let (good, data) = try made(needsCheck: true)
    let world = try serve(good, data, "0")
    let (old, size) = (pattern(1, 2 * block), good.count)
    let device = MemoryDevice(byteCount: size)
    try good.withUnsafeBytes { try device.write($0, at: 0) }
    let superblock = try MetadataView(device, source: .current).superblock
    world.mapper.removeAll()
    for lost in [
      superblock.metadataSpaceMap.bitmapRoot, superblock.dataSpaceMap.bitmapRoot,
      superblock.metadataSpaceMap.overflowRoot, superblock.dataSpaceMap.overflowRoot,
      superblock.detailsRoot,
    ] {
      var meta = good
      meta.replaceSubrange(Int(lost) * 4096..<Int(lost + 1) * 4096, with: zeros(4096))
      let world = try serve(meta, data, "0")
      let new = Array(old[0..<block]) + pattern(2, block)
      #expect(try world.read("thin1", at: 0, count: 3 * block) == new + zeros(block))
      #expect(try world.read("thin2", at: 0, count: 3 * block) == old + zeros(block))
      try provoke(world)
      expectUntouched(world, meta, data)
    }
    // Half of the data disk is gone, which the table knows, and the end of the metadata.
    let world2 = try serve(Array(good[0..<size / 2]), Array(data[0..<block]), "0")
    #expect(try world2.read("thin1", at: 0, count: block) == Array(old[0..<block]))
    let read = try world2.start(.read, "thin1", at: block, count: block)
    world2.finish([read])
    #expect(read.error == EIO)
  }

  @Test("a missing thin device is refused with a message, and the kernel's error number")
  func missingDevice() throws {
    let (meta, data) = try made(needsCheck: false)
    let world = try serve(meta, data, "0")
    var request = DeviceCreation(name: "x", table: [world.line(8, "thin", "pool 9")])
    request.isReadOnly = true
    do throws(DeviceMapperError) {
      try world.dm.create(request)
      Issue.record("made")
    } catch {
      #expect(error.code == ENODATA && error.reason.contains("no thin device 9"), "\(error)")
    }
    try world.dm.remove(.name("thin1"), deferred: false, retry: false)
    world.mapper.removeAll()
    expectUntouched(world, meta, data)
  }

  @Test("empty metadata is not formatted")
  func unformatted() throws {
    let world = try World()
    world.mapper.isReadOnly = true
    let meta = [UInt8](repeating: 0, count: 1 << 20)
    try world.add("meta", MemoryDisk(world.loop, bytes: meta, seed: 1))
    try world.add("data", byteCount: 16 * block)
    #expect(throws: DeviceMapperError.self) {
      try world.create("pool", [world.poolLine(16 * block)])
    }
    #expect(world.disks["meta"]?.count(.write) == 0 && world.disks["meta"]?.bytes == meta)
  }
}
