import BlockIO
import Glibc
public import ThinTools

/// What `thin_restore` is asked to do.
public struct RestoreRequest: Equatable, Sendable {
  /// The dump, in XML.
  public var input: String
  /// The metadata device or file to write; exists, and is large enough for an empty pool.
  public var output: String
  /// Values that replace or raise those of the dump.
  public var overrides: SuperblockOverrides

  init(_ arguments: ParsedArguments) {
    input = arguments.text("input") ?? ""
    output = arguments.text("output") ?? ""
    overrides = arguments.overrides
  }
}

/// `thin_restore`.
public enum RestoreCommand: Command {
  /// Restores the dump to the output and returns the exit status.
  static func runEngine(_ request: RestoreRequest, console: Console) throws -> Int32 {
    let descriptor = open(request.input, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw ToolError(BlockIOError(.open, path: request.input, code: errno))
    }
    defer { close(descriptor) }
    var info = stat()
    let size = fstat(descriptor, &info) == 0 ? UInt64(max(0, info.st_size)) : 0
    let device: FileDevice
    do throws(BlockIOError) {
      device = try FileDevice(path: request.output, access: .readWrite, exclusive: true)
    } catch {
      throw ToolError(error.code == EBUSY ? .busy : .output, error.description)
    }
    warnOfSize(device, console)
    var options = RestoreOptions()
    options.dataBlockSectors = request.overrides.dataBlockSectors
    options.dataBlockCount = request.overrides.dataBlockCount
    options.transactionID = request.overrides.transactionID
    let result = try restore(
      xml: descriptor, path: request.input, to: device, options: options,
      progress: console.makeProgress(), xmlByteCount: size)
    for warning in result.warnings { console.warning(warning) }
    return ExitStatus.ok.rawValue
  }

  /// Looks at input and output before the engine does.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let request = RestoreRequest(arguments)
    try InputChecks.requireInput(request.input)
    try InputChecks.requireOutput(request.output)
    return try runEngine(request, console: console)
  }

  /// What the command takes.
  public static let spec = CommandSpec(
    name: "restore", fieldName: "thin_restore",
    summary: "make thin-provisioning metadata from a dump",
    description: [
      """
      Reads a dump in XML, as thin_dump writes it, and writes metadata with the same devices and \
      mappings. Everything that the output held before is lost; the superblock is written last, so \
      that an interrupted restore leaves no metadata that looks whole.
      """,
      """
      The output must be an inactive device, or a file that exists already: its size is the size \
      of the metadata. thin_metadata_size tells how much a pool needs.
      """,
    ],
    options: [
      OptionSpec(
        "input", short: "i", value: .required(placeholder: "FILE", .path),
        help: "The dump to read.", isRequired: true),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: "The metadata device or file to write; at least 40960 bytes.", isRequired: true),
      .dataBlockSize("Data block size in sectors of 512 bytes, in place of the dump's."),
      .dataBlockCount("Data blocks of the pool; used where it is more than the dump says."),
      .transactionID("Transaction id; used where it is more than the dump says."),
      .quiet, .verbose, .ioEngine,
    ],
    examples: [
      ("$ -i pool.xml -o /dev/mapper/vg-pool_tmeta", "Restore the metadata of an inactive pool."),
      ("truncate -s 64M pool.bin && $ -i pool.xml -o pool.bin", "Restore to a file."),
    ],
    exitStatus: [
      (.damaged, "The dump is malformed, contradicts itself, or does not fit the output.")
    ],
    seeAlso: ["thin_check", "thin_dump", "thin_metadata_size"])
}
