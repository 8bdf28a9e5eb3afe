import BlockIO
import ThinFormat
import ThinMetadata
import ThinTools

/// A command: what it is, and what it does.
public protocol Command {
  /// Everything that parsing, help, manual page and completion need to know.
  static var spec: CommandSpec { get }
  /// Does the work and returns the exit status. Errors are printed by the caller, which takes the
  /// status from their kind.
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32
  /// The command itself if it is a `RawCommand`; finding that out by a cast takes longer than many a
  /// command.
  static var raw: (any RawCommand.Type)? { get }
}

extension Command {
  /// No `RawCommand`.
  public static var raw: (any RawCommand.Type)? { nil }
}

/// A command that understands its command line itself, because it is that of another program.
public protocol RawCommand: Command {
  /// Names of programs that it stands in for.
  static var names: [String] { get }
  /// Runs a command line, which does not include the program's name; returns the exit status.
  static func run(raw arguments: [String], program: String, console: Console) -> Int32
}

extension RawCommand {
  /// This command.
  public static var raw: (any RawCommand.Type)? { self }
}

/// The project's version, printed by `--version` as the only thing on the line.
public enum Version {
  /// Scripts compare it with the version of the field's own tools, and want at least 0.9.0.
  public static let text = "1.4.0"
}

// Options that several commands share.
extension OptionSpec {
  static let quiet = OptionSpec(
    "quiet", short: "q", help: "Print nothing, errors included: the exit status tells.")

  static let json = OptionSpec(
    "json", help: "Print the result as one JSON object, for programs.")

  /// Old scripts pass it; there is nothing to be verbose about.
  static let verbose = OptionSpec(
    "verbose", short: "v", help: "Accepted and ignored.", isRepeatable: true, isHidden: true)

  /// Old scripts pass it; reads are queued as the device allows.
  static let ioEngine = OptionSpec(
    "io-engine",
    value: .required(placeholder: "ENGINE", .choice(["sync", "async", "spindle"])),
    help: "Accepted and ignored.", isHidden: true)

  /// `-m`, of every command that reads a metadata snapshot.
  static func metadataSnapshot(_ help: String) -> OptionSpec {
    OptionSpec(
      "metadata-snap", short: "m", value: .optional(placeholder: "BLOCKNR", .number),
      help: "\(help) With BLOCKNR, only if it is at that block.")
  }

  static func dataBlockSize(_ help: String) -> OptionSpec {
    OptionSpec(
      "data-block-size", value: .required(placeholder: "SECTORS", .number32), help: help)
  }

  static func dataBlockCount(_ help: String) -> OptionSpec {
    OptionSpec("nr-data-blocks", value: .required(placeholder: "NUM", .number), help: help)
  }

  static func transactionID(_ help: String) -> OptionSpec {
    OptionSpec("transaction-id", value: .required(placeholder: "NUM", .number), help: help)
  }
}

extension ParsedArguments {
  /// Which state of the pool `--metadata-snap` asks for.
  var source: MetadataView.Source {
    if let block = number("metadata-snap") { return .metadataSnapshotAt(block) }
    return has("metadata-snap") ? .metadataSnapshot : .current
  }

  /// What `--data-block-size`, `--nr-data-blocks` and `--transaction-id` ask for.
  var overrides: SuperblockOverrides {
    var overrides = SuperblockOverrides()
    overrides.dataBlockSectors = number("data-block-size").map { UInt32(clamping: $0) }
    overrides.dataBlockCount = number("nr-data-blocks")
    overrides.transactionID = number("transaction-id")
    return overrides
  }
}

/// Warns, as the kernel does, of a device larger than a pool can use.
func warnOfSize(_ device: FileDevice, _ console: Console) {
  let sectors = device.byteCount / UInt64(Limits.sectorBytes)
  guard sectors > Limits.metadataWarningSectors else { return }
  console.warning(
    "\(device.path) is larger than \(Limits.metadataSectorsMax) sectors: "
      + "excess space will not be used")
}
