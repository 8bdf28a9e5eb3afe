import DataPath
import DeviceMapper
import Glibc
import Targets
import TestSupport
import Testing

private let block = blockBytes

@Suite("Tables over disks of several kinds")
struct DiskKindTests {
  private func refusal(_ world: World, _ line: TableLine) -> DeviceMapperError? {
    do throws(DeviceMapperError) {
      try world.dm.create(DeviceCreation(name: "refused", table: [line]))
      return nil
    } catch {
      return error
    }
  }

  @Test("A name is one disk for all tables, until the last one closes it")
  func sharing() throws {
    let world = try World(onFiles: true)
    try world.create("a", [world.line(8, "linear", "memory:8k 0")])
    try world.create("b", [world.line(8, "linear", "memory:8192b 8")])
    try world.create("c", [world.line(16, "linear", "memory:8k/other 0")])
    try world.create("whole", [world.line(16, "linear", "memory:8k 0")])
    let bytes = pattern(3, 8192)
    #expect(try world.write("whole", at: 0, bytes) == 0)
    #expect(try world.read("a", at: 0, count: 4096) == Array(bytes[..<4096]))
    #expect(try world.read("b", at: 0, count: 4096) == Array(bytes[4096...]))
    #expect(try world.read("c", at: 0, count: 8192) == zeros(8192))
    // A table names it by number, and that finds it again.
    let word = try #require(try world.dm.table(.name("a"), [])?.lines.first?.parameters)
    #expect(word.hasPrefix("0:"), "\(word)")
    try world.reload("a", [world.line(8, "linear", word)])
    #expect(try world.read("a", at: 0, count: 4096) == Array(bytes[..<4096]))
    let minor = try #require(UInt32(word.split(separator: " ")[0].dropFirst(2)))
    #expect(world.mapper.path(of: DeviceNumber(major: 0, minor: minor)) == "memory:8k")
    for name in ["a", "b", "whole"] {
      try world.dm.remove(.name(name), deferred: false, retry: false)
    }
    try world.create("a", [world.line(8, "linear", "memory:8k 0")])
    #expect(try world.read("a", at: 0, count: 4096) == zeros(4096))
  }

  @Test("A pool in memory works, also over a file named by its scheme")
  func pool() throws {
    let world = try World(onFiles: true)
    let data = try world.folder.zeros("a:b c", size: UInt64(16 * block))
    for name in ["memory:1m/data", "file:" + NameMangling.word(data)] {
      let line = world.line(
        UInt64(16 * block / 512), "thin-pool", "memory:2m \(name) 128 0 0")
      try world.create("pool", [line])
      try world.makeThin(1, bytes: 8 * block)
      let bytes = pattern(5, 2 * block)
      #expect(try world.write("thin1", at: block, bytes) == 0)
      #expect(try world.perform(.flush, "thin1") == 0)
      #expect(try world.read("thin1", at: block, count: 2 * block) == bytes)
      #expect(try world.pool().data.used == 2)
      world.mapper.removeAll()
    }
  }

  @Test("Metadata and data of a pool cannot be one disk in memory")
  func samePlace() throws {
    let world = try World(onFiles: true)
    let line = world.line(2048, "thin-pool", "memory:1m memory:1024k 128 0 0")
    let error = try #require(refusal(world, line))
    #expect(error.explanation.joined().contains("memory:1m"), "\(error)")
  }

  @Test("An unknown kind and a missing file are refused as missing devices, with a reason")
  func refusals() throws {
    let world = try World(onFiles: true)
    for (word, reason) in [
      ("mirror:1m", "no kind of disk is called mirror"), ("memory:x", "a size such as 64m"),
      ("/none/x", "cannot find /none/x: No such file or directory"),
    ] {
      let error = try #require(refusal(world, world.line(8, "linear", "\(word) 0")))
      #expect(error.code == ENODEV, "\(error)")
      #expect(error.explanation.joined().contains(reason), "\(error)")
    }
    let error = try #require(refusal(world, world.line(8, "linear", "/dev/null 0")))
    #expect(error.code == ENOTBLK)
    #expect(error.explanation.joined().contains("neither a block device nor a file"), "\(error)")
  }
}
