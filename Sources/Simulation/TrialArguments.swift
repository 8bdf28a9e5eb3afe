/// The command line of trials: `--count N` and `--seed N`, options of their own that take a number, and
/// operands.
public struct TrialArguments: Equatable, Sendable {
  /// How much is to be done.
  public var count: UInt64
  /// The first seed, by chance where none was given.
  public var seed: UInt64
  /// Values of further options, by name, without their dashes.
  public var numbers: [String: UInt64] = [:]
  /// What is no option.
  public var operands: [String] = []

  /// Understands arguments without the program's name; nil for what makes no sense.
  /// - Parameters:
  ///   - count: what is done where nothing is said.
  ///   - options: names of further options.
  ///   - takesOperands: whether what is no option is one.
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
