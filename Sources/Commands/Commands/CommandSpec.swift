/// Options, operands, help and exit statuses of a command. The parser, `--help`, the manual page
/// and the shell completion are all made from this, so that each fact is written once.
public struct CommandSpec: Sendable {
  /// The verb after `dmthin`, like `check`; two words for a command of a group, like `pool delete`.
  public let name: String
  /// The name of the traditional tool, like `thin_check`; also the name of the manual page.
  public let fieldName: String
  /// One line, without a full stop.
  public let summary: String
  /// Paragraphs for help: what the command does and what to know before using it.
  public let description: [String]
  /// Options in the order in which help shows them; `--help` and `--version` are added.
  public let options: [OptionSpec]
  /// Arguments without a dash, in order.
  public let positionals: [PositionalSpec]
  /// Example command lines, each with its purpose. `$` stands for the command's name.
  public let examples: [(line: String, purpose: String)]
  /// Exit statuses beyond those that every command has.
  public let exitStatus: [(status: ExitStatus, meaning: String)]
  /// The full list of exit statuses, for a command whose statuses are not those of the others.
  public let onlyExitStatus: [(status: Int32, meaning: String)]
  /// The verbs of the command, if it has any: how each is written and what it does.
  public let verbs: [(forms: [String], help: String)]
  /// Related commands, by their field names.
  public let seeAlso: [String]

  /// A command.
  public init(
    name: String, fieldName: String, summary: String, description: [String] = [],
    options: [OptionSpec] = [], positionals: [PositionalSpec] = [],
    examples: [(line: String, purpose: String)] = [],
    exitStatus: [(status: ExitStatus, meaning: String)] = [],
    onlyExitStatus: [(status: Int32, meaning: String)] = [],
    verbs: [(forms: [String], help: String)] = [], seeAlso: [String] = []
  ) {
    self.name = name
    self.fieldName = fieldName
    self.summary = summary
    self.description = description
    self.options = options + [.help, .version]
    self.positionals = positionals
    self.examples = examples
    self.exitStatus = exitStatus
    self.onlyExitStatus = onlyExitStatus
    self.verbs = verbs
    self.seeAlso = seeAlso
  }

  /// The option with this long name.
  public func option(named name: String) -> OptionSpec? {
    options.first { $0.name == name }
  }

  /// The first word of a name of two, like `pool`.
  public var group: String? {
    name.contains(" ") ? name.split(separator: " ").first.map { String($0) } : nil
  }

  /// The program that runs only this command, like `thin_check`; nil if there is none of the manual
  /// page's name.
  public var ownProgram: String? { fieldName.hasPrefix("dmthin-") ? nil : fieldName }

  /// Options that help shows, sorted as it shows them.
  public var visibleOptions: [OptionSpec] { options.filter { !$0.isHidden } }

  /// The `Usage:` line after the name of the program, like `[OPTIONS] --input <FILE>`.
  public var usage: String {
    let required = options.filter(\.isRequired).map(\.label)
    let operands = positionals.map { operand in
      (operand.isRequired ? "<\(operand.name)>" : "[\(operand.name)]")
        + (operand.isRepeatable ? "..." : "")
    }
    return (["[OPTIONS]"] + required + operands).joined(separator: " ")
  }
}

/// One option of a command.
public struct OptionSpec: Sendable {
  /// Whether an option takes a value. `ArgumentScanner` describes how an optional value is
  /// distinguished from the next argument.
  public enum Value: Sendable {
    case flag
    case required(placeholder: String, ValueKind)
    case optional(placeholder: String, ValueKind)
  }

  /// The long name, without dashes.
  public let name: String
  /// The one-letter name.
  public let short: Character?
  /// Whether it takes a value, and of which kind.
  public let value: Value
  /// Sentences for help: what it does, in which units, and the default.
  public let help: String
  /// Whether the command fails without it.
  public let isRequired: Bool
  /// Whether it may be given more than once.
  public let isRepeatable: Bool
  /// Accepted for old scripts, and not shown in help.
  public let isHidden: Bool
  /// Long names of options that exclude this one. Naming it on one side is enough.
  public let conflicts: [String]

  /// An option.
  public init(
    _ name: String, short: Character? = nil, value: Value = .flag, help: String,
    isRequired: Bool = false, isRepeatable: Bool = false, isHidden: Bool = false,
    conflicts: [String] = []
  ) {
    self.name = name
    self.short = short
    self.value = value
    self.help = help
    self.isRequired = isRequired
    self.isRepeatable = isRepeatable
    self.isHidden = isHidden
    self.conflicts = conflicts
  }

  /// The option's name in messages: `--format <TYPE>`, `--metadata-snap[=<BLOCKNR>]`.
  public var label: String {
    switch value {
    case .flag: "--\(name)"
    case .required(let placeholder, _): "--\(name) <\(placeholder)>"
    case .optional(let placeholder, _): "--\(name)[=<\(placeholder)>]"
    }
  }

  /// The syntax of its value; nil for a flag.
  public var valueKind: ValueKind? {
    switch value {
    case .flag: nil
    case .required(_, let kind), .optional(_, let kind): kind
    }
  }

  static let help = OptionSpec("help", short: "h", help: "Print this help.")
  static let version = OptionSpec(
    "version", short: "V", help: "Print the version; excludes everything else.")
}

/// An argument without a dash.
public struct PositionalSpec: Sendable {
  /// Its name in the usage line, like `INPUT`.
  public let name: String
  /// Sentences for help.
  public let help: String
  /// Whether the command fails without it.
  public let isRequired: Bool
  /// Whether it may be repeated; then it is the last.
  public let isRepeatable: Bool

  /// An argument.
  public init(_ name: String, help: String, isRequired: Bool = true, isRepeatable: Bool = false) {
    self.name = name
    self.help = help
    self.isRequired = isRequired
    self.isRepeatable = isRepeatable
  }
}

/// The syntax of a value; checked by the parser and known to the shell completion.
public enum ValueKind: Sendable {
  /// Anything.
  case text
  /// A file or a device.
  case path
  /// A whole number of at most `max`.
  case number(max: UInt64)
  /// One of a few words.
  case choice([String])
  /// One or more of a few words, separated by commas.
  case list([String])
  /// Text in which the function finds no fault. It returns the fault, or nil.
  case checked(@Sendable (String) -> String?)

  /// Any number of 64 bits.
  public static var number: ValueKind { .number(max: .max) }
  /// Any number of 32 bits.
  public static var number32: ValueKind { .number(max: UInt64(UInt32.max)) }

  /// The words that a value may consist of, if they can be listed.
  var words: [String] {
    switch self {
    case .choice(let words), .list(let words): words
    default: []
    }
  }

  /// Why `value` is refused, or nil. Starts with the text that separates it from the option's name.
  func fault(of value: String) -> String? {
    switch self {
    case .text, .path:
      return nil
    case .number(let max):
      if let number = UInt64(value), number <= max { return nil }
      return ": expected a whole number from 0 to \(max)"
    case .choice(let words):
      if words.contains(value) { return nil }
      return "\n  [possible values: \(words.joined(separator: ", "))]"
    case .list(let words):
      let items = value.split(separator: ",", omittingEmptySubsequences: false)
      guard let wrong = items.first(where: { !words.contains(String($0)) }) else { return nil }
      return ": unknown field '\(wrong)'\n  [possible values: \(words.joined(separator: ", "))]"
    case .checked(let fault):
      return fault(value).map { ": \($0)" }
    }
  }
}
