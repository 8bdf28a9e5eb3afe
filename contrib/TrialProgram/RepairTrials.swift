import BlockIO
import Glibc
import Simulation
import ThinTools

/// Loses one block, or up to ten, of pools that are made up, repairs them, and compares the result with what
/// they mapped.
enum RepairTrials: Trials {
  static let name = "repair"
  static let usage = "[--count N] [--seed N] [--compared N] [--each 1] [FOLDER...]"
  static let summary = """
    Repairs N pools (2000) that have lost one block, or up to ten. A wrong mapping that the report
    does not call doubtful is a failure, for any kind of damage; so is a check that calls the
    superblock an old one before anything is lost. Of a pool that has lost one block, a repair has
    to save every mapping whose leaf is left; if that block was in a tree of devices or the
    superblock, the report may call what is missing doubtful. FOLDERs hold other thin_repair
    programs, which get the first --compared pools as well (all): none of them may save more
    right mappings. --each 1 prints a line for each pool that is not saved as a whole, and
    what the repair says of it.
    """

  private struct Row {
    var pools = 0
    var score = RepairTrial.Score()
    var incomplete = 0
    var wrong = 0
    var givenUp = 0
    var peers: [RepairTrial.Score] = []
    var behind = 0

    /// Adds a pool; returns what must not be.
    mutating func add(_ score: RepairTrial.Score, of kind: RepairTrial.Kind, isGivenUp: Bool)
      -> [String]
    {
      pools += 1
      self.score += score
      var faults: [String] = []
      if isGivenUp { givenUp += 1 }
      if score.saved < score.intact {
        incomplete += 1
        // Where two devices can each have had a tree, or two generations been the last, one is a guess.
        let mayGuess = kind == .deviceTree || kind == .superblock
        if kind != .several, !mayGuess || score.doubtful == 0 {
          faults.append("\(score.intact - score.saved) of \(score.intact) lost")
        }
      }
      if score.wrong > score.doubtfulWrong {
        wrong += 1
        faults.append("\(score.wrong - score.doubtfulWrong) wrong")
      }
      return faults
    }

    /// Adds what other programs made of the same pool; returns where they are ahead.
    mutating func compare(
      _ score: RepairTrial.Score, with others: [RepairTrial.Score], _ folders: [String]
    ) -> [String] {
      var faults: [String] = []
      if peers.isEmpty { peers = others.map { _ in RepairTrial.Score() } }
      for (i, other) in others.enumerated() {
        peers[i] += other
        if other.right > score.right {
          faults.append("\(folders[i]) has \(other.right) right, here are \(score.right)")
        }
      }
      if !faults.isEmpty { behind += 1 }
      return faults
    }
  }

  static func run(_ words: [String]) throws -> Bool {
    let arguments = Self.arguments(
      words, count: 2000, options: ["compared", "each"], takesOperands: true)
    let (count, first, folders) = (arguments.count, arguments.seed, arguments.operands)
    let compared = arguments.numbers["compared"] ?? count
    let isEach = arguments.numbers["each"] ?? 0 > 0
    print("seed \(first), \(count) pools")
    Watch.begin()
    var rows: [RepairTrial.Kind: Row] = [:]
    var failures = 0
    var slowest = 0.0
    for n in 0..<count {
      Watch.trial(first + n, seconds: 120)
      let trial = try RepairTrial(seed: first + n)
      var row = rows[trial.kind] ?? Row()
      let start = now()
      let result = trial.run()
      slowest = max(slowest, now() - start)
      let score = result?.score ?? trial.score(MemoryDevice(byteCount: 4096))
      var faults = row.add(score, of: trial.kind, isGivenUp: result == nil)
      if n < compared {
        faults += row.compare(
          score, with: try folders.map { try peerScore(trial, of: $0) }, folders)
      }
      rows[trial.kind] = row
      if trial.isCalledOld { faults.append("its superblock was called an old one before") }
      if !faults.isEmpty { failures += 1 }
      if !faults.isEmpty && failures <= 40 || isEach && (!faults.isEmpty || !score.isWhole) {
        print(
          "seed \(first + n): \(trial.damage): \(score.saved) of \(score.intact) saved, "
            + (["\(score.doubtfulWrong) of \(score.doubtful) doubtful ones wrong"] + faults)
            .joined(separator: "; "))
        if isEach { for note in result?.report.notes ?? [] { print("  \(note)") } }
      }
    }
    alarm(0)
    printTable(rows, folders)
    print("slowest repair: \(Int(slowest * 1000)) ms")
    print("\(failures) failures")
    return failures == 0
  }

  private static func printTable(_ rows: [RepairTrial.Kind: Row], _ folders: [String]) {
    print("lost\tpools\tintact\tsaved\tincomplete\tright\twrong\tdoubtful\tof them wrong\tgiven up")
    for kind in RepairTrial.Kind.allCases {
      guard let row = rows[kind] else { continue }
      let s = row.score
      print(
        "\(kind.rawValue)\t\(row.pools)\t\(s.intact)\t\(s.saved)\t\(row.incomplete)\t\(s.right)\t"
          + "\(s.wrong - s.doubtfulWrong)\t\(s.doubtful)\t\(s.doubtfulWrong)\t\(row.givenUp)")
      for (i, peer) in row.peers.enumerated() {
        print("\t\(folders[i]): right \(peer.right), wrong \(peer.wrong)")
      }
      if row.behind > 0 { print("\tpools of which another program saved more: \(row.behind)") }
    }
  }

  /// What the thin_repair of a folder makes of a pool.
  private static func peerScore(_ trial: RepairTrial, of folder: String) throws -> RepairTrial.Score
  {
    let scratch = try TemporaryFolder("repair-trials")
    let (input, output) = ("\(scratch.path)/input", "\(scratch.path)/output")
    try write(trial.bytes, to: input)
    try write([], to: output)
    truncate(output, off_t(trial.device.byteCount))
    let line =
      "timeout 100 '\(folder)/thin_repair' --data-block-size \(RepairTrial.dataBlockSectors) "
      + "-i '\(input)' -o '\(output)' >/dev/null 2>&1"
    alarm(240)
    guard system(line) == 0 else { return trial.score(MemoryDevice(byteCount: 4096)) }
    return trial.score(try MemoryDevice(contentsOf: output))
  }

  private static func write(_ bytes: [UInt8], to path: String) throws {
    let output = try TextOutput(path: path)
    try bytes.withUnsafeBytes { try output.sink.write($0) }
    try output.commit()
  }
}
