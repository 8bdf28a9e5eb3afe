import CDMThin
import Glibc
import Simulation

/// Damages sound images at random and runs the reading tools on them.
///
///     damage-trials [--count N] [--seed N] IMAGE...
///
/// Image `i` of a run is made from seed + i alone, so `--count 1 --seed S` repeats one. A trap
/// ends the program with a signal after it has printed the seed; so does a trial of more than a
/// minute.
@main
enum DamageTrialsMain {
  static func main() throws {
    dmthin_begin_program()
    let arguments = TrialArguments.ofProcess(
      usage: "damage-trials [--count N] [--seed N] IMAGE...", count: 10_000, takesOperands: true)
    let (count, first, images) = (arguments.count, arguments.seed, arguments.operands)
    print("seed \(first), \(count) images of \(images.count) pools")
    installHandler()

    var outcomes: [String: Int] = [:]
    var byRole: [String: Int] = [:]
    var failures = 0
    var slowest = 0.0
    var imageBytes: UInt64 = 0
    for (i, path) in images.enumerated() {
      let trial = try DamageTrial(image: path)
      imageBytes = max(imageBytes, trial.imageByteCount)
      for n in stride(from: first + UInt64(i), to: first + count, by: images.count) {
        currentSeed = n
        currentImage = i
        alarm(60)
        let start = now()
        let (damage, outcome) = trial.run(seed: n)
        slowest = max(slowest, now() - start)
        let name = "\(outcome)"
        outcomes[name, default: 0] += 1
        byRole["\(damage.action) / \(damage.role)", default: 0] += 1
        if [.missed, .reportedElsewhere, .badlyMended].contains(outcome) {
          failures += 1
          if failures <= 40 { print("seed \(n) \(path): \(damage): \(outcome)") }
        }
      }
    }
    alarm(0)
    var usage = rusage()
    getrusage(0, &usage)  // of this process
    for (name, n) in outcomes.sorted(by: { $0.value > $1.value }) { print("\(n)\t\(name)") }
    print("kinds of damage: \(byRole.count)")
    print(
      "slowest trial: \(Int(slowest * 1000)) ms; peak memory: \(usage.ru_maxrss / 1024) MiB, "
        + "of which images: \(imageBytes >> 20) MiB")
    print("\(failures) failures")
    exit(failures == 0 ? 0 : 1)
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  private static func installHandler() {
    for number in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGALRM, SIGFPE] {
      signal(number) { number in
        print("signal \(number) at seed \(currentSeed), image \(currentImage)")
        fflush(nil)
        signal(number, SIG_DFL)
        raise(number)
      }
    }
  }
}

// Read by the signal handler, written by the only thread.
nonisolated(unsafe) private var currentSeed: UInt64 = 0
nonisolated(unsafe) private var currentImage = 0
