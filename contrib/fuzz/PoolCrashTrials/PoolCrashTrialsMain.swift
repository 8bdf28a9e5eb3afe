import Glibc
import TargetSimulation

/// Cuts the power at every write and flush of pools in user space under load.
///
///     pool-crash-trials [--count IMAGES] [--seed N]
///
/// A trial follows from its seed alone, so `--count 1 --seed S` repeats one. A trap ends the program
/// with a signal after it has printed the seed.
@main
enum PoolCrashTrialsMain {
  nonisolated(unsafe) static var currentSeed: UInt64 = 0

  static func main() throws {
    var count = 10_000
    var first = UInt64.random(in: 0..<1_000_000_000)
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      let value = arguments.popFirst().flatMap { UInt64($0) }
      switch (argument, value) {
      case ("--count", let value?): count = Int(clamping: value)
      case ("--seed", let value?): first = value
      default:
        print("usage: pool-crash-trials [--count IMAGES] [--seed N]")
        exit(2)
      }
    }
    print("seed \(first)")
    for signal in [SIGILL, SIGTRAP, SIGSEGV, SIGABRT, SIGBUS] {
      Glibc.signal(signal) { number in
        print("signal \(number) in the trial of seed \(PoolCrashTrialsMain.currentSeed)")
        _exit(1)
      }
    }
    let ground = try TrialGround()
    var images = 0
    var trials = 0
    var failures = 0
    while images < count && failures < 100 {
      currentSeed = first &+ UInt64(trials)
      trials += 1
      do {
        images += try PoolCrashTrial(ground, seed: currentSeed).run()
      } catch {
        failures += 1
        print("\(error)")
      }
    }
    print("\(images) images of power cuts in \(trials) trials, \(failures) failures")
    exit(failures == 0 ? 0 : 1)
  }
}
