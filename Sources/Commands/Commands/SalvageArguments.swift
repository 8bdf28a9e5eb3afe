import ThinFormat
import ThinTools

extension Generation {
  /// Parses the value of `--generation`.
  init?(_ text: String) {
    switch text {
    case "superblock": self = .superblock
    case "newest": self = .newest
    default:
      guard let block = UInt64(text) else { return nil }
      self = .block(MetadataBlock(block))
    }
  }
}

extension ParsedArguments {
  /// What the options say that every command has which salvages.
  var salvage: SalvageOptions {
    var options = SalvageOptions()
    options.generation = text("generation").flatMap { Generation($0) }
    options.overrides = overrides
    options.includesDeleted = has("include-deleted")
    options.choice = text("prefer").flatMap { OrphanChoice(rawValue: $0) } ?? .none
    return options
  }
}

extension OptionSpec {
  /// `--prefer`.
  static func prefer(_ when: String = "", conflicts: [String] = []) -> OptionSpec {
    OptionSpec(
      "prefer",
      value: .required(placeholder: "WHICH", .choice(OrphanChoice.allCases.map(\.rawValue))),
      help: """
        \(when)What is done with parts of mapping trees that a lost node led to and that fit into a device, \
        but not for certain: newest and oldest take those with the later or earlier mappings first, as \
        doubtful; none leaves them out. Default: none.
        """, conflicts: conflicts)
  }

  /// `--include-deleted`.
  static func includeDeleted(_ when: String = "", conflicts: [String] = []) -> OptionSpec {
    OptionSpec(
      "include-deleted",
      help: """
        \(when)Include devices that the tree of devices has and the details do not list. They have been \
        deleted, and what they map may be other devices' by now.
        """, conflicts: conflicts)
  }

  /// `--generation`.
  static func generation(_ help: String, conflicts: [String] = []) -> OptionSpec {
    OptionSpec(
      "generation",
      value: .required(
        placeholder: "GENERATION",
        .checked {
          Generation($0) == nil ? "expected superblock, newest, or a block number" : nil
        }),
      help: help, conflicts: conflicts)
  }
}
