import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Targets

/// Snapshots in exception stores, beside a linear device over the same file: `bench-targets FOLDER
/// --snapshots`.
enum SnapshotBench {
  /// What is on the origin's disk, and what the client works on.
  private enum Device: String, CaseIterable {
    case origin = "origin without snapshots"
    case kept = "origin, all chunks kept"
    case snapshotRead = "snapshot, no exceptions"
    case snapshot = "snapshot, all exceptions"
  }

  private static let rows = [
    Row(name: "4 KiB random read, depth 32", writes: false, bytes: 4096, depth: 32),
    Row(name: "4 KiB random write, depth 32", writes: true, bytes: 4096, depth: 32),
    Row(
      name: "1 MiB sequential read, depth 4", writes: false, bytes: 1 << 20, depth: 4,
      isSequential: true),
  ]

  static func run(_ folder: String, _ bytes: Int, _ seconds: Double) throws {
    print("| work | linear | device | per second | : linear |\n|---|---|---|---|---|")
    for row in rows {
      for device in Device.allCases where !(row.writes && device == .snapshotRead) {
        // In turn, because the machine changes.
        var (linear, other): ([Double], [Double]) = ([], [])
        for _ in 0..<5 {
          other.append(try measure(row, device, folder, bytes, seconds))
          // Over the file that the device's chunks are in, because files in memory differ.
          let file = device == .snapshot ? "cow" : "raw"
          linear.append(try measure(row, nil, folder, bytes, seconds, file))
        }
        let (a, b) = (linear.sorted()[2], other.sorted()[2])
        print("| \(row.name) | \(Int(a)) | \(device.rawValue) | \(Int(b)) | \(fixed(b / a, 2)) |")
        fflush(nil)
      }
    }
    try newExceptions(folder, bytes)
    try merging(folder, bytes, seconds)
  }

  private static func world(_ folder: String, _ bytes: Int) throws -> (Bench, UserspaceBackend) {
    let bench = try Bench(folder, bytes: bytes)
    return (bench, UserspaceBackend(bench.mapper, loop: bench.loop))
  }

  private static func create(
    _ backend: UserspaceBackend, _ name: String, _ bytes: Int, _ type: String, _ words: String
  ) throws {
    try backend.create(
      DeviceCreation(
        name: name,
        table: [
          TableLine(start: 0, length: UInt64(bytes / 512), type: type, parameters: words)
        ]))
  }

  /// An origin `o` and a snapshot `s` in chunks of `sectors`.
  private static func makeSnapshot(
    _ bench: Bench, _ backend: UserspaceBackend, _ bytes: Int, _ sectors: Int
  ) throws {
    let origin = try bench.writtenFile("raw", bytes: bytes)
    let cow = try bench.freshFile("cow", bytes: bytes + bytes / 16 + (64 << 20))
    try create(backend, "o", bytes, "snapshot-origin", origin)
    try create(backend, "s", bytes, "snapshot", "\(origin) \(cow) P \(sectors)")
  }

  /// The same with chunks of 16 KiB, in which every chunk has been written.
  private static func makeFullSnapshot(
    _ bench: Bench, _ backend: UserspaceBackend, _ bytes: Int
  ) throws {
    try makeSnapshot(bench, backend, bytes, 32)
    let snapshot = try bench.mapper.open("s", readOnly: false)
    defer { snapshot.close() }
    try bench.fill(snapshot.destination)
  }

  private static func measure(
    _ row: Row, _ device: Device?, _ folder: String, _ bytes: Int, _ seconds: Double,
    _ file: String = "raw"
  ) throws -> Double {
    let (bench, backend) = try world(folder, bytes)
    defer { bench.mapper.removeAll() }
    var name = "o"
    switch device {
    case nil:
      _ = try bench.writtenFile("raw", bytes: bytes)
      try create(backend, "o", bytes, "linear", "\(bench.path(file)) 0")
    case .origin?:
      try create(backend, "o", bytes, "snapshot-origin", try bench.writtenFile("raw", bytes: bytes))
    case .kept?, .snapshot?, .snapshotRead?:
      try makeSnapshot(bench, backend, bytes, 32)
      name = device == .kept ? "o" : "s"
    }
    let opened = try bench.mapper.open(name, readOnly: false)
    defer { opened.close() }
    if device == .kept || device == .snapshot { try bench.fill(opened.destination) }
    return try bench.run(row, on: opened.destination, seconds: seconds).perSecond
  }

  /// Writes to chunks without an exception, each of which makes one.
  private static func newExceptions(_ folder: String, _ bytes: Int) throws {
    print("\n| new exceptions | chunk | per second | CPU, seconds for 100,000 |\n|---|---|---|---|")
    for (what, name) in [("write to the origin", "o"), ("write to the snapshot", "s")] {
      for chunk in [8, 32, 128] {
        let (bench, backend) = try world(folder, bytes)
        defer { bench.mapper.removeAll() }
        try makeSnapshot(bench, backend, bytes, chunk)
        let opened = try bench.mapper.open(name, readOnly: false)
        defer { opened.close() }
        // One write for each chunk, in an order that is not that of the disk.
        let result = try bench.runOnce(opened.destination, stride: chunk * 512, depth: 32)
        print(
          "| \(what) | \(chunk / 2) KiB | \(Int(result.perSecond)) | "
            + "\(fixed(result.cpuSeconds / Double(result.count) * 100_000, 2)) |")
        fflush(nil)
      }
    }
  }

  /// A merge by itself beside a copy of as many bytes, and clients beside a merge.
  private static func merging(_ folder: String, _ bytes: Int, _ seconds: Double) throws {
    try besideClients(folder, bytes, seconds)
    let (bench, backend) = try world(folder, bytes)
    defer { bench.mapper.removeAll() }
    try makeFullSnapshot(bench, backend, bytes)
    var start = EventLoop.now()
    try beginMerge(bench, backend, bytes)
    while try isMerging(backend) { bench.loop.run(within: 5_000_000) { false } }
    let merge = Double(bytes) / (Double(EventLoop.now() - start) / 1e9) / 1e6
    start = EventLoop.now()
    let copy = BenchCopy(try bench.disk("cow"), try bench.disk("raw"), UInt64(bytes))
    let engine = CopyEngine(bench.loop, MemoryBudget(16 << 20))
    engine.begin(copy)
    bench.loop.run { copy.isOver }
    let plain = Double(bytes) / (Double(EventLoop.now() - start) / 1e9) / 1e6
    print(
      "\nmerge: \(Int(merge)) MB/s, copy engine: \(Int(plain)) MB/s, \(fixed(merge / plain, 2))")
  }
}

extension SnapshotBench {
  private static func beginMerge(_ bench: Bench, _ backend: UserspaceBackend, _ bytes: Int) throws {
    let line = TableLine(
      start: 0, length: UInt64(bytes / 512), type: "snapshot-merge",
      parameters: "\(bench.path("raw")) \(bench.path("cow")) P 32")
    try backend.load(.name("o"), [line], readOnly: false)
    try backend.suspend(.name("o"), [])
    try backend.suspend(.name("s"), [])
    try backend.resume(.name("o"), [], node: NodeOptions())
    try backend.remove(.name("s"), deferred: false, retry: false)
  }

  private static func isMerging(_ backend: UserspaceBackend) throws -> Bool {
    let text = try backend.status(.name("o"), [])?.lines.first?.parameters ?? ""
    guard case .working(let usage, let metadata)? = SnapshotStatus(text) else { return false }
    return usage.used != metadata
  }

  /// What clients of an origin get while a snapshot is merged into it, beside what they get otherwise.
  private static func besideClients(_ folder: String, _ bytes: Int, _ seconds: Double) throws {
    print("\n| beside a merge | without | with | ratio |\n|---|---|---|---|")
    for row in rows {
      var (without, with): ([Double], [Double]) = ([], [])
      for _ in 0..<3 {
        without.append(try measure(row, .origin, folder, bytes, seconds))
        let (bench, backend) = try world(folder, bytes)
        defer { bench.mapper.removeAll() }
        try makeFullSnapshot(bench, backend, bytes)
        try beginMerge(bench, backend, bytes)
        let opened = try bench.mapper.open("o", readOnly: false)
        with.append(try bench.run(row, on: opened.destination, seconds: seconds).perSecond)
        opened.close()
        if try !isMerging(backend) { print("the merge of \(row.name) ended before the clients") }
      }
      let (a, b) = (without.sorted()[1], with.sorted()[1])
      print("| \(row.name) | \(Int(a)) | \(Int(b)) | \(fixed(b / a, 2)) |")
      fflush(nil)
    }
  }
}

private final class BenchCopy: CopyJob {
  var isOver = false
  init(_ from: BlockDestination, _ to: BlockDestination, _ byteCount: UInt64) {
    super.init(
      .bytes(CopyPlace(from, at: 0), count: byteCount), byteCount: byteCount,
      to: [CopyPlace(to, at: 0)])
  }
  override func ended() { isOver = true }
}
