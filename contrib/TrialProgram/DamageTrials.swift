import Glibc
import Simulation

/// Damages sound images at random and runs the reading tools over them.
enum DamageTrials: Trials {
  static let name = "damage"
  static let usage = "[--count N] [--seed N] IMAGE..."
  static let summary = """
    Damages sound images in one place each and has every tool read them: none may trap, take
    more than a minute, or overlook the damage. N images (10000), image i made from seed + i.
    """

  static func run(_ words: [String]) throws -> Bool {
    let arguments = Self.arguments(words, count: 10_000, takesOperands: true)
    guard !arguments.operands.isEmpty else { refuse() }
    let (count, first, images) = (arguments.count, arguments.seed, arguments.operands)
    print("seed \(first), \(count) images of \(images.count) pools")
    Watch.begin()

    var outcomes: [String: Int] = [:]
    var byRole: [String: Int] = [:]
    var failures = 0
    var slowest = 0.0
    var imageBytes: UInt64 = 0
    for (i, path) in images.enumerated() {
      let trial = try DamageTrial(image: path)
      imageBytes = max(imageBytes, trial.imageByteCount)
      for n in stride(from: first + UInt64(i), to: first + count, by: images.count) {
        Watch.trial(n, image: i, seconds: 60)
        let start = now()
        let (damage, outcome) = trial.run(seed: n)
        slowest = max(slowest, now() - start)
        let name = "\(outcome)"
        outcomes[name, default: 0] += 1
        byRole["\(damage.action) / \(damage.role)", default: 0] += 1
        if outcome.isFault {
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
    return failures == 0
  }
}
