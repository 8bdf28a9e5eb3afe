/// The command line of trials: `--count N` and `--seed N`, options of their own that take a number, and
/// operands.
public struct TrialArguments: Equatable, Sendable {
  /// The number of trials.
  public var count: UInt64
  /// The first seed; random by default.
  public var seed: UInt64
  /// Values of further options, by name without dashes.
  public var numbers: [String: UInt64] = [:]
  /// The arguments that are not options.
  public var operands: [String] = []

  /// Parses arguments without the program's name; nil if they are invalid.
  /// - Parameters:
  ///   - count: the default number of trials.
  ///   - options: names of further options.
  ///   - takesOperands: whether operands are allowed.
  public init?(
    _ arguments: some Sequence<String>, count: UInt64, options: [String] = [],
    takesOperands: Bool = false
  ) {
    self.count = count
    seed = UInt64.random(in: 0..<1_000_000_000)
    var arguments = arguments.makeIterator()
    while let argument = arguments.next() {
      guard argument.hasPrefix("--") else {
        guard takesOperands else { return nil }
        operands.append(argument)
        continue
      }
      guard let value = arguments.next().flatMap({ UInt64($0) }) else { return nil }
      switch argument.dropFirst(2) {
      case "count": self.count = value
      case "seed": seed = value
      case let name where options.contains(String(name)): numbers[String(name)] = value
      default: return nil
      }
    }
  }
}
