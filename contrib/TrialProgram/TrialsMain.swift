import CDMThin
import Glibc
import Simulation

/// Tries what the engine, the tools and the server make of damage, power cuts, failing disks and hostile
/// clients. `--help` has the kinds of trials; contrib/trials builds and runs it.
///
/// A trial follows from its seed alone, so `--count 1 --seed S` repeats one. The seed is printed. A trap ends
/// the program with its signal, after the seed of the trial has been printed.
@main
enum TrialsMain {
  static var kinds: [any Trials.Type] {
    [
      DamageTrials.self, RepairTrials.self, ModelTrials.self, CrashTrials.self,
      PoolCrashTrials.self, NbdTrials.self, TraceGeneration.self, TraceReplay.self,
    ]
  }

  static func main() {
    dmthin_begin_program()
    var words = CommandLine.arguments.dropFirst()
    let name = words.popFirst() ?? ""
    if name == "--help" || name == "-h" {
      printHelp()
      return
    }
    guard let kind = kinds.first(where: { $0.name == name }) else {
      print("trials: there is no kind '\(name)' (see --help)")
      exit(2)
    }
    if words.contains("--help") || words.contains("-h") {
      print("usage: trials \(kind.name) \(kind.usage)\n\n\(kind.summary)")
      return
    }
    do {
      exit(try kind.run(Array(words)) ? 0 : 1)
    } catch {
      print("trials: \(error)")
      exit(2)
    }
  }

  private static func printHelp() {
    print("usage: trials KIND [--count N] [--seed N] ...\n")
    for kind in kinds {
      print("trials \(kind.name) \(kind.usage)")
      for line in kind.summary.split(separator: "\n") { print("    \(line)") }
    }
    print("\nA trial follows from its seed alone: --count 1 --seed S repeats one.")
  }
}

/// A kind of trials.
protocol Trials {
  /// The first word of the command line.
  static var name: String { get }
  /// What may follow it.
  static var usage: String { get }
  /// What it does, in lines.
  static var summary: String { get }
  /// Runs them; false where one has failed.
  /// - Parameter words: the command line after the name.
  static func run(_ words: [String]) throws -> Bool
}

extension Trials {
  /// The usual arguments; ends the program where `words` are others.
  static func arguments(
    _ words: [String], count: UInt64, options: [String] = [], takesOperands: Bool = false
  ) -> TrialArguments {
    guard
      let arguments = TrialArguments(
        words, count: count, options: options, takesOperands: takesOperands)
    else { refuse() }
    return arguments
  }

  /// Ends the program because of its arguments.
  static func refuse() -> Never {
    print("usage: trials \(name) \(usage)")
    exit(2)
  }
}

/// Seconds by a clock that only goes forward.
func now() -> Double { Double(dmthin_monotonic_nanoseconds()) / 1e9 }

/// Has a signal tell during which trial it came.
enum Watch {
  // Read by the signal handler, written by the one thread there is.
  nonisolated(unsafe) private(set) static var seed: UInt64 = 0
  nonisolated(unsafe) private static var image = 0

  /// To be called once, before the first trial.
  static func begin() {
    for number in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGALRM, SIGFPE] {
      signal(number) { number in
        print("signal \(number) at seed \(Watch.seed), image \(Watch.image)")
        fflush(nil)
        signal(number, SIG_DFL)
        raise(number)
      }
    }
  }

  /// A trial begins, which is to take no more than `seconds`; 0 is without a limit.
  static func trial(_ seed: UInt64, image: Int = 0, seconds: UInt32) {
    (self.seed, self.image) = (seed, image)
    alarm(seconds)
  }
}
