import DataPath
import EventLoop
import Glibc
import Simulation
import Testing

private final class Copy: CopyJob {
  var isOver = false
  var filled: [Range<UInt64>] = []
  override func fill(_ memory: UnsafeMutableRawPointer, _ range: Range<UInt64>) {
    filled.append(range)
    memory.storeBytes(of: 0xAB, as: UInt8.self)
  }
  override func ended() {
    #expect(!isOver)
    isOver = true
  }
}

/// Disks in memory, and an engine.
private final class Bench {
  let loop: EventLoop
  let budget: MemoryBudget
  let engine: CopyEngine
  var disks: [MemoryDisk] = []

  init(budget: Int = 4 << 20) throws {
    loop = try EventLoop()
    self.budget = MemoryBudget(budget)
    engine = CopyEngine(loop, self.budget)
  }

  func disk(_ bytes: [UInt8], seed: UInt64 = 1) -> MemoryDisk {
    disks.append(MemoryDisk(loop, bytes: bytes, seed: seed))
    return disks[disks.count - 1]
  }

  func run(_ jobs: [Copy]) {
    for job in jobs { engine.begin(job) }
    loop.run(within: 60_000_000_000) { jobs.allSatisfy(\.isOver) }
    let areOver = jobs.allSatisfy(\.isOver)
    #expect(areOver, "a copy does not end")
  }

  deinit { for disk in disks { disk.close() } }
}

@Suite struct CopyEngineTests {
  @Test("every place gets the bytes of the source, and zeros behind its end", arguments: 0..<8)
  func copies(_ seed: UInt64) throws {
    let bench = try Bench()
    var random = SplitMix64(seed: seed)
    let size = 512 * Int.random(in: 1...6000, using: &random)
    let source = bench.disk(pattern(Int(seed), size + 4096), seed: seed)
    let places = (0..<3).map { bench.disk(pattern(50 + $0, size + 8192), seed: seed &+ UInt64($0)) }
    let before = places.map(\.bytes)
    let count = 512 * Int.random(in: 0...size / 512, using: &random)
    let copy = Copy(
      .bytes(CopyPlace(source, at: 4096), count: UInt64(count)), byteCount: UInt64(size),
      to: places.map { CopyPlace($0, at: 512) })
    bench.run([copy])
    #expect(copy.error == 0 && copy.writeErrors.isEmpty && copy.filled.isEmpty)
    let expected = Array(source.bytes[4096..<4096 + count]) + zeros(size - count)
    for (place, old) in zip(places, before) {
      #expect(place.bytes[..<512] == old[..<512])
      #expect(Array(place.bytes[512..<512 + size]) == expected)
      #expect(place.bytes[(512 + size)...] == old[(512 + size)...])
    }
    #expect(bench.engine.statistics.bytesWritten == UInt64(3 * size))
    #expect(bench.engine.statistics.bytesRead == UInt64(count))
  }

  @Test("a place that fails has an error of its own, and the others are complete")
  func placeFails() throws {
    let bench = try Bench()
    let bytes = pattern(1, 3 << 20)
    let source = bench.disk(bytes)
    let places = (0..<3).map { bench.disk(zeros(3 << 20), seed: UInt64($0)) }
    places[1].fails = { operation, number in operation == .write && number == 2 }
    let copy = Copy(
      .bytes(CopyPlace(source, at: 0), count: 3 << 20), byteCount: 3 << 20,
      to: places.map { CopyPlace($0, at: 0) })
    bench.run([copy])
    #expect(copy.writeErrors == [0, EIO, 0] && copy.error == EIO && copy.readError == 0)
    #expect(places[0].bytes == bytes && places[2].bytes == bytes)
    #expect(bench.engine.statistics.failedJobs == 1)
  }

  @Test("nothing is written of what could not be read, and nothing more is begun")
  func readFails() throws {
    let bench = try Bench()
    let source = bench.disk(pattern(1, 32 << 20))
    let place = bench.disk(zeros(32 << 20))
    source.fails = { operation, number in operation == .read && number == 0 }
    let copy = Copy(
      .bytes(CopyPlace(source, at: 0), count: 32 << 20), byteCount: 32 << 20,
      to: [CopyPlace(place, at: 0)])
    bench.run([copy])
    #expect(copy.readError == EIO && copy.error == EIO && copy.writeErrors.isEmpty)
    #expect(source.count(.read) < 20)
  }

  @Test("a flush reaches every place, and tells each one's error")
  func flushes() throws {
    let bench = try Bench()
    let places = (0..<3).map { _ in bench.disk(zeros(4096)) }
    places[2].fails = { operation, _ in operation == .flush }
    let copy = Copy(.flush, byteCount: 0, to: places.map { CopyPlace($0, at: 0) })
    bench.run([copy])
    #expect(places.map { $0.count(.flush) } == [1, 1, 1])
    #expect(copy.writeErrors == [0, 0, EIO])
  }

  @Test("zeros need no memory, and what fills in sees each byte once")
  func zerosAndFills() throws {
    let bench = try Bench(budget: 0)
    let place = bench.disk(pattern(1, 2 << 20))
    bench.run([Copy(.zeros, byteCount: 1 << 20, to: [CopyPlace(place, at: 0)])])
    #expect(Array(place.bytes[..<(1 << 20)]) == zeros(1 << 20) && bench.budget.used == 0)
    let copy = Copy(.zeros, byteCount: 1 << 20, to: [CopyPlace(place, at: 1 << 20)], fills: true)
    bench.run([copy])
    let filled = copy.filled.sorted { $0.lowerBound < $1.lowerBound }
    #expect(filled.first?.lowerBound == 0 && filled.last?.upperBound == 1 << 20)
    #expect(zip(filled, filled.dropFirst()).allSatisfy { $0.upperBound == $1.lowerBound })
    #expect(place.bytes[1 << 20] == 0xAB && place.bytes[(1 << 20) + 1] == 0)
  }

  @Test("many copies end within the memory that there is")
  func memory() throws {
    let bench = try Bench(budget: 1 << 20)
    let source = bench.disk(pattern(1, 4 << 20))
    let place = bench.disk(zeros(16 << 20))
    let jobs = (0..<60).map { index in
      let count = index % 2 == 0 ? 4096 : 256 << 10
      return Copy(
        .bytes(CopyPlace(source, at: 0), count: UInt64(count)), byteCount: UInt64(count),
        to: [CopyPlace(place, at: UInt64(index) * 256 << 10)])
    }
    bench.run(jobs)
    #expect(jobs.allSatisfy { $0.error == 0 })
    #expect(bench.budget.used <= 1 << 20)
    bench.engine.trim()
    #expect(bench.budget.used <= 4 * (64 << 10) + 4 * (512 << 10))
  }

  @Test("a pace limits bytes in a second, and lets clients' copies pass")
  func pace() throws {
    let bench = try Bench(budget: 512 << 10)
    let source = bench.disk(pattern(1, 8 << 20))
    let place = bench.disk(zeros(8 << 20))
    let pace = CopyPace()
    pace.bytesPerSecond = 40 << 20
    let slow = Copy(
      .bytes(CopyPlace(source, at: 0), count: 8 << 20), byteCount: 8 << 20,
      to: [CopyPlace(place, at: 0)], pace: pace)
    let start = bench.loop.time
    bench.engine.begin(slow)
    let urgent = Copy(
      .bytes(CopyPlace(source, at: 0), count: 1 << 20), byteCount: 1 << 20,
      to: [CopyPlace(place, at: 0)])
    bench.run([urgent])
    #expect(!slow.isOver)
    bench.loop.run(within: 60_000_000_000) { slow.isOver }
    // The last piece does not rest.
    #expect(bench.loop.time - start >= 180_000_000)
    #expect(pace.byteCount == 8 << 20)
    #expect(place.bytes == source.bytes)
  }

  @Test("beside clients a paced copy is under way for its share of the time only")
  func besideClients() throws {
    let bench = try Bench()
    let source = bench.disk(pattern(1, 1 << 20))
    let place = bench.disk(zeros(1 << 20))
    let pace = CopyPace()
    pace.clientsAreBusy = { true }
    pace.percentBesideClients = 20
    let copy = Copy(
      .bytes(CopyPlace(source, at: 0), count: 1 << 20), byteCount: 1 << 20,
      to: [CopyPlace(place, at: 0)], pace: pace)
    let start = bench.loop.time
    bench.run([copy])
    // All pieces but the last one rest four times as long as they took.
    #expect(bench.loop.time - start >= 2 * pace.busyNanoseconds)
    #expect(place.bytes == source.bytes)
  }
}
