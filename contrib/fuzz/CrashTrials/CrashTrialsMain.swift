import CDMThin
import Glibc
import Simulation

/// Cuts the power at every point of random transactions, repairs and restores, and makes every
/// read, write and flush fail.
///
///     crash-trials [--count N] [--seed N]
///
/// `count` images of power cuts and a twentieth as many faults, over all kinds of operations.
@main
enum CrashTrialsMain {
  static func main() {
    dmthin_begin_program()
    let arguments = TrialArguments.ofProcess(
      usage: "crash-trials [--count N] [--seed N]", count: 100_000)
    let (count, first) = (Int(clamping: arguments.count), arguments.seed)
    print("seed \(first)")
    var images: [String: Int] = [:]
    var faults: [String: Int] = [:]
    var failures = 0
    func total(_ tally: [String: Int]) -> Int { tally.values.reduce(0, +) }
    func attempt(_ body: () throws -> Void) {
      do { try body() } catch {
        failures += 1
        if failures <= 40 { print("\(error)") }
      }
    }
    var n = first
    while total(images) < count && failures < 1000 {
      for kind in CrashTrial.Kind.allCases {
        attempt { images["\(kind)", default: 0] += try CrashTrial(kind, seed: n).run() }
      }
      if total(faults) < count / 20 {
        for operation in PoolOperation.allCases {
          attempt {
            faults["\(operation)", default: 0] += try FaultTrial(operation, seed: n).run()
          }
        }
      }
      n += 1
    }
    for (name, number) in images.sorted(by: { $0.key < $1.key }) {
      print("\(number) images, \(faults[name] ?? 0) faults: \(name)")
    }
    print("\(total(images)) images, \(total(faults)) faults, \(failures) failures")
    exit(failures == 0 ? 0 : 1)
  }
}
