/// An invalid command line. Printed on the error output; exit status 2.
public struct UsageError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What is wrong, without `error:`.
  public let message: String
  /// What the user may have meant.
  public let tip: String?

  /// An error.
  public init(_ message: String, tip: String? = nil) {
    self.message = message
    self.tip = tip
  }

  /// The message and the tip.
  public var description: String { tip.map { "\(message)\n\n  tip: \($0)" } ?? message }

  static func unexpectedOption(_ text: String, similar: String?) -> UsageError {
    UsageError(
      "unexpected argument '\(text)' found",
      tip: similar.map { "a similar argument exists: '--\($0)'" }
        ?? "to pass '\(text)' as a value, use '-- \(text)'")
  }

  static func unexpectedValue(_ value: String, _ option: OptionSpec) -> UsageError {
    UsageError("unexpected value '\(value)' for '\(option.label)' found; it takes none")
  }

  static func missingValue(_ option: OptionSpec, found: String? = nil) -> UsageError {
    UsageError(
      "a value is required for '\(option.label)' but none was supplied",
      tip: found.map { "if '\($0)' is the value, write '--\(option.name)=\($0)'" })
  }
}

/// A parsed command line.
public enum ParsedCommandLine: Sendable {
  case help
  case version
  case run(ParsedArguments)
}

/// Options and arguments of a command line that fits the command's specification.
public struct ParsedArguments: Sendable {
  private let spec: CommandSpec
  private var values: [String: [String?]] = [:]
  /// Arguments without a dash.
  public fileprivate(set) var positionals: [String] = []

  fileprivate init(spec: CommandSpec) { self.spec = spec }

  fileprivate mutating func append(_ option: OptionSpec, _ value: String?) {
    values[option.name, default: []].append(value)
  }

  /// Whether the command has an option of this name.
  func takes(_ name: String) -> Bool { spec.option(named: name) != nil }

  /// Whether the option was given, with or without a value.
  public func has(_ name: String) -> Bool {
    assert(spec.option(named: name) != nil, "unknown option \(name)")
    return values[name] != nil
  }

  /// The option's value; nil where it was not given, or given without one.
  public func text(_ name: String) -> String? { texts(name).last }

  /// Values of an option that may be repeated.
  public func texts(_ name: String) -> [String] {
    assert(spec.option(named: name) != nil, "unknown option \(name)")
    return (values[name] ?? []).compactMap(\.self)
  }

  /// The value of an option that takes a number.
  public func number(_ name: String) -> UInt64? { numbers(name).last }

  /// Values of an option that takes numbers.
  public func numbers(_ name: String) -> [UInt64] { texts(name).compactMap { UInt64($0) } }

  /// The words of an option that takes a list.
  public func words(_ name: String) -> [String]? {
    text(name).map { $0.split(separator: ",").map { String($0) } }
  }
}

extension CommandSpec {
  /// Parses `arguments`, which do not include the program's name.
  ///
  /// Errors are reported in this order: unknown elements and missing values, invalid values,
  /// repetitions, conflicts, missing arguments.
  public func parse(_ arguments: [String]) throws(UsageError) -> ParsedCommandLine {
    let operandsMax = positionals.last?.isRepeatable == true ? Int.max : positionals.count
    let scanned = try ArgumentScanner.scan(
      arguments, options: options, operandsMax: operandsMax)
    var parsed = ParsedArguments(spec: self)
    var order: [OptionSpec] = []
    for argument in scanned {
      switch argument {
      case .operand(let text):
        parsed.positionals.append(text)
      case .option(let option, let value):
        if option.name == OptionSpec.help.name { return .help }
        if let value, let fault = option.valueKind?.fault(of: value) {
          throw UsageError("invalid value '\(value)' for '\(option.label)'\(fault)")
        }
        if !parsed.has(option.name) {
          order.append(option)
        } else if !option.isRepeatable {
          throw UsageError("the argument '\(option.label)' cannot be used multiple times")
        }
        parsed.append(option, value)
      }
    }
    try checkPositionals(&parsed)
    if parsed.has(OptionSpec.version.name) {
      guard scanned.count == 1 else {
        throw UsageError(
          "the argument '--version' cannot be used with one or more of the other specified "
            + "arguments")
      }
      return .version
    }
    try checkConflicts(order)
    try checkRequired(parsed)
    return .run(parsed)
  }

  /// Drops empty arguments while there are too many. Callers that keep options in a variable, like
  /// lvm2, pass an empty argument if they have none.
  private func checkPositionals(_ parsed: inout ParsedArguments) throws(UsageError) {
    if positionals.last?.isRepeatable == true { return }
    while parsed.positionals.count > positionals.count,
      let empty = parsed.positionals.firstIndex(of: "")
    {
      parsed.positionals.remove(at: empty)
    }
    if parsed.positionals.count > positionals.count {
      throw UsageError("unexpected argument '\(parsed.positionals[positionals.count])' found")
    }
  }

  private func checkConflicts(_ given: [OptionSpec]) throws(UsageError) {
    for option in given {
      let others = given.filter {
        option.conflicts.contains($0.name) || $0.conflicts.contains(option.name)
      }
      guard let other = others.first else { continue }
      if others.count == 1 {
        throw UsageError("the argument '\(option.label)' cannot be used with '\(other.label)'")
      }
      let list = others.map { "\n  \($0.label)" }.joined()
      throw UsageError("the argument '\(option.label)' cannot be used with:\(list)")
    }
  }

  private func checkRequired(_ parsed: ParsedArguments) throws(UsageError) {
    var missing = options.filter { $0.isRequired && !parsed.has($0.name) }.map(\.label)
    missing += positionals.dropFirst(parsed.positionals.count).filter(\.isRequired)
      .map { "<\($0.name)>" }
    if !missing.isEmpty {
      let list = missing.map { "\n  \($0)" }.joined()
      throw UsageError("the following required arguments were not provided:\(list)")
    }
  }
}
