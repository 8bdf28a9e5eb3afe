import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing
import ThinTools

private let size = 64 * 1024
private let millisecond: UInt64 = 1_000_000

/// Devices of the target `delay`, with a clock that the test sets.
@Suite("delay")
struct DelayTests {
  private let world: World
  private let paths: [String]

  init() throws {
    let world = try World()
    self.world = world
    paths = try ["a", "b", "c"].map { try world.add($0, byteCount: 2 * size) }
  }

  private func make(_ parameters: String) throws {
    try world.create("d", [world.line(UInt64(size / 512), "delay", parameters)])
  }

  private func later(_ milliseconds: UInt64) {
    world.loop.skip(milliseconds * millisecond)
    world.passes()
  }

  @Test(
    "a line is printed as the kernel prints it",
    arguments: [
      "98:16 0 5", "98:16 0 5 98:16 8 6", "98:16 0 5 98:16 8 6 98:16 16 4294967295",
    ])
  func lines(_ parameters: String) throws {
    let line = TableLine(start: 0, length: 16, type: "delay", parameters: parameters)
    #expect(try understood(line)?.parameters == parameters)
  }

  @Test("any words make a target or are refused, and a target prints its line unchanged")
  func hostile() {
    var lines = HostileText(
      ["delay 98:16 0 5", "delay 98:16 0 5 98:16 8 6 98:16 16 7"], seed: 20_261_126)
    lines.expectSense(3000)
  }

  @Test("each kind of requests goes to its own device and sector, with its own delay")
  func kinds() throws {
    try make("\(paths[0]) 8 100000 \(paths[1]) 16 200000 \(paths[2]) 24 300000")
    let bytes = pattern(1, 4096)
    let read = try world.start(.read, "d", at: 0, count: 4096)
    let write = try world.start(.write, "d", at: 4096, bytes)
    let discard = try world.start(.discard, "d", at: 8192, count: 4096)
    let flush = try world.start(.flush, "d")
    world.passes()
    #expect(try world.status("d") == "1 2 1")
    later(99_000)
    #expect(!read.isDone)
    later(2000)
    #expect(read.isDone && !write.isDone)
    #expect(try world.status("d") == "0 2 1")
    later(100_000)
    #expect(write.isDone && discard.isDone && !flush.isDone)
    #expect(world.disks["c"]?.count(.flush) == 0)
    later(100_000)
    #expect(flush.isDone)
    #expect(try world.status("d") == "0 0 0")
    let there = try #require(world.disks["b"]).bytes
    #expect(Array(there[(4096 + 16 * 512)..<(8192 + 16 * 512)]) == bytes)
    #expect(there[(8192 + 16 * 512)...].prefix(4096).allSatisfy { $0 == 0xdd })
    #expect(try #require(world.disks["c"]).count(.flush) == 1)
    #expect([read, write, discard, flush].map(\.error) == [0, 0, 0, 0])
  }

  @Test(
    "with fewer classes than kinds the last one stands for the rest, each kind counted by itself")
  func fewer() throws {
    try make("\(paths[0]) 0 100000")
    let all = [
      try world.start(.read, "d", count: 4096), try world.start(.write, "d", pattern(1, 4096)),
      try world.start(.flush, "d"),
    ]
    world.passes()
    #expect(try world.status("d") == "1 1 1")
    later(100_000)
    #expect(all.filter(\.isDone).count == 3)
    try world.reload(
      "d", [world.line(UInt64(size / 512), "delay", "\(paths[0]) 0 0 \(paths[1]) 0 100000")])
    let read = try world.start(.read, "d", count: 4096)
    let flush = try world.start(.flush, "d")
    world.finish([read])
    #expect(try world.status("d") == "0 0 1")
    later(100_000)
    #expect(flush.isDone && world.disks["b"]?.count(.flush) == 1)
  }

  @Test("requests that are due go down in the order of their arrival, whatever their kind")
  func order() throws {
    try make("\(paths[0]) 0 300000 \(paths[0]) 0 200000 \(paths[0]) 0 100000")
    world.disks["a"]?.isHalted = true
    let read = try world.start(.read, "d", count: 4096)
    let write = try world.start(.write, "d", pattern(1, 4096))
    let flush = try world.start(.flush, "d")
    later(400_000)
    let orders = world.disks["a"]?.pendingOperations
    #expect(orders == [.read, .write, .flush])
    world.disks["a"]?.isHalted = false
    world.finish([read, write, flush])
  }

  @Test("suspending sends down waiting requests at once, and after resuming requests wait again")
  func suspend() throws {
    for options in [SuspendOptions.noFlush, []] {
      try make("\(paths[0]) 0 4294967295")
      let bytes = pattern(3, 4096)
      let write = try world.start(.write, "d", bytes)
      world.passes()
      #expect(try world.status("d") == "0 1 0")
      try world.dm.suspend(.name("d"), options)
      world.finish([write])
      #expect(write.error == 0)
      #expect(try world.status("d") == "0 0 0")
      // The suspended device holds new requests. Once it is resumed, the target holds them.
      let read = try world.start(.read, "d", count: 4096)
      world.passes()
      try world.resume("d")
      world.passes()
      #expect(!read.isDone)
      #expect(try world.status("d") == "1 0 0")
      try world.dm.suspend(.name("d"), [])
      #expect(read.isDone && read.bytes == bytes)
      try world.resume("d")
      world.mapper.removeAll()
      #expect(world.mapper.list().isEmpty)
    }
  }

  @Test("a new table takes over at once, and errors come back through the delay")
  func errors() throws {
    try make("\(paths[0]) 0 100000")
    world.disks["a"]?.fails = { operation, _ in operation == .read }
    let read = try world.start(.read, "d", count: 4096)
    later(100_000)
    #expect(read.isDone && read.error == EIO)
    let write = try world.start(.write, "d", pattern(1, 4096))
    world.passes()
    try world.reload("d", [world.line(UInt64(size / 512), "delay", "\(paths[1]) 0 0")])
    #expect(write.isDone && write.error == 0)
    #expect(try world.read("d", at: 0, count: 4096) == zeros(4096))
  }

  @Test("a pool's metadata on it waits, and all that is below must be large enough")
  func metadata() throws {
    try world.add("m", byteCount: 1 << 20)
    try world.create(
      "meta", [world.line(2048, "delay", "\(world.path("m")) 0 0 \(world.path("m")) 0 20000")])
    var result: Result<Void, DeviceMapperError>?
    let table = [world.line(256, "thin-pool", "meta \(paths[0]) 128 0")]
    world.mapper.create(DeviceCreation(name: "pool", table: table)) { result = $0 }
    later(19_000)
    #expect(result == nil && world.disks["m"]?.count(.write) == 0)
    for _ in 0..<40 where result == nil { later(21_000) }
    let made: Void? = try result?.get()
    #expect(made != nil)
    try world.dm.suspend(.name("pool"), [])
    let report = try World.check(try #require(world.disks["m"]).bytes)
    #expect(report.isClean)
    world.mapper.removeAll()
    #expect(throws: DeviceMapperError.self) {
      try make("\(paths[0]) 0 0 \(paths[1]) 0 0 \(paths[2]) \(size / 512 + 1) 0")
    }
  }
}
