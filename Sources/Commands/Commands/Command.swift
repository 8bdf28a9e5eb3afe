import BlockIO
import ThinFormat
import ThinMetadata
import ThinTools

/// A command: its specification and its implementation.
public protocol Command {
  /// Everything that parsing, help, manual page and completion need to know.
  static var spec: CommandSpec { get }
  /// Does the work and returns the exit status. Errors are printed by the caller, which takes the
  /// status from their kind.
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32
  /// The command itself if it is a `RawCommand`. A cast to find that out takes longer than many a
  /// command runs.
  static var raw: (any RawCommand.Type)? { get }
}

extension Command {
  /// Not a `RawCommand`.
  public static var raw: (any RawCommand.Type)? { nil }
}

/// A command that parses its own command line, because it imitates another program.
public protocol RawCommand: Command {
  /// Names of the programs that it replaces.
  static var names: [String] { get }
  /// Runs a command line without the program's name, and returns the exit status.
  static func run(raw arguments: [String], program: String, console: Console) -> Int32
}

extension RawCommand {
  /// This command.
  public static var raw: (any RawCommand.Type)? { self }
}

/// The project's version, printed by `--version` as the only thing on the line.
public enum Version {
  /// Scripts compare it with the version of the original tools, and want at least 0.9.0.
  public static let text = "1.4.0"
}

// Options shared by several commands.
extension OptionSpec {
  static let quiet = OptionSpec(
    "quiet", short: "q", help: "Print nothing, errors included: the exit status tells.")

  static let json = OptionSpec(
    "json", help: "Print the result as one JSON object, for programs.")

  /// Old scripts pass it; there is no verbose output.
  static let verbose = OptionSpec(
    "verbose", short: "v", help: "Accepted and ignored.", isRepeatable: true, isHidden: true)

  /// Old scripts pass it; reads are always asynchronous.
  static let ioEngine = OptionSpec(
    "io-engine",
    value: .required(placeholder: "ENGINE", .choice(["sync", "async", "spindle"])),
    help: "Accepted and ignored.", isHidden: true)

  /// `-m`, for every command that reads a metadata snapshot.
  static func metadataSnapshot(_ help: String) -> OptionSpec {
    OptionSpec(
      "metadata-snap", short: "m", value: .optional(placeholder: "BLOCKNR", .number),
      help: "\(help) With BLOCKNR: fail unless the snapshot is at that block.")
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
  /// The value of an option that names a metadata block.
  func metadataBlock(_ option: String) -> MetadataBlock? {
    number(option).map { MetadataBlock($0) }
  }

  /// The state of the pool that `--metadata-snap` selects.
  var source: MetadataView.Source {
    if let block = metadataBlock("metadata-snap") { return .metadataSnapshotAt(block) }
    return has("metadata-snap") ? .metadataSnapshot : .current
  }

  /// The values of `--data-block-size`, `--nr-data-blocks` and `--transaction-id`.
  var overrides: SuperblockOverrides {
    var overrides = SuperblockOverrides()
    overrides.dataBlockSectors = number("data-block-size").map { UInt32(clamping: $0) }
    overrides.dataBlockCount = number("nr-data-blocks")
    // A rescue has no use for it.
    if takes("transaction-id") {
      overrides.transactionID = number("transaction-id")
    }
    return overrides
  }
}

/// Warns, as the kernel does, about a device larger than a pool can use.
func warnOfSize(_ device: FileDevice, _ console: Console) {
  let sectors = device.byteCount / UInt64(Limits.sectorBytes)
  guard sectors > Limits.metadataWarningSectors else { return }
  console.warning(
    "\(device.path) is larger than \(Limits.metadataSectorsMax) sectors: "
      + "excess space will not be used")
}
