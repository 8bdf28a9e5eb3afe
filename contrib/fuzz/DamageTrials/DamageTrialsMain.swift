import Glibc
import Simulation

/// Damages sound images at random and runs the reading tools over them.
///
///     damage-trials [--count N] [--seed N] IMAGE...
///
/// Image `i` of a run is made from seed + i alone, so `--count 1 --seed S` repeats one. A trap
/// ends the program with a signal after it has printed the seed; so does a trial of more than a
/// minute.
@main
enum DamageTrialsMain {
  static func main() throws {
    var count: UInt64 = 10_000
    var seed: UInt64?
    var images: [String] = []
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      switch argument {
      case "--count": count = arguments.popFirst().flatMap { UInt64($0) } ?? count
      case "--seed": seed = arguments.popFirst().flatMap { UInt64($0) }
      default: images.append(argument)
      }
    }
    guard !images.isEmpty else {
      print("usage: damage-trials [--count N] [--seed N] IMAGE...")
      exit(2)
    }
    let first = seed ?? UInt64.random(in: 0..<1_000_000_000)
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
        if outcome == .missed || outcome == .reportedElsewhere {
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

// Read by the signal handler, written by the one thread there is.
nonisolated(unsafe) private var currentSeed: UInt64 = 0
nonisolated(unsafe) private var currentImage = 0
