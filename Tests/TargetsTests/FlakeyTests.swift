import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing

private let size = 64 * 1024

/// Devices of the target `flakey`, with a clock that the test sets.
@Suite("flakey")
struct FlakeyTests {
  private let world: World
  private let disk: String
  private let old = pattern(1, size)

  init() throws {
    let world = try World()
    self.world = world
    disk = try world.add("disk", MemoryDisk(world.loop, bytes: pattern(1, size), seed: 1))
  }

  private func make(_ parameters: String, of path: String? = nil) throws {
    try world.create(
      "f", [world.line(UInt64(size / 512), "flakey", "\(path ?? disk) 0 \(parameters)")])
  }

  private var onDisk: [UInt8] { world.disks["disk"]?.bytes ?? [] }

  @Test(
    "a line is printed as the kernel prints it",
    arguments: [
      "98:16 0 1 2 0 ", "98:16 0 0 4294967295 1 error_writes ",
      "98:16 0 1 2 6 drop_writes corrupt_bio_byte 32 r 255 4294967295 ",
      "98:16 0 1 2 5 corrupt_bio_byte 4294967295 w 0 0 ",
    ])
  func lines(_ parameters: String) throws {
    let line = TableLine(start: 0, length: 16, type: "flakey", parameters: parameters)
    #expect(try understood(line)?.parameters == parameters)
  }

  @Test("any words make a target or are refused, and a target prints its line unchanged")
  func hostile() {
    var lines = HostileText(
      [
        "flakey 98:16 0 1 2", "flakey 98:16 0 1 2 1 error_writes",
        "flakey 98:16 0 1 2 6 drop_writes corrupt_bio_byte 32 r 255 4294967295",
      ],
      words: ["corrupt_bio_byte", "drop_writes", "error_writes", "error_reads", "r", "w"],
      seed: 20_261_126)
    lines.expectSense(5000)
  }

  @Test("it works for the first seconds since it was loaded, then fails, and so on")
  func intervals() throws {
    let loaded = world.loop.time
    try make("100 50")
    func works() throws -> Bool {
      let codes = Set([
        try world.perform(.read, "f", count: 512), try world.write("f", at: 0, old),
        try world.perform(.flush, "f"),
      ])
      #expect(codes == [0] || codes == [EIO])
      return codes == [0]
    }
    // Far from the moments of change, so the duration of the test itself does not matter.
    for (second, expected) in [(0, true), (50, true), (125, false), (200, true), (275, false)] {
      let passed = (world.loop.time - loaded) / World.second
      world.loop.skip(UInt64(second) * World.second - min(passed, UInt64(second)) * World.second)
      #expect(try works() == expected, "second \(second)")
    }
    #expect(try world.status("f") == "")
  }

  @Test("while it fails all requests end with EIO, and nothing reaches the device below")
  func failing() throws {
    try make("0 1000000")
    for operation in [BlockOperation.read, .write, .flush, .discard, .writeZeroes] {
      let bytes = operation == .write ? zeros(4096) : []
      let count = operation == .flush ? 0 : 4096
      #expect(try world.perform(operation, "f", at: 0, count: count, bytes) == EIO)
    }
    #expect(onDisk == old)
    #expect(world.disks["disk"]?.count(.flush) == 0)
  }

  @Test("drop_writes drops writes, error_writes fails them, and both allow reads")
  func writes() throws {
    for (feature, code) in [("drop_writes", 0), ("error_writes", EIO)] {
      try make("0 1000000 1 \(feature)")
      for operation in [BlockOperation.write, .flush, .discard, .writeZeroes] {
        let bytes = operation == .write ? zeros(4096) : []
        let count = operation == .flush ? 0 : 4096
        #expect(try world.perform(operation, "f", at: 0, count: count, bytes) == code)
      }
      #expect(try world.read("f", at: 0, count: size) == old)
      #expect(world.disks["disk"]?.count(.flush) == 0)
      world.mapper.removeAll()
    }
    #expect(onDisk == old)
  }

  @Test("a byte of each write is corrupted on its way down, and not in the client's memory")
  func corruptedWrites() throws {
    try make("0 1000000 5 corrupt_bio_byte 4097 w 66 0")
    let bytes = pattern(7, 8192)
    let write = try world.start(.write, "f", at: 512, bytes)
    world.finish([write])
    #expect(write.error == 0)
    #expect(Array(write.buffer.bytes[0..<8192]) == bytes)
    var expected = bytes
    expected[4096] = 66
    #expect(Array(onDisk[512..<(512 + 8192)]) == expected)
    // A write too short to contain the byte is not changed, and neither are reads.
    #expect(try world.write("f", at: 512, Array(bytes[0..<4096])) == 0)
    #expect(try world.read("f", at: 512, count: 8192) == expected)
    #expect(try world.perform(.flush, "f") == 0)
  }

  @Test("a byte of each read is corrupted on its way up, and not on the disk")
  func corruptedReads() throws {
    try make("0 1000000 6 drop_writes corrupt_bio_byte 3 r 66 0")
    var expected = Array(old[512..<4608])
    expected[2] = 66
    #expect(try world.read("f", at: 512, count: 4096) == expected)
    #expect(try world.write("f", at: 512, zeros(4096)) == 0)
    #expect(onDisk == old)
    world.disks["disk"]?.fails = { operation, _ in operation == .read }
    #expect(try world.perform(.read, "f", count: 512) == EIO)
  }

  @Test("corruption can be limited to requests with certain flags of the kernel")
  func flags() throws {
    // Writes, synchronous writes, and durable writes (REQ_FUA). No client can send REQ_META.
    for (mask, plain, durable) in [
      (1, true, true), (1 << 11, true, true), (1 << 17 | 1, false, true), (1 << 12, false, false),
    ] {
      try make("0 1000000 5 corrupt_bio_byte 1 w 66 \(mask)")
      let bytes = zeros(512)
      for (flags, isCorrupted) in [(BlockFlags(), plain), (.durable, durable)] {
        #expect(try world.perform(.write, "f", at: 0, bytes, flags: flags) == 0)
        #expect(onDisk[0] == (isCorrupted ? 66 : 0), "\(mask)")
      }
      world.mapper.removeAll()
    }
  }

  @Test("a pool whose metadata cannot be written reports it, and keeps the committed state")
  func metadata() throws {
    let meta = try world.add("meta", byteCount: 1 << 20)
    try world.create("m", [world.line(2048, "flakey", "\(meta) 0 100 1000000 1 error_writes")])
    try world.create("pool", [world.line(128, "thin-pool", "m \(disk) 128 0")])
    try world.message("create_thin 1")
    world.loop.skip(1000 * World.second)
    #expect(world.refusal("create_thin 2") != nil)
    #expect(try world.pool().mode == .readOnly)
    world.mapper.removeAll()
    #expect(world.disks["meta"]?.bytes.prefix(4096).contains { $0 != 0 } == true)
  }

  @Test(
    "metadata that is dropped or corrupted on its way down is damaged below, as under the kernel")
  func damagedMetadata() throws {
    for (name, feature) in [("a", "1 drop_writes"), ("b", "5 corrupt_bio_byte 100 w 66 0")] {
      let meta = try world.add(name, byteCount: 1 << 20)
      try world.create("m", [world.line(2048, "flakey", "\(meta) 0 100 1000000 \(feature)")])
      try world.create("pool", [world.line(128, "thin-pool", "m \(disk) 128 0")])
      let before = world.disks[name]?.bytes
      world.loop.skip(1000 * World.second)
      try world.message("create_thin 1")
      world.mapper.removeAll()
      let after = try #require(world.disks[name]).bytes
      #expect((after == before) == (name == "a"))
    }
  }
}
