// bench-targets FOLDER [--seconds N] [--size MIB] [--rows WORD,...] [--spin MICROSECONDS]
// bench-targets FOLDER --snapshots [--seconds N] [--size MIB]
//
// Drives thin volumes in this process, without sockets, and the plain disk below them for
// comparison, to measure the cost of targets and loop. Prints a Markdown table. FOLDER is on the
// disk to measure, or in memory for the software's own limit.
import BlockIO
import CDMThin
import DataPath
import EventLoop
import Glibc
import Targets

/// A row of the table.
struct Row {
  enum Volume: String { case filled, empty, shared }
  var name: String
  var writes: Bool
  var bytes: Int
  var depth: Int
  var volume = Volume.filled
  var isSequential = false
  var flushes = false

  static let all = [
    Row(name: "4 KiB random read, depth 1", writes: false, bytes: 4096, depth: 1),
    Row(name: "4 KiB random read, depth 32", writes: false, bytes: 4096, depth: 32),
    Row(name: "4 KiB random write, depth 1", writes: true, bytes: 4096, depth: 1),
    Row(name: "4 KiB random write, depth 32", writes: true, bytes: 4096, depth: 32),
    Row(
      name: "64 KiB sequential write, depth 16", writes: true, bytes: 65536, depth: 16,
      isSequential: true),
    Row(
      name: "1 MiB sequential write, depth 4", writes: true, bytes: 1 << 20, depth: 4,
      isSequential: true),
    Row(name: "4 KiB write + flush, depth 1", writes: true, bytes: 4096, depth: 1, flushes: true),
    Row(
      name: "4 KiB random write, unprovisioned, depth 32", writes: true, bytes: 4096, depth: 32,
      volume: .empty),
    Row(
      name: "4 KiB random write, unprovisioned, depth 1", writes: true, bytes: 4096, depth: 1,
      volume: .empty),
    Row(
      name: "4 KiB write + flush, unprovisioned, depth 1", writes: true, bytes: 4096, depth: 1,
      volume: .empty, flushes: true),
    Row(
      name: "4 KiB random write after a snapshot, depth 32", writes: true, bytes: 4096, depth: 32,
      volume: .shared),
    Row(
      name: "4 KiB random write after a snapshot, depth 1", writes: true, bytes: 4096, depth: 1,
      volume: .shared),
  ]
}

@main
enum TargetsBench {
  struct Options {
    var folder = ""
    var seconds = 2.0
    var bytes = 1024 << 20
    var words: [Substring] = []
    var spin: UInt64?
    /// Exception stores instead of thin volumes.
    var isForSnapshots = false

    init?(_ arguments: [String]) {
      var rest = arguments[...]
      while let argument = rest.popFirst() {
        guard argument.hasPrefix("--") else {
          folder = argument
          continue
        }
        if argument == "--snapshots" {
          isForSnapshots = true
          continue
        }
        guard let value = rest.popFirst() else { return nil }
        switch argument {
        case "--seconds": seconds = Double(value) ?? seconds
        case "--size": bytes = min(max(16, Int(value) ?? 1024), 1 << 20) << 20
        case "--rows": words = value.split(separator: ",")
        case "--spin": spin = UInt64(value)
        default: return nil
        }
      }
      if folder.isEmpty { return nil }
    }

    func wants(_ row: Row) -> Bool {
      words.isEmpty || words.contains { row.name.contains($0) }
    }
  }

  static func main() {
    dmthin_begin_program()
    guard let options = Options(Array(CommandLine.arguments.dropFirst())) else {
      print(
        "usage: bench-targets FOLDER [--snapshots] [--seconds N] [--size MIB] [--rows WORD,...] [--spin US]"
      )
      exit(2)
    }
    do {
      if options.isForSnapshots {
        return try SnapshotBench.run(options.folder, options.bytes, options.seconds)
      }
      print("| work | disk | thin | thin : disk |\n|---|---|---|---|")
      for row in Row.all where options.wants(row) { try measure(row, options) }
    } catch {
      print("bench-targets: \(error)")
      exit(1)
    }
  }

  private static func measure(_ row: Row, _ options: Options) throws {
    let disk = row.volume == .filled ? try onDisk(row, options) : nil
    let thin = try onThin(row, options)
    let ratio = disk.map { fixed(thin.perSecond / $0.perSecond, 2) } ?? "–"
    print("| \(row.name) | \(disk?.text ?? "–") | \(thin.text) | \(ratio) |")
    fflush(nil)
  }

  private static func onDisk(_ row: Row, _ options: Options) throws -> Measurement {
    let bench = try Bench(options.folder, bytes: options.bytes)
    if let spin = options.spin { bench.loop.spinNanoseconds = spin * 1000 }
    let disk = try bench.openDisk("raw", bytes: options.bytes)
    return try bench.run(row, on: disk, seconds: options.seconds)
  }

  private static func onThin(_ row: Row, _ options: Options) throws -> Measurement {
    let bench = try Bench(options.folder, bytes: options.bytes)
    if let spin = options.spin { bench.loop.spinNanoseconds = spin * 1000 }
    defer { bench.mapper.removeAll() }
    let volume = try bench.makeVolume(row.volume)
    defer { volume.close() }
    return try bench.run(row, on: volume.destination, seconds: options.seconds)
  }
}

/// The result of a run.
struct Measurement {
  var count: Int
  var seconds: Double
  var cpuSeconds: Double

  var perSecond: Double { Double(count) / seconds }
  var text: String {
    "\(Int(perSecond)) (\(fixed(cpuSeconds / Double(max(1, count)) * 100_000, 2)))"
  }
}

func fixed(_ value: Double, _ digits: Int) -> String {
  var scale = 1.0
  for _ in 0..<digits { scale *= 10 }
  let scaled = Int((value * scale).rounded())
  let rest = "\(scaled % Int(scale))"
  return "\(scaled / Int(scale))." + String(repeating: "0", count: digits - rest.utf8.count) + rest
}
