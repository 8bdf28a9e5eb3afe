import BlockIO
import CDMThin
public import ThinFormat
public import ThinMetadata
public import ThinTools

/// A parsed `thin_dump` command line.
public struct DumpRequest: Equatable, Sendable {
  /// The metadata device or file.
  public var input: String
  /// The file to write; nil for the standard output.
  public var output: String?
  /// The format of the dump.
  public var format: DumpFormat
  /// Whether to salvage damaged metadata.
  public var repair: Bool
  /// Which state of the pool to read.
  public var source: MetadataView.Source
  /// Whether to leave out the mappings.
  public var skipMappings: Bool
  /// Devices to dump, in the order given; nil for all.
  public var deviceIDs: [ThinID]?
  /// What a repair takes, and values that replace or raise those of the superblock.
  public var salvage: SalvageOptions
  /// Whether the output may be a block device.
  public var ontoDevice: Bool

  init(_ arguments: ParsedArguments) {
    input = arguments.positionals[0]
    output = arguments.text("output")
    format = arguments.text("format").flatMap { DumpFormat(rawValue: $0) } ?? .xml
    repair = arguments.has("repair")
    source = arguments.source
    skipMappings = arguments.has("skip-mappings")
    deviceIDs = arguments.has("dev-id") ? arguments.numbers("dev-id").map { ThinID($0) } : nil
    salvage = arguments.salvage
    ontoDevice = arguments.has("onto-device")
  }
}

/// `thin_dump`.
public enum DumpCommand: Command {
  /// Dumps to the request's output, or to `console.output`. Returns the exit status.
  static func runEngine(_ request: DumpRequest, console: Console) throws -> Int32 {
    var options = DumpOptions()
    options.format = request.format
    options.source = request.source
    options.skipMappings = request.skipMappings
    options.deviceIDs = request.deviceIDs.map { Set($0) }
    options.repair = request.repair
    options.salvage = request.salvage
    let device = try FileDevice(
      path: request.input, access: .readOnly, exclusive: request.source == .current)
    warnOfSize(device, console)
    let output = try output(request)
    try ThinDump.run(
      device, to: output?.sink ?? console.output, options: options,
      progress: console.makeProgress(), onLoss: { console.warning($0) })
    try output?.commit()
    return ExitStatus.ok.rawValue
  }

  /// The output that was named; nil for the standard output.
  private static func output(_ request: DumpRequest) throws(ToolError) -> TextOutput? {
    guard let path = request.output else {
      guard dmthin_was_closed(1) == 0 else {
        throw ToolError(.notFound(.output), "the standard output is closed: give a file with -o")
      }
      return nil
    }
    var rules = TextOutput.Rules()
    rules.inputs = [request.input]
    rules.mayBeDevice = request.ontoDevice
    rules.isPrecious = InputChecks.preciousContent
    return try InputChecks.textOutput(path, rules)
  }

  /// Checks the kind of the input before the engine opens it.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let request = DumpRequest(arguments)
    if !request.repair,
      let option = ["generation", "prefer", "include-deleted"].first(where: arguments.has)
    {
      throw UsageError("'--\(option)' goes with --repair")
    }
    try InputChecks.requireMetadata(request.input)
    return try InputChecks.explaining(request.input) {
      try runEngine(request, console: console)
    }
  }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "dump", fieldName: "thin_dump",
    summary: "write thin-provisioning metadata as XML or text",
    description: [
      """
      Writes the superblock, the thin devices and their mappings as text, from which thin_restore \
      makes metadata again. A run of mappings that several devices share is written once.
      """,
      """
      The pool must be inactive, unless -m is given. Damaged metadata ends the dump with an error; \
      with --repair everything that can still be read is written. If the superblock is lost, that \
      is the newest whole generation of the pool, as far as its age can be told from the places of \
      its blocks. If the superblock is an old one that was written back, and a whole generation is \
      certain to be newer, that generation is taken, and a line names it. --generation chooses \
      another. Compare the result with what you expect.
      """,
    ],
    options: output + selection + overrides + [.quiet, .verbose, .ioEngine],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      ("$ /dev/mapper/vg-pool_tmeta > pool.xml", "Keep a copy of an inactive pool's metadata."),
      ("$ -m /dev/mapper/vg-pool_tmeta", "Dump the metadata snapshot of an active pool."),
      ("$ --repair -o pool.xml damaged.bin", "Save what can be read of damaged metadata."),
      ("$ --skip-mappings -f human_readable pool.bin", "List devices without their mappings."),
    ],
    seeAlso: ["thin_check", "thin_restore"])

  private static let output = [
    OptionSpec(
      "format", short: "f",
      value: .required(
        placeholder: "TYPE", .choice(DumpFormat.allCases.map(\.rawValue))),
      help: "What to write: xml, which thin_restore reads, or human_readable. Default: xml."),
    OptionSpec(
      "output", short: "o", value: .required(placeholder: "FILE", .path),
      help: """
        Write to this file rather than to the standard output. It is created, or replaced once the \
        dump is complete: a dump that fails leaves the old file as it is. A file that holds \
        metadata of a pool is not replaced.
        """),
    OptionSpec(
      "onto-device", help: "Let --output be a block device, whose content is overwritten."),
  ]

  private static let selection = [
    OptionSpec(
      "repair", short: "r",
      help: "Salvage damaged metadata: find the trees by reading every block.",
      conflicts: ["metadata-snap"]),
    .generation(
      """
      With --repair: salvage the superblock's generation, the newest that is whole, or the one \
      whose metadata index or metadata snapshot is at this block, as messages name it. Default: \
      the superblock's, unless a whole one is certain to be newer.
      """, conflicts: ["metadata-snap"]),
    .prefer("With --repair: ", conflicts: ["metadata-snap"]),
    .includeDeleted("With --repair: ", conflicts: ["metadata-snap"]),
    .metadataSnapshot("Dump the pool's metadata snapshot; works while the pool is active."),
    OptionSpec("skip-mappings", help: "Leave out the mappings."),
    OptionSpec(
      "dev-id", value: .required(placeholder: "THIN_ID", .number),
      help: """
        Dump only the thin device with this id. May be repeated. An id that the pool does not have \
        is an error.
        """, isRepeatable: true),
  ]

  private static let overrides: [OptionSpec] = [
    .dataBlockSize("Data block size in sectors of 512 bytes, if the superblock has lost it."),
    .dataBlockCount("Data blocks of the pool; used if it is more than in the metadata."),
    .transactionID("Transaction id; used if it is more than in the metadata."),
  ]
}
