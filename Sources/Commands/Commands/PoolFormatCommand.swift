import BlockIO
import PoolManager
import ThinFormat
import ThinTools

/// `dmthin pool format`.
enum PoolFormatCommand: Command {
  /// Makes the metadata of an empty pool.
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let path = arguments.positionals[0]
    let sectors = UInt32(clamping: arguments.number("data-block-size") ?? 0)
    let dataBlocks = arguments.number("nr-data-blocks") ?? 0
    guard Limits.isDataBlockSize(sectors) else {
      throw UsageError(
        "invalid value '\(sectors)' for '--data-block-size <SECTORS>': expected a multiple of "
          + "\(Limits.dataBlockSectorsMin) from \(Limits.dataBlockSectorsMin) to "
          + "\(Limits.dataBlockSectorsMax)")
    }
    try InputChecks.requireOutput(path)
    let pool = PoolAtRest(path)
    let device = try pool.open()
    warnOfSize(device, console)
    try pool.format(device, blockSectors: sectors, dataBlocks: dataBlocks)
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "pool format", fieldName: "dmthin-pool-format",
    summary: "make the metadata of an empty pool",
    description: [
      """
      Writes what the kernel writes when a pool is activated for the first time. The first 4096 \
      bytes must be zero; the rest of the device may hold anything.
      """,
      """
      A device is opened exclusively, a file is locked. If formatting fails, the first 4096 bytes \
      are zero again.
      """,
    ],
    options: [
      OptionSpec(
        "data-block-size", value: .required(placeholder: "SECTORS", .number32),
        help: "Data block size in sectors of 512 bytes: a multiple of 128, from 128 to 2097152.",
        isRequired: true),
      OptionSpec(
        "nr-data-blocks",
        value: .required(placeholder: "NUM", .number(max: Limits.dataBlocksMax)),
        help: "Data blocks of the pool. An activation with a larger data device extends the pool.",
        isRequired: true), .quiet,
    ],
    positionals: [CommandSpec.poolMetadata],
    examples: [
      (
        "$ --data-block-size 128 --nr-data-blocks 16384 pool.meta",
        "Make the metadata of a pool of 1 GiB."
      )
    ],
    exitStatus: [
      (.damaged, "The metadata device is not empty."),
      (.output, "The metadata device is missing, cannot be opened, or is too small."),
    ],
    seeAlso: ["dmthin-pool-create", "dmthin-pool-create-thin", "thin_metadata_size", "thin_check"])
}
