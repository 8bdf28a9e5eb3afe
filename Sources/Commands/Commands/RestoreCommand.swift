import BlockIO
public import ThinTools

/// A parsed `thin_restore` command line.
public struct RestoreRequest: Equatable, Sendable {
  /// The dump, in XML.
  public var input: String
  /// The metadata device or file to write; it exists and is large enough for an empty pool.
  public var output: String
  /// Values that replace or raise those of the dump.
  public var overrides: SuperblockOverrides
  /// Whether to refuse a restore that would destroy old metadata before the new metadata is
  /// complete.
  public var keepsOld: Bool

  init(_ arguments: ParsedArguments) {
    input = arguments.text("input") ?? ""
    output = arguments.text("output") ?? ""
    overrides = arguments.overrides
    keepsOld = arguments.has("keep-old")
  }
}

/// `thin_restore`.
public enum RestoreCommand: Command {
  /// Restores the dump to the output and returns the exit status.
  static func runEngine(_ request: RestoreRequest, console: Console) throws -> Int32 {
    let input = try RestoreInput(request.input)
    let device: FileDevice
    do throws(OutputError) {
      device = try MetadataOutput.open(request.output, reading: [request.input])
    } catch {
      throw ToolError(error)
    }
    warnOfSize(device, console)
    var options = RestoreOptions()
    options.dataBlockSectors = request.overrides.dataBlockSectors
    options.dataBlockCount = request.overrides.dataBlockCount
    options.transactionID = request.overrides.transactionID
    options.keepsOld = request.keepsOld
    let progress = console.makeProgress()
    try input.keep(for: device, options: &options, progress: progress)
    let result = try ThinRestore.run(
      xml: input.descriptor, path: request.input, to: device, options: options,
      progress: progress, xmlByteCount: input.byteCount, onNotice: { console.warning($0) })
    for warning in result.warnings { console.warning(warning) }
    return ExitStatus.ok.rawValue
  }

  /// Checks the kinds of input and output before the engine opens them.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let request = RestoreRequest(arguments)
    try InputChecks.requireDump(request.input)
    try InputChecks.requireOutput(request.output)
    return try runEngine(request, console: console)
  }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "restore", fieldName: "thin_restore",
    summary: "make thin-provisioning metadata from a dump",
    description: [
      """
      Reads a dump in XML, as thin_dump writes it, and writes metadata with the same devices and \
      mappings. The superblock is written last: an interrupted restore leaves the old metadata, or \
      none that looks valid.
      """,
      """
      If the output holds metadata, the whole dump is checked before anything is written. Sound \
      metadata stays valid until the new one is complete, if there are enough free blocks for \
      both. If there are not, or if the metadata is damaged, a warning says so, and it is \
      overwritten; with --keep-old the restore is refused instead. A complete restore replaces the \
      old metadata.
      """,
      """
      A dump from a pipe is first copied to a file without a name in $TMPDIR or /tmp, up to 128 GiB.
      """,
      """
      The output must be an inactive device, or a file that exists already: its size is the size \
      of the metadata. thin_metadata_size tells how much a pool needs.
      """,
    ],
    options: [
      OptionSpec(
        "input", short: "i", value: .required(placeholder: "FILE", .path),
        help: "The dump to read: a file or device, or a pipe, like /dev/stdin.", isRequired: true),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: "The metadata device or file to write; at least 40960 bytes.", isRequired: true),
      OptionSpec(
        "keep-old",
        help: """
          Refuse, with status 73, to overwrite metadata on the output if it could not stay valid \
          until the new metadata is complete.
          """),
      .dataBlockSize("Data block size in sectors of 512 bytes, in place of the dump's."),
      .dataBlockCount("Data blocks of the pool; used if it is more than in the dump."),
      .transactionID("Transaction id; used if it is more than in the dump."),
      .quiet, .verbose, .ioEngine,
    ],
    examples: [
      ("$ -i pool.xml -o /dev/mapper/vg-pool_tmeta", "Restore the metadata of an inactive pool."),
      ("truncate -s 64M pool.bin && $ -i pool.xml -o pool.bin", "Restore to a file."),
      ("zcat pool.xml.gz | $ -i /dev/stdin -o pool.bin", "Restore from a compressed dump."),
    ],
    exitStatus: [
      (.damaged, "The dump is malformed, contradicts itself, or does not fit the output.")
    ],
    seeAlso: ["thin_check", "thin_dump", "thin_metadata_size"])
}
