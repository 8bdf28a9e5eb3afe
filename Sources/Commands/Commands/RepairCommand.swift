import BlockIO
import PoolManager
public import ThinTools

/// What `thin_repair` is asked to do.
public struct RepairRequest: Equatable, Sendable {
  /// The damaged metadata.
  public var input: String
  /// The device or file to write; nil where nothing is to be written.
  public var output: String?
  /// Where the report goes besides.
  public var report: String?
  /// Print the result as JSON.
  public var isJSON: Bool
  /// What is saved, and how it is written.
  public var options = RepairOptions()
  /// Where the blocks are kept that a repair in place overwrites; nil where it is none.
  public var undo: String?

  init(_ arguments: ParsedArguments) {
    undo = arguments.text("save-undo")
    input = arguments.text("input") ?? arguments.positionals.first ?? ""
    output = arguments.has("dry-run") ? nil : arguments.text("output")
    report = arguments.text("report")
    isJSON = arguments.has("json")
    options.salvage = arguments.salvage
    options.keepsOld = arguments.has("keep-old")
  }
}

/// `thin_repair`.
public enum RepairCommand: Command {
  /// Repairs a request whose input and output may be what they should be; returns the exit status.
  static func runEngine(_ request: RepairRequest, console: Console) throws -> Int32 {
    let report = try reportFile(request)
    func say(_ path: String, _ needed: UInt64, _ available: UInt64) {
      let text = "The result needs \(needed) blocks of 4096 bytes; \(path) has \(available)."
      if request.isJSON { return console.note(text) }
      try? console.line(text)
      try? console.output.flush()
    }
    let result: RepairResult
    if let undo = request.undo {
      result = try InPlaceRepair.run(request, undo, console) { say(request.input, $0, $1) }
    } else {
      let device = try FileDevice(path: request.input, access: .readOnly, exclusive: true)
      warnOfSize(device, console)
      let output = try output(request)
      if let output { warnOfSize(output, console) }
      result = try ThinRepair.run(
        device, to: output, options: request.options, progress: console.makeProgress(),
        onSize: { say(output?.path ?? "the input", $0, $1) },
        onNotice: { console.warning($0) })
    }
    return try tell(result, of: request, report, console)
  }

  /// Prints what was done, and writes the report; returns the exit status.
  private static func tell(
    _ result: RepairResult, of request: RepairRequest, _ report: TextOutput?, _ console: Console
  ) throws -> Int32 {
    let text = RepairText(request, result)
    if request.isJSON {
      try text.writeJSON(to: console.output)
    } else {
      for note in result.report.notes { console.warning(note) }
      for line in text.lines { try console.line(line) }
    }
    if let report {
      if request.isJSON {
        try text.writeJSON(to: report.sink)
      } else {
        for line in result.report.notes + text.lines { try report.sink.write(line + "\n") }
      }
      try report.commit()
    }
    return ExitStatus.ok.rawValue
  }

  private static func output(_ request: RepairRequest) throws(ToolError) -> FileDevice? {
    guard let path = request.output else { return nil }
    do throws(OutputError) {
      return try MetadataOutput.open(path, reading: [request.input])
    } catch {
      throw ToolError(error)
    }
  }

  private static func reportFile(_ request: RepairRequest) throws(ToolError) -> TextOutput? {
    guard let path = request.report else { return nil }
    var rules = TextOutput.Rules()
    rules.inputs = [request.input] + [request.output, request.undo].compactMap(\.self)
    rules.isPrecious = InputChecks.preciousContent
    return try InputChecks.textOutput(path, rules)
  }

  /// Looks at input and output before the engine does.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    if let file = arguments.text("apply-undo") {
      return try InPlaceRepair.takeBack(from: file, arguments.positionals.first, console)
    }
    let request = RepairRequest(arguments)
    guard arguments.has("in-place") == (request.undo != nil) else {
      throw UsageError(
        "--in-place and --save-undo go together",
        tip: "dmthin repair --in-place --save-undo FILE DEVICE")
    }
    if request.undo != nil {
      try InPlaceRepair.require(arguments.positionals.first)
      return try InputChecks.explaining(request.input) {
        try runEngine(request, console: console)
      }
    }
    guard arguments.has("input") else {
      throw UsageError(
        "the following required arguments were not provided:\n  --input <FILE>",
        tip: "--in-place repairs a device where it is")
    }
    guard request.output != nil || arguments.has("dry-run") else {
      throw UsageError(
        "the following required arguments were not provided:\n  --output <FILE>",
        tip: "with --dry-run nothing is written")
    }
    try InputChecks.requireMetadata(request.input)
    if let output = request.output { try InputChecks.requireOutput(output) }
    return try InputChecks.explaining(request.input) {
      try runEngine(request, console: console)
    }
  }

  /// What the command takes.
  public static let spec = CommandSpec(
    name: "repair", fieldName: "thin_repair",
    summary: "make sound thin-provisioning metadata of damaged metadata",
    description: [
      """
      Finds everything of a pool that is still usable, device by device, and writes it to the output as \
      sound metadata. A damaged node costs what was below it and nothing else. The input is never \
      written to.
      """,
      """
      The report names each thin device of which something is lost, with the ranges of virtual blocks and \
      bytes; doubtful means that what is mapped there may not be the latest, adopted that the tree did not \
      lead there any more and what it led to was found again. Keep the input until the file systems on \
      these devices have been looked at: it is all that there is of what is lost.
      """,
      """
      How many blocks the result needs is said before the first is written; the output may be smaller than \
      the input if it has as many. The result is first made in a file without a name in $TMPDIR or /tmp. \
      What the output holds is treated as thin_restore treats it.
      """,
      """
      --in-place needs no second device. What it overwrites is kept in a file first, with what tells the \
      device from others; interrupted at any point, the repair is continued by the same command, or taken \
      back by --apply-undo. A block that cannot be read cannot be kept: then nothing is written.
      """,
      """
      The pool must be inactive. uuid, times and transaction id are kept; the flag that asks for a check is \
      cleared. A metadata snapshot is kept if it is whole. The status is 0 also where something is lost, \
      since lvm2 takes any other for a repair that failed.
      """,
    ],
    options: [
      OptionSpec(
        "input", short: "i", value: .required(placeholder: "FILE", .path),
        help: "The damaged metadata: a device, or a file with a copy of it."),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: "The metadata device or file to write; at least 40960 bytes."),
      OptionSpec(
        "dry-run", help: "Write nothing: tell what would be saved, and the blocks needed."),
      OptionSpec(
        "in-place",
        help: """
          Repair DEVICE where it is. Every block that will be overwritten is kept first, in the file that \
          --save-undo names.
          """, conflicts: ["input", "output", "dry-run", "keep-old"]),
      OptionSpec(
        "save-undo", value: .required(placeholder: "FILE", .path),
        help: """
          With --in-place: a regular file, not on DEVICE, that gets the blocks that are overwritten, and is \
          durable before the first of them is. Where it exists from an interrupted repair of DEVICE, that \
          repair is undone first.
          """),
      OptionSpec(
        "apply-undo", value: .required(placeholder: "FILE", .path),
        help: """
          Take back a repair in place of DEVICE, whether it was interrupted or not: it is again what it was, \
          byte for byte. Refused where DEVICE is another device, or was written to since.
          """, conflicts: ["input", "output", "dry-run", "keep-old", "in-place", "save-undo"]),
      OptionSpec(
        "report", value: .required(placeholder: "FILE", .path),
        help: "Also write the report to this file, in JSON with --json."),
      .json,
      .generation(
        """
        Save the superblock's generation, the newest that is whole, or the one whose metadata index or \
        metadata snapshot is at this block, as messages name it. Default: the superblock's, unless a whole \
        one is newer for certain.
        """),
      .prefer(), .includeDeleted(),
      OptionSpec(
        "keep-old",
        help: """
          Refuse, with status 73, to overwrite metadata that the output holds where it would not stay \
          valid until the new metadata is complete.
          """),
      .dataBlockSize("Data block size in sectors of 512 bytes, where the superblock has lost it."),
      .dataBlockCount("Data blocks of the pool; used where it is more than the metadata says."),
      .transactionID("Transaction id; used where it is more than the metadata says."),
      .quiet, .verbose, .ioEngine,
    ],
    positionals: [
      PositionalSpec(
        "DEVICE",
        help: """
          With --in-place and --apply-undo, the metadata device or file. Otherwise ignored: older versions \
          of lvm2 give one.
          """, isRequired: false)
    ],
    examples: [
      (
        "$ --dry-run -i /dev/mapper/vg-pool_tmeta",
        "What can be saved, and how much space it needs."
      ),
      ("$ -i damaged.bin -o repaired.bin --report loss.txt", "Repair a copy, and keep the report."),
      ("$ -i /dev/vg/pool_tmeta -o /dev/vg/repaired", "Repair onto another logical volume."),
      (
        "$ --in-place --save-undo /var/tmp/old /dev/mapper/vg-pool_tmeta",
        "Repair a device where it is; $ --apply-undo /var/tmp/old /dev/mapper/vg-pool_tmeta takes that back."
      ),
      ("lvconvert --repair vg/pool", "The same through lvm2, which swaps the result in."),
    ],
    exitStatus: [
      (.damaged, "Nothing can be saved, or what was asked does not fit the metadata.")
    ],
    seeAlso: ["thin_check", "thin_dump", "thin_restore"])
}
