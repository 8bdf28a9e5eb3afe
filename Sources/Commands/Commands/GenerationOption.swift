import ThinTools

extension Generation {
  /// Parses the value of `--generation`.
  init?(_ text: String) {
    switch text {
    case "superblock": self = .superblock
    case "newest": self = .newest
    default:
      guard let block = UInt64(text) else { return nil }
      self = .block(block)
    }
  }
}

extension OptionSpec {
  /// `--generation`, for every command that salvages.
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
