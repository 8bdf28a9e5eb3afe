import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import TestSupport
import Testing
import ThinFormat

private let sectors = 64

/// An origin of 64 sectors `o` on disk `origin`, and disks for stores.
private final class Bench {
  let world: World
  let old = pattern(3, sectors * 512)
  let origin: MemoryDisk

  init() throws {
    world = try World()
    origin = MemoryDisk(world.loop, bytes: old, seed: 1)
    try world.add("origin", origin)
    try world.create("o", [originLine])
  }

  var originLine: TableLine {
    world.line(UInt64(sectors), "snapshot-origin", world.path("origin"))
  }

  func line(_ cow: String, _ store: String = "P 8", merge: Bool = false) -> TableLine {
    world.line(
      UInt64(sectors), merge ? "snapshot-merge" : "snapshot",
      "\(world.path("origin")) \(world.path(cow)) \(store)")
  }

  /// A snapshot `name` on a new disk `cow-NAME`.
  @discardableResult
  func snapshot(_ name: String, _ store: String = "P 8", cowSectors: Int = 200) throws -> MemoryDisk
  {
    let cow = MemoryDisk(world.loop, byteCount: cowSectors * 512)
    try world.add("cow-\(name)", cow)
    try world.dm.suspend(.name("o"), [])
    try world.create(name, [line("cow-\(name)", store)])
    try world.resume("o")
    return cow
  }

  func all(_ name: String) throws -> [UInt8] { try world.read(name, at: 0, count: sectors * 512) }

  /// The error of a table that is refused.
  func refusal(_ line: TableLine) -> DeviceMapperError? {
    do throws(DeviceMapperError) {
      try world.dm.create(DeviceCreation(name: "refused", table: [line]))
      return nil
    } catch {
      return error
    }
  }
}

@Suite("Snapshots in exception stores")
struct SnapshotTests {
  @Test("a store that fails makes its snapshot invalid, and the origin goes on", arguments: 0..<6)
  func storeFails(_ number: Int) throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s", "P 1")
    let other = try bench.snapshot("t", "P 8")
    let operation: BlockOperation = number < 4 ? .write : .flush
    let before = cow.count(operation)
    cow.fails = { $0 == operation && $1 == before + number % 4 }
    for index in 0..<4 {
      #expect(try bench.world.write("o", at: index * 4096, pattern(9, 512)) == 0)
    }
    #expect(try bench.world.status("s") == "Invalid")
    #expect(try bench.world.event("s") == 1)
    #expect(try bench.world.perform(.read, "s", at: 0, count: 512) == EIO)
    #expect(try bench.all("t") == bench.old)
    #expect(other.bytes[4] == 1 && cow.bytes[4] == 0, "the headers")
    // It stays so.
    try bench.world.dm.remove(.name("s"), deferred: false, retry: false)
    try bench.world.create("s", [bench.line("cow-s", "P 1")])
    #expect(try bench.world.status("s") == "Invalid")
  }

  @Test("a read of the origin that fails makes the snapshot invalid that needs it, and no other")
  func originFails() throws {
    let bench = try Bench()
    try bench.snapshot("s")
    #expect(try bench.world.write("s", at: 0, pattern(1, 4096)) == 0)
    let origin = bench.origin
    origin.fails = { operation, _ in operation == .read }
    #expect(try bench.world.write("s", at: 4096, pattern(2, 512)) == EIO)
    #expect(try bench.world.status("s") == "Invalid")
  }

  @Test("a write to the origin waits until it is on record that a snapshot is invalid")
  func invalidFirst() throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s", "P 8", cowSectors: 24)
    #expect(try bench.world.write("o", at: 0, pattern(1, 512)) == 0)
    cow.halted = [.write]
    let write = try bench.world.start(.write, "o", at: 4096, pattern(2, 512))
    bench.world.passes()
    #expect(!write.isDone && bench.origin.bytes == pattern(1, 512) + bench.old[512...])
    cow.halted = []
    bench.world.finish([write])
    #expect(write.error == 0 && cow.durable[4] == 0)
  }

  @Test("a read of a snapshot that is under way sees the old content, whatever the origin gets")
  func readsGoFirst() throws {
    let bench = try Bench()
    try bench.snapshot("s")
    let origin = bench.origin
    // The chunk is copied meanwhile: only the write that overwrites it has to wait.
    origin.delays = { $0.operation == .read && $0.byteCount == 512 }
    let read = try bench.world.start(.read, "s", at: 512, count: 512)
    bench.world.passes()
    let write = try bench.world.start(.write, "o", at: 0, pattern(5, 4096))
    bench.world.passes()
    #expect(!write.isDone && !read.isDone && origin.bytes == bench.old)
    #expect(try bench.world.status("s") == "24/200 16")
    origin.delays = { _ in false }
    bench.world.finish([read, write])
    #expect(read.bytes == Array(bench.old[512..<1024]))
    #expect(try bench.all("s") == bench.old)
  }

  @Test(
    "a snapshot begins when the writes to its origin that were under way have ended",
    arguments: [false, true])
  func beginsAfterWrites(_ isMerging: Bool) throws {
    let bench = try Bench()
    if isMerging {
      try bench.snapshot("m")
      try bench.world.dm.load(.name("o"), [bench.line("cow-m", merge: true)], readOnly: false)
      try bench.world.dm.suspend(.name("o"), [])
      try bench.world.dm.suspend(.name("m"), [])
      try bench.world.resume("o")
    }
    let origin = bench.origin
    origin.halted = [.write]
    let write = try bench.world.start(.write, "o", at: 0, pattern(5, 4096))
    bench.world.passes()
    let timer = LoopTimer { origin.halted = [] }
    bench.world.loop.set(timer, after: 20_000_000)
    try bench.world.add("cow-s", byteCount: 200 * 512)
    try bench.world.create("s", [bench.line("cow-s")])
    #expect(write.isDone)
    #expect(try bench.all("s") == pattern(5, 4096) + bench.old[4096...])
  }

  @Test(
    "a full store with O keeps what it has; without, the snapshot is invalid",
    arguments: ["P", "PO"])
  func full(_ store: String) throws {
    let bench = try Bench()
    try bench.snapshot("s", "\(store) 8", cowSectors: 31)
    #expect(try bench.world.write("s", at: 0, pattern(1, 4096)) == 0)
    #expect(try bench.world.write("s", at: 4096, pattern(2, 4096)) == EIO)
    #expect(try bench.world.status("s") == (store == "P" ? "Invalid" : "Overflow"))
    guard store == "PO" else { return }
    #expect(try bench.world.write("s", at: 0, pattern(1, 512)) == EIO)
    #expect(try bench.world.read("s", at: 0, count: 4096) == pattern(1, 4096))
    #expect(try bench.world.write("o", at: 8192, pattern(3, 512)) == 0)
    #expect(try bench.world.status("s") == "Invalid")
  }

  @Test("the next area is zeroed before the one that is full is written")
  func areas() throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s", "P 1", cowSectors: 200)
    cow.poison()
    // The header and the first area again, since poison took them.
    try bench.world.dm.remove(.name("s"), deferred: false, retry: false)
    var image = cow.bytes
    image.replaceSubrange(0..<512, with: zeros(512))
    try bench.world.add("cow-s", MemoryDisk(bench.world.loop, bytes: image, seed: 4))
    try bench.world.create("s", [bench.line("cow-s", "P 1")])
    #expect(try bench.world.write("s", at: 0, pattern(4, sectors * 512)) == 0)
    // 64 exceptions fill two areas; the third begins at chunk 1 + 2 * 33.
    #expect(try bench.world.status("s") == "68/200 4")
    try bench.world.dm.remove(.name("s"), deferred: false, retry: false)
    try bench.world.create("s", [bench.line("cow-s", "P 1")])
    #expect(try bench.world.status("s") == "68/200 4")
    #expect(try bench.all("s") == pattern(4, sectors * 512))
  }

  // MARK: - Merging

  @Test(
    "an error of a merge is told by its status, and what is not merged stays readable",
    arguments: 0..<3)
  func mergeFails(_ number: Int) throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s")
    // Three runs of records.
    var expected = bench.old
    for chunk in [0, 4, 2] {
      let bytes = pattern(chunk + 20, 4096)
      #expect(try bench.world.write("s", at: chunk * 4096, bytes) == 0)
      expected.replaceSubrange(chunk * 4096..<(chunk + 1) * 4096, with: bytes)
    }
    try bench.world.dm.load(.name("o"), [bench.line("cow-s", merge: true)], readOnly: false)
    try bench.world.dm.suspend(.name("o"), [])
    try bench.world.dm.suspend(.name("s"), [])
    let origin = bench.origin
    let (writes, flushes) = (origin.count(.write), origin.count(.flush))
    let records = cow.count(.write)
    switch number {
    case 0: origin.fails = { $0 == .write && $1 == writes + 1 }
    case 1: origin.fails = { $0 == .flush && $1 == flushes + 1 }
    default: cow.fails = { $0 == .write && $1 == records + 1 }
    }
    try bench.world.resume("o")
    bench.world.loop.run(within: 10 * World.second) {
      (try? bench.world.status("o")) == "Merge failed"
    }
    #expect(try bench.world.status("o") == "Merge failed")
    #expect(try bench.all("o") == expected)
    // Made again, it goes on.
    (origin.fails, cow.fails) = ({ _, _ in false }, { _, _ in false })
    try bench.world.dm.remove(.name("s"), deferred: false, retry: false)
    try bench.world.dm.remove(.name("o"), deferred: false, retry: false)
    try bench.world.create("o", [bench.line("cow-s", merge: true)])
    bench.world.loop.run(within: 10 * World.second) {
      (try? bench.world.status("o")) == "16/200 16"
    }
    #expect(try bench.world.status("o") == "16/200 16")
    #expect(origin.bytes == expected)
  }

  @Test("a chunk is merged after the writes to it that were under way have ended")
  func mergesAfterWrites() throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s")
    for chunk in [0, 4, 2] {
      #expect(try bench.world.write("s", at: chunk * 4096, pattern(chunk, 4096)) == 0)
    }
    let origin = bench.origin
    try bench.world.dm.load(.name("o"), [bench.line("cow-s", merge: true)], readOnly: false)
    try bench.world.dm.suspend(.name("o"), [])
    try bench.world.dm.suspend(.name("s"), [])
    // The first step, that of chunk 2, does not end yet.
    origin.halted = [.flush]
    try bench.world.resume("o")
    bench.world.passes()
    cow.delays = { $0.operation == .write && $0.offset == 2 * 4096 }
    let write = try bench.world.start(.write, "o", at: 0, pattern(9, 512))
    bench.world.passes()
    origin.halted = []
    for _ in 0..<60 {
      // Beside clients the merge rests after each step.
      bench.world.skip(seconds: 20)
      bench.world.passes(20)
    }
    #expect(!write.isDone && Array(origin.bytes[..<4096]) == Array(bench.old[..<4096]))
    cow.delays = { _ in false }
    bench.world.finish([write])
    bench.world.loop.run(within: 10 * World.second) {
      (try? bench.world.status("o")) == "16/200 16"
    }
    #expect(Array(origin.bytes[..<4096]) == pattern(9, 512) + pattern(0, 4096)[512...])
  }

  @Test("a run of neighbouring chunks is merged in one copy, beside writes to its chunks")
  func mergesRuns() throws {
    let bench = try Bench()
    try bench.snapshot("s")
    #expect(try bench.world.write("s", at: 0, pattern(8, sectors * 512)) == 0)
    var expected = pattern(8, sectors * 512)
    try bench.world.dm.load(.name("o"), [bench.line("cow-s", merge: true)], readOnly: false)
    try bench.world.dm.suspend(.name("o"), [])
    try bench.world.dm.suspend(.name("s"), [])
    let before = bench.origin.count(.write)
    try bench.world.resume("o")
    var writes: [World.Outcome] = []
    for index in 0..<20 {
      let bytes = pattern(100 + index, 512)
      writes.append(try bench.world.start(.write, "o", at: index * 1536, bytes))
      expected.replaceSubrange(index * 1536..<index * 1536 + 512, with: bytes)
      bench.world.passes(3)
    }
    bench.world.finish(writes)
    bench.world.loop.run(within: 10 * World.second) {
      (try? bench.world.status("o")) == "16/200 16"
    }
    #expect(bench.origin.bytes == expected)
    // One copy, and what came for its chunks after it had begun.
    #expect(bench.origin.count(.write) - before <= 21)
  }

  // MARK: - Stores of others

  @Test("a store that names chunks beyond its device gives errors for those, and no others")
  func chunksBeyond() throws {
    let bench = try Bench()
    var image = zeros(200 * 512)
    image.withUnsafeMutableBytes { bytes in
      ExceptionStoreHeader(chunkSectors: 8).encode(into: bytes)
      for (index, record) in [
        ExceptionRecord(oldChunk: 0, newChunk: 2), ExceptionRecord(oldChunk: 1, newChunk: 25),
        ExceptionRecord(oldChunk: 2, newChunk: .max), ExceptionRecord(oldChunk: .max, newChunk: 3),
        ExceptionRecord(oldChunk: 3, newChunk: 1 << 60),
      ].enumerated() {
        record.encode(into: bytes, at: 4096 + 16 * index)
      }
    }
    try bench.world.add("cow-s", MemoryDisk(bench.world.loop, bytes: image, seed: 3))
    try bench.world.create("s", [bench.line("cow-s")])
    #expect(try bench.world.read("s", at: 0, count: 4096) == zeros(4096))
    for chunk in 1..<4 {
      #expect(try bench.world.perform(.read, "s", at: chunk * 4096, count: 512) == EIO)
      #expect(try bench.world.write("s", at: chunk * 4096, pattern(1, 512)) == EIO)
    }
    #expect(try bench.world.read("s", at: 4 * 4096, count: 4096) == Array(bench.old[16384..<20480]))
    // Behind chunks that are not there is no space.
    #expect(try bench.world.write("s", at: 4 * 4096, pattern(1, 512)) == EIO)
  }

  @Test("damaged stores are refused or served, within bounds", arguments: snapshotSeeds(200))
  func damaged(_ seed: UInt64) throws {
    let bench = try Bench()
    let cow = try bench.snapshot("s", "P 1", cowSectors: 120)
    for index in 0..<40 {
      #expect(try bench.world.write("o", at: index * 512, pattern(index, 512)) == 0)
    }
    try bench.world.dm.remove(.name("s"), deferred: false, retry: false)
    var random = SplitMix64(seed: seed)
    var image = cow.bytes
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      // The header, and both areas of records.
      let start = [0, 512, 34 * 512].randomElement(using: &random) ?? 0
      let at = start + 4 * Int.random(in: 0..<(start == 0 ? 4 : 128), using: &random)
      let word =
        [
          0, 1, 2, .max, UInt32.random(in: 0...200, using: &random),
          UInt32(truncatingIfNeeded: random.next()),
        ]
        .randomElement(using: &random) ?? 0
      withUnsafeBytes(of: word.littleEndian) { image.replaceSubrange(at..<at + 4, with: $0) }
    }
    let damaged = MemoryDisk(bench.world.loop, bytes: image, seed: seed)
    try bench.world.add("cow-s", damaged)
    if let refusal = bench.refusal(bench.line("cow-s", "P 0")) {
      #expect(!refusal.explanation.isEmpty && damaged.bytes == image)
      return
    }
    try bench.world.dm.rename(.name("refused"), to: "s")
    for index in 0..<8 {
      _ = try bench.world.perform(.read, "s", at: index * 4096, count: 4096)
      _ = try bench.world.write("s", at: index * 4096, pattern(index, 4096))
      #expect(try bench.world.write("o", at: index * 4096, pattern(index, 512)) == 0)
    }
    try bench.world.dm.load(.name("o"), [bench.line("cow-s", "P 0", merge: true)], readOnly: false)
    try bench.world.dm.suspend(.name("o"), [])
    try bench.world.dm.suspend(.name("s"), [])
    try bench.world.resume("o")
    bench.world.loop.run(within: 2 * World.second) {
      switch SnapshotStatus((try? bench.world.status("o")) ?? "") {
      case .working(let usage, let metadata)?: usage.used == metadata
      default: true
      }
    }
  }

  @Test("a store of chunks of 1 GiB takes memory for what it holds only")
  func hugeChunks() throws {
    let world = try World(onFiles: true)
    let (origin, cow) = (world.path("origin"), world.path("cow"))
    _ = try world.folder.zeros("origin", size: 4 << 30)
    _ = try world.folder.zeros("cow", size: 8 << 30)
    // Everything behind the header is a hole: an empty store.
    var header = zeros(4096)
    header.withUnsafeMutableBytes { ExceptionStoreHeader(chunkSectors: 1 << 21).encode(into: $0) }
    let file = open(cow, O_WRONLY)
    #expect(pwrite(file, header, header.count, 0) == header.count)
    close(file)
    let before = residentBytes()
    try world.create("s", [world.line(8192, "snapshot", "\(origin) \(cow) P 0")])
    #expect(try world.status("s") == "4194304/16777216 4194304")
    #expect(residentBytes() < before + (64 << 20))
  }

  /// Bytes of memory of this process.
  private func residentBytes() -> Int {
    let text = WholeFile.systemText("/proc/self/statm") ?? ""
    return (text.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * 4096
  }
}
