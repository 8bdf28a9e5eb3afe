import ThinTools

/// What `thin_check` is asked to do.
public struct CheckRequest: Equatable, Sendable {
  /// The metadata device or file.
  public var input: String
  /// Look at the superblock and at nothing else.
  public var superblockOnly: Bool
  /// Leave out mapping trees and space maps: superblock and device trees only.
  public var skipMappings: Bool
  /// Leaks and the like do not make the check fail.
  public var ignoreNonFatalErrors: Bool
  /// Clear the needs-check flag if the check passes.
  public var clearNeedsCheckFlag: Bool
  /// Repair leaks, and clear the needs-check flag.
  public var autoRepair: Bool
  /// Check the metadata snapshot's trees rather than the pool's.
  public var metadataSnapshot: Bool
  /// Root to take in place of the superblock's mapping tree.
  public var mappingRoot: UInt64?
  /// Root to take in place of the superblock's device details tree.
  public var detailsRoot: UInt64?
  /// Print the result as JSON.
  public var isJSON: Bool

  init(_ arguments: ParsedArguments) {
    input = arguments.positionals[0]
    superblockOnly = arguments.has("super-block-only")
    skipMappings = arguments.has("skip-mappings")
    ignoreNonFatalErrors = arguments.has("ignore-non-fatal-errors")
    clearNeedsCheckFlag = arguments.has("clear-needs-check-flag")
    autoRepair = arguments.has("auto-repair")
    metadataSnapshot = arguments.has("metadata-snap")
    mappingRoot = arguments.number("override-mapping-root")
    detailsRoot = arguments.number("override-details-root")
    isJSON = arguments.has("json")
  }
}

/// `thin_check`.
public enum CheckCommand: Command {
  /// Checks a request whose input is a file or device that may hold metadata. Prints the result
  /// on `console` and returns the exit status.
  static func runEngine(_ request: CheckRequest, console: Console) throws -> Int32 {
    throw EngineMissing()
  }

  /// Looks at the input before the engine does.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let request = CheckRequest(arguments)
    try InputChecks.requireMetadata(request.input)
    return try runEngine(request, console: console)
  }

  /// What the command takes.
  public static let spec = CommandSpec(
    name: "check", fieldName: "thin_check",
    summary: "check thin-provisioning metadata",
    description: [
      """
      Reads all metadata of a pool and tells whether every block is sound, every tree well formed, \
      and every reference count right. Prints TRANSACTION_ID and METADATA_FREE_BLOCKS of the pool, \
      and a line for each fault.
      """,
      """
      The pool must be inactive, unless -m is given. Nothing is written without \
      --clear-needs-check-flag or --auto-repair.
      """,
    ],
    options: checking + repairing + reading + [.quiet, .json, .verbose, .ioEngine],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      ("$ /dev/mapper/vg-pool_tmeta", "Check the metadata of an inactive pool."),
      ("$ --auto-repair /dev/mapper/vg-pool_tmeta", "Check, repair leaks, and clear the flag."),
      ("$ -m /dev/mapper/vg-pool_tmeta", "Check the metadata snapshot of an active pool."),
    ],
    exitStatus: [
      (.damaged, "The metadata is damaged; run thin_repair, or restore a dump."),
      (.leaks, "Only leaked blocks or other harmless faults; --auto-repair mends leaks."),
    ],
    seeAlso: ["thin_dump", "thin_repair", "thin_restore"])

  private static let checking = [
    OptionSpec(
      "super-block-only", help: "Check the superblock and nothing else."),
    OptionSpec(
      "skip-mappings",
      help: "Check the superblock and the trees of devices, but neither mappings nor counts."),
    OptionSpec(
      "ignore-non-fatal-errors",
      help: "Return 0 where leaks or other harmless faults are all that was found."),
  ]

  private static let repairing = [
    OptionSpec(
      "clear-needs-check-flag",
      help: "Clear the flag with which the kernel asks for a check, if the check passes.",
      conflicts: ["metadata-snap", "override-mapping-root", "override-details-root"]),
    OptionSpec(
      "auto-repair",
      help: "Free leaked blocks and clear the needs-check flag, if nothing else is wrong.",
      conflicts: [
        "ignore-non-fatal-errors", "metadata-snap", "override-mapping-root",
        "override-details-root", "super-block-only", "skip-mappings",
      ]),
  ]

  private static let reading = [
    OptionSpec(
      "metadata-snap", short: "m",
      help: """
        Check the pool's metadata snapshot. This works while the pool is active; reference counts \
        are not checked.
        """),
    OptionSpec(
      "override-mapping-root", value: .required(placeholder: "BLOCKNR", .number),
      help: "Take the mapping tree from this metadata block, not from the superblock's root."),
    OptionSpec(
      "override-details-root", value: .required(placeholder: "BLOCKNR", .number),
      help: "Take the device details tree from this metadata block."),
  ]
}
