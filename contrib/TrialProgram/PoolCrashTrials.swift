import Glibc
import Simulation
import TargetSimulation

/// Cuts the power at every write and flush of pools in user space under load, and has every read, write,
/// flush and discard of their disks fail.
enum PoolCrashTrials: Trials {
  static let name = "pool-crash"
  static let usage = "[--count N] [--seed N] [--kind K]"
  static let summary = """
    Makes N images (10000) of power cuts of pools in user space under load, and a tenth as many
    faults of their disks. Pools of each kind take turns, by the seed; --kind chooses the K-th,
    from 1.
    """

  static func run(_ words: [String]) throws -> Bool {
    let arguments = Self.arguments(words, count: 10_000, options: ["kind"])
    let all = PoolCrashTrial.Kind.allCases
    let chosen = arguments.numbers["kind"].map { Int(clamping: $0) }
    guard chosen.map({ (1...all.count).contains($0) }) ?? true else {
      print("there are kinds 1 to \(all.count): \(all.map(\.rawValue).joined(separator: ", "))")
      exit(2)
    }
    let (count, first) = (Int(clamping: arguments.count), arguments.seed)
    print("seed \(first)")
    fflush(nil)
    Watch.begin()
    return try run(count, first, chosen.map { [all[$0 - 1]] } ?? all) == 0
  }

  /// Returns the number of failed trials.
  private static func run(_ count: Int, _ first: UInt64, _ kinds: [PoolCrashTrial.Kind]) throws
    -> Int
  {
    let ground = try TrialGround()
    var (images, trials, failures) = (0, 0, 0)
    var ofKind: [String: Int] = [:]
    var faults: [String: [Int]] = [:]
    func attempt(_ body: () throws -> Void) {
      do { try body() } catch {
        failures += 1
        print("\(error)")
        fflush(nil)
      }
    }
    while images < count && failures < 100 {
      let seed = first &+ UInt64(trials)
      Watch.trial(seed, seconds: 0)
      trials += 1
      let kind = kinds[Int(seed % UInt64(kinds.count))]
      attempt {
        let count = try PoolCrashTrial(ground, kind, seed: seed).run()
        images += count
        ofKind[kind.rawValue, default: 0] += count
      }
      guard faults.values.reduce(0, { $0 + $1[0] }) < count / 10 else { continue }
      for kind in PoolFaultTrial.Kind.all {
        attempt {
          let counts = try PoolFaultTrial(ground, kind, seed: seed).run()
          faults["\(kind)"] = zip(faults["\(kind)"] ?? [0, 0, 0, 0], counts).map(+)
        }
      }
    }
    let parts = ofKind.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }
    print("\(images) images of power cuts in \(trials) trials: \(parts.joined(separator: ", "))")
    for (kind, counts) in faults.sorted(by: { $0.key < $1.key }) {
      print(
        "\(counts[0]) faults of \(kind): \(counts[1]) times the pool went on, "
          + "\(counts[2]) times it became read-only, \(counts[3]) times it failed")
    }
    print("\(failures) failures")
    return failures
  }
}
