import BlockIO
import Glibc
import ThinFormat
import ThinMetadata
import ThinTools

/// `thin_metadata_pack`.
enum PackCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let input = arguments.text("input") ?? ""
    try InputChecks.requireMetadata(input)
    let device = try FileDevice(
      path: input, access: .readOnly, exclusive: arguments.source == .current)
    var rules = TextOutput.Rules()
    rules.inputs = [input]
    if !arguments.has("force") { rules.isPrecious = InputChecks.preciousContent }
    let output = try InputChecks.textOutput(arguments.text("output") ?? "", rules)
    let result = try ThinPack.run(
      device, source: arguments.source, to: output.sink, progress: console.makeProgress())
    try output.commit()
    if result.unsoundCount > 0 {
      console.note(
        "\(result.unsoundCount) of \(result.blockCount) blocks have a wrong checksum. They are kept; "
          + "other versions of thin_metadata_unpack leave them out.")
    }
    for block in result.unreadable.prefix(20) {
      console.warning("block \(block) cannot be read and is left out")
    }
    guard result.unreadable.isEmpty else {
      throw ToolError(
        .damaged, "\(result.unreadable.count) blocks cannot be read; the file has all other blocks")
    }
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "pack", fieldName: "thin_metadata_pack",
    summary: "pack thin-provisioning metadata into a small file",
    description: [
      """
      Writes every block of a metadata device that is not zero to a compressed file, from which \
      thin_metadata_unpack makes the same metadata again. Use it to keep a copy, or to send the \
      metadata to a person who can help. The file has no data of the thin devices. Blocks with a \
      wrong checksum are kept, though other versions of thin_metadata_unpack leave them out.
      """,
      "The pool must be inactive, unless -m is given.",
    ],
    options: [
      OptionSpec(
        "input", short: "i", value: .required(placeholder: "FILE", .path),
        help: "The metadata device, or a file with a copy of it.", isRequired: true),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: """
          The file to write. It is created, or replaced once it is complete. A file that holds \
          metadata of a pool is replaced only with --force.
          """, isRequired: true),
      .metadataSnapshot(
        """
        Pack the superblock and the blocks of the pool's metadata snapshot; works while the pool \
        is active. The tools read the unpacked result with -m.
        """),
      OptionSpec("force", short: "f", help: "Replace a file that holds metadata of a pool."),
      .ioEngine,
    ],
    examples: [
      ("$ -i /dev/mapper/vg-pool_tmeta -o pool.pack", "Pack the metadata of an inactive pool."),
      (
        "$ -m -i /dev/mapper/vg-pool_tmeta -o pool.pack",
        "Pack the metadata snapshot of an active pool."
      ),
    ],
    seeAlso: ["thin_metadata_unpack", "thin_dump"])
}

/// `thin_metadata_unpack`.
enum UnpackCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let input = arguments.text("input") ?? ""
    let path = arguments.text("output") ?? ""
    try InputChecks.requireInput(input)
    let descriptor = unsafe open(input, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw BlockIOError(.open, path: input, code: errno) }
    let file = OpenFile(adopting: descriptor, path: input)
    defer { file.close() }
    let packed = try PackedFile(file)
    let progress = console.makeProgress()
    let target = try UnpackTarget(path, input: input, force: arguments.has("force"))
    if target.isDevice {
      // Reads the whole packed file before the old content is overwritten.
      try unsafe packed.forEachRun(progress: progress) { _, _ in }
    }
    try target.begin(packed.blockCount)
    try unsafe packed.forEachRun(progress: progress) { first, bytes throws(BlockIOError) in
      try unsafe target.write(first.rawValue, bytes)
    }
    if !packed.isMarked {
      console.warning(
        "\(input) has no end mark, like all files of other versions: to find out whether it is complete, "
          + "run thin_check \(path)")
    }
    try target.commit()
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "unpack", fieldName: "thin_metadata_unpack",
    summary: "unpack thin-provisioning metadata from a packed file",
    description: [
      """
      Writes the metadata that thin_metadata_pack packed to a file, or to a device with as many \
      blocks. A file is written under a temporary name and replaces the old one once it is \
      complete. A damaged or truncated input is refused, with the place of the fault.
      """
    ],
    options: [
      OptionSpec(
        "input", short: "i", value: .required(placeholder: "FILE", .path),
        help: "The packed file.", isRequired: true),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: "The file to write, which is created or replaced, or a metadata device.",
        isRequired: true),
      OptionSpec(
        "force", short: "f", help: "Overwrite a file or device that holds metadata of a pool."),
      .ioEngine,
    ],
    examples: [
      ("$ -i pool.pack -o pool.bin", "Unpack to a file for thin_check and other tools.")
    ],
    seeAlso: ["thin_metadata_pack", "thin_check", "thin_repair"])
}
