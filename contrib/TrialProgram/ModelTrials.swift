import Glibc
import Simulation

/// Runs the engine against a model of dictionaries.
enum ModelTrials: Trials {
  static let name = "model"
  static let usage = "[--count N] [--seed N] [--snapshots N]"
  static let summary = """
    Does N random operations (1000000) on a pool and on dictionaries, in runs of 20,000, each
    with its own seed and kind: the usual, tiny cache, little metadata, little data, large
    trees. Then, with --snapshots, one device that is snapshotted so often and written to
    meanwhile, and everything is deleted again.
    """

  static func run(_ words: [String]) -> Bool {
    let arguments = Self.arguments(words, count: 1_000_000, options: ["snapshots"])
    let (count, first) = (Int(clamping: arguments.count), arguments.seed)
    let snapshots = Int(clamping: arguments.numbers["snapshots"] ?? 0)
    print("seed \(first), \(count) operations, \(snapshots) snapshots")
    let start = now()
    var tally: [String: Int] = [:]
    do {
      for n in 0..<((count + 19_999) / 20_000) {
        let run = try ModelRun(options(n, seed: first + UInt64(n)))
        try run.run(operations: min(20_000, count - n * 20_000))
        tally.merge(run.tally, uniquingKeysWith: +)
      }
      if count > 0 { print("\(count) operations in \(Int(now() - start)) s") }
      if snapshots > 0 {
        let start = now()
        var options = ModelRun.Options(seed: first)
        options.metadataBlocks = 16000 + 4 * snapshots
        options.dataBlocks = 100_000
        options.compareEvery = 500
        options.virtualBlocks = 300
        let run = try ModelRun(options)
        try run.snapshotOften(snapshots)
        tally.merge(run.tally, uniquingKeysWith: +)
        print("\(snapshots) snapshots made and deleted in \(Int(now() - start)) s")
      }
    } catch {
      print("\(error)")
      return false
    }
    for (name, n) in tally.sorted(by: { $0.value > $1.value }) { print("\(n)\t\(name)") }
    return true
  }

  private static func options(_ n: Int, seed: UInt64) -> ModelRun.Options {
    var options = ModelRun.Options(seed: seed)
    switch n % 6 {
    case 1: options.cacheBlocksMax = 12
    case 2:
      options.metadataBlocks = 48
      options.cacheBlocksMax = 24
    case 3: options.dataBlocks = 150
    case 4:
      options.metadataBlocks = 3000
      options.dataBlocks = 60000
      options.virtualBlocks = 100_000
      options.devicesMax = 400
      options.compareEvery = 40
    case 5:
      // More bitmaps of data blocks than cached index entries.
      options.metadataBlocks = 17_000
      options.dataBlocks = 1_300_000
      options.compareEvery = 40
    default: break
    }
    return options
  }
}
