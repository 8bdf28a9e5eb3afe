import BlockIO
import ThinFormat
public import ThinTools

/// A parsed `thin_check` command line.
public struct CheckRequest: Equatable, Sendable {
  /// The metadata device or file.
  public var input: String
  /// What to check and repair.
  public var options = CheckOptions()
  /// Print the result as JSON.
  public var isJSON: Bool
  /// Print nothing; the exit status tells whether the pool may be activated.
  public var isQuiet: Bool
  /// Return a nonzero exit status for every finding, harmless ones included.
  public var isStrict: Bool

  init(_ arguments: ParsedArguments) {
    input = arguments.positionals[0]
    options.superblockOnly = arguments.has("super-block-only")
    options.skipMappings = arguments.has("skip-mappings")
    options.ignoreNonFatal = arguments.has("ignore-non-fatal-errors")
    options.clearNeedsCheck = arguments.has("clear-needs-check-flag")
    options.autoRepair = arguments.has("auto-repair")
    options.metadataSnapshot = arguments.has("metadata-snap")
    options.metadataSnapshotBlock = arguments.metadataBlock("metadata-snap")
    options.mappingRoot = arguments.metadataBlock("override-mapping-root")
    options.detailsRoot = arguments.metadataBlock("override-details-root")
    isJSON = arguments.has("json")
    isQuiet = arguments.has("quiet")
    isStrict = arguments.has("strict")
  }

  /// The exit status for a report. A finding that costs no mapping must not stop lvm2 from
  /// activating the pool: lvm2 calls with -q and takes every status but 0 for damage.
  func status(for report: CheckReport) -> ExitStatus {
    if report.isDamaged { return .damaged }
    if isStrict { return report.isClean ? .ok : .leaks }
    let mayKeepLeaks = options.ignoreNonFatal || isQuiet
    return report.leakCount == 0 || mayKeepLeaks ? .ok : .leaks
  }
}

/// `thin_check`.
public enum CheckCommand: Command {
  /// Checks a request whose input is a file or device that may hold metadata. Prints the result
  /// on `console` and returns the exit status.
  static func runEngine(_ request: CheckRequest, console: Console) throws -> Int32 {
    let device = try device(request)
    warnOfSize(device, console)
    let report = try ThinCheck.run(
      device, options: request.options, progress: console.makeProgress())
    if request.isJSON {
      try printJSON(report, console)
    } else {
      try printFigures(report, console)
      printFindings(report, console)
    }
    return request.status(for: report).rawValue
  }

  /// Prints the lines that scripts look for. If the reader has closed the pipe, the exit status is
  /// still that of the check: another status would mean that the metadata is damaged.
  private static func printFigures(_ report: CheckReport, _ console: Console)
    throws(BlockIOError)
  {
    do throws(BlockIOError) {
      try console.line("TRANSACTION_ID=\(report.transactionID)")
      try console.line("METADATA_FREE_BLOCKS=\(report.metadataFreeBlocks)")
      try console.output.flush()
    } catch {
      guard error.isReaderGone else { throw error }
    }
  }

  private static func device(_ request: CheckRequest) throws -> FileDevice {
    guard request.options.mayWrite else {
      return try FileDevice(
        path: request.input, access: .readOnly, exclusive: !request.options.metadataSnapshot)
    }
    do throws(OutputError) {
      return try MetadataOutput.open(request.input)
    } catch {
      // The device being repaired is the input: a failure to open it is reported as one of the
      // input.
      if case .failed = error.reason { throw ToolError(.unsuitable(.input), error.message) }
      throw ToolError(error)
    }
  }

  private static func printFindings(_ report: CheckReport, _ console: Console) {
    for finding in report.findings {
      let prefix =
        switch finding.severity {
        case .fatal: "damage"
        case .leak: "leak"
        case .minor: "minor"
        }
      console.note("\(prefix): \(finding.message)")
    }
    let total = report.fatalCount + report.leakCount + report.minorCount
    if total > report.findings.count {
      console.note("and \(total - report.findings.count) more findings")
    }
    if let note = report.newerGeneration.flatMap(note) { console.note(note) }
    if report.repairedSpaceMaps { console.note("Repaired the space maps; leaked blocks are free.") }
    if report.clearedNeedsCheck { console.note("Cleared the needs-check flag.") }
    if report.isDamaged {
      console.note(
        "The metadata is damaged: \(report.fatalCount) findings. Keep a copy of it before anything "
          + "else; then see what thin_dump --repair can save.")
    } else if !report.isClean {
      let cost =
        report.leakCount > 0
        ? "No mapping is affected; leaked blocks cost their space."
        : "No mapping is affected, and no space is lost: the pool is sound."
      let next =
        report.noRoomToMend
        ? " There are too few free metadata blocks to repair this: enlarge the metadata device, or "
          + "thin_dump the metadata and thin_restore it to a larger one."
        : report.mendableCount > 0
          ? " With the pool inactive, thin_check --auto-repair repairs this." : ""
      console.note(cost + next)
    }
  }

  /// Returns nil for a single transaction after the superblock's, which a crash leaves behind, and
  /// for generations that appear to be older.
  private static func note(of newer: NewerGeneration) -> String? {
    switch newer.age {
    case .newest, .newer:
      "\(newer.sentence) Nothing was changed. Keep a copy of the metadata before the pool is "
        + "activated, which would write over it; thin_dump --repair saves the newer one."
    case .uncertain:
      "\(newer.sentence) If the pool is as you expect it, do nothing. Otherwise keep a "
        + "copy of the metadata before the pool is activated, and compare with thin_dump --repair "
        + "--generation \(newer.block)."
    case .unlikely, .interrupted: nil
    }
  }

  private static func printJSON(_ report: CheckReport, _ console: Console) throws(BlockIOError) {
    var json = JSONWriter(console.output)
    try json.beginObject()
    try json.member(
      "result",
      report.isDamaged
        ? "damaged"
        : report.leakCount > 0
          ? "leaks"
          : report.minorCount > 0 ? "minor" : "clean")
    try json.member("transaction_id", report.transactionID)
    try json.member("metadata_free_blocks", report.metadataFreeBlocks)
    try json.member("needs_check", report.needsCheck)
    try json.member("devices", UInt64(report.deviceCount))
    try json.member("fatal", UInt64(report.fatalCount))
    try json.member("leaks", UInt64(report.leakCount))
    try json.member("minor", UInt64(report.minorCount))
    try json.member("cleared_needs_check", report.clearedNeedsCheck)
    try json.member("repaired_space_maps", report.repairedSpaceMaps)
    if let newer = report.newerGeneration {
      try json.key("newer_generation")
      try json.beginObject()
      try json.member("age", newer.age.rawValue)
      try json.member("block", newer.block)
      try json.member("devices", UInt64(newer.deviceCount))
      try json.member("mapped_blocks", newer.mappedBlocks)
      try json.endObject()
    }
    try json.key("findings")
    try json.beginArray()
    for finding in report.findings {
      try json.beginObject()
      try json.member("severity", finding.severity.rawValue)
      try json.members(of: finding.fields)
      if finding.isInMetadataSnapshot { try json.member("metadata_snapshot", true) }
      try json.member("message", finding.message)
      try json.endObject()
    }
    try json.endArray()
    try json.endObject()
    try json.finish()
  }

  /// Checks the kind of the input before the engine opens it.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let request = CheckRequest(arguments)
    try InputChecks.requireMetadata(request.input)
    return try InputChecks.explaining(request.input) {
      try runEngine(request, console: console)
    }
  }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "check", fieldName: "thin_check",
    summary: "check thin-provisioning metadata",
    description: [
      """
      Reads all metadata of a pool and checks that every block is sound, every tree well formed, \
      and every reference count right. Prints TRANSACTION_ID and METADATA_FREE_BLOCKS of the pool, \
      and a line for each fault.
      """,
      """
      The pool must be inactive, unless -m is given. Nothing is written without \
      --clear-needs-check-flag or --auto-repair.
      """,
    ],
    options: checking + repairing + reading + [quiet, .json, .verbose, .ioEngine],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      ("$ /dev/mapper/vg-pool_tmeta", "Check the metadata of an inactive pool."),
      ("$ --auto-repair /dev/mapper/vg-pool_tmeta", "Check, repair leaks, and clear the flag."),
      ("$ -m /dev/mapper/vg-pool_tmeta", "Check the metadata snapshot of an active pool."),
    ],
    exitStatus: [
      (
        .damaged,
        "The metadata is damaged; see what thin_dump --repair can save, or restore a dump."
      ),
      (
        .leaks,
        """
        Leaked blocks were found, and no damage; --auto-repair frees them. With -q the status is 0 \
        instead. With --strict: anything harmless was found.
        """
      ),
    ],
    seeAlso: ["thin_dump", "thin_restore"])

  private static let checking = [
    OptionSpec(
      "super-block-only", help: "Check the superblock and nothing else."),
    OptionSpec(
      "skip-mappings",
      help: "Check the superblock and the trees of devices, but neither mappings nor counts."),
    OptionSpec(
      "ignore-non-fatal-errors",
      help: "Return 0 if nothing but leaked blocks was found."),
    OptionSpec(
      "strict",
      help: """
        Return 65 for every finding that is no damage: leaked blocks, also with -q, and wrong \
        counters, times and nodes that do no harm.
        """,
      conflicts: ["ignore-non-fatal-errors"]),
  ]

  private static let quiet = OptionSpec(
    "quiet", short: "q",
    help: """
      Print nothing, errors included: the exit status tells whether the pool may be activated. It \
      is 0 if nothing but leaked blocks was found.
      """)

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
    .metadataSnapshot(
      """
      Check the pool's metadata snapshot. This works while the pool is active; reference counts \
      are not checked.
      """),
    OptionSpec(
      "override-mapping-root", value: .required(placeholder: "BLOCKNR", .number),
      help: "Read the mapping tree at this metadata block instead of the superblock's root."),
    OptionSpec(
      "override-details-root", value: .required(placeholder: "BLOCKNR", .number),
      help: "Read the device details tree at this metadata block."),
  ]
}
