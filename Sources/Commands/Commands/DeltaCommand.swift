import BlockIO
import ThinFormat
import ThinMetadata
import ThinTools

/// `thin_delta`.
enum DeltaCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let path = arguments.positionals[0]
    var options = DeltaOptions(
      left: try side(arguments, "1"), right: try side(arguments, "2"))
    options.source = arguments.source
    options.listsDataBlocks = arguments.has("verbose")
    try InputChecks.requireMetadata(path)
    return try InputChecks.explaining(path) {
      let device = try FileDevice(
        path: path, access: .readOnly, exclusive: options.source == .current)
      warnOfSize(device, console)
      try ThinDelta.run(
        device, options: options, to: console.output, progress: console.makeProgress())
      return ExitStatus.ok.rawValue
    }
  }

  /// One side of the comparison: a device id, by either name of the option, or a root.
  private static func side(_ arguments: ParsedArguments, _ number: String) throws(UsageError)
    -> DeltaSide
  {
    if let root = arguments.metadataBlock("root\(number)") { return .root(root) }
    guard let id = arguments.number("thin\(number)") ?? arguments.number("snap\(number)") else {
      throw UsageError(
        "'--thin\(number) <DEV_ID>' or '--root\(number) <BLOCKNR>' is missing")
    }
    return .thin(ThinID(id))
  }

  private static func sides(_ number: String, _ which: String) -> [OptionSpec] {
    [
      OptionSpec(
        "thin\(number)", value: .required(placeholder: "DEV_ID", .number),
        help: "Id of the \(which) thin device.", conflicts: ["root\(number)", "snap\(number)"]),
      OptionSpec(
        "snap\(number)", value: .required(placeholder: "DEV_ID", .number),
        help: "The same as --thin\(number).", isHidden: true, conflicts: ["root\(number)"]),
      OptionSpec(
        "root\(number)", value: .required(placeholder: "BLOCKNR", .number),
        help: "Metadata block of the root of the \(which) device's mapping tree, instead of its id."
      ),
    ]
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "delta", fieldName: "thin_delta",
    summary: "tell how the mappings of two thin devices differ",
    description: [
      """
      Prints XML with runs of virtual blocks that both devices map to the same data block (same), \
      to different ones (different), or that only one device maps (left_only, right_only). Blocks \
      that a snapshot shares with its origin are the same; all others were written since the \
      snapshot. Parts of the trees that both share are read once.
      """,
      "The pool must be inactive, unless -m is given.",
    ],
    options: sides("1", "first") + sides("2", "second") + [
      .metadataSnapshot(
        "Compare devices of the pool's metadata snapshot; works while the pool is active."),
      OptionSpec(
        "verbose",
        help: "Also print the data blocks, in runs of consecutive blocks."),
      .ioEngine,
    ],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      ("$ --thin1 1 --thin2 2 /dev/mapper/vg-pool_tmeta", "How 2 differs from its origin 1."),
      (
        "$ -m --thin1 1 --thin2 2 --verbose /dev/mapper/vg-pool_tmeta",
        "The same for an active pool, with the data blocks."
      ),
    ],
    seeAlso: ["thin_ls", "thin_dump", "dmthin-pool-reserve-metadata-snap"])
}
