import BlockIO
import ThinFormat
import ThinMetadata
import ThinTools

/// `thin_rmap`.
enum RmapCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let path = arguments.positionals[0]
    var options = RmapOptions()
    options.source = arguments.source
    for text in arguments.texts("region") {
      guard case .success(let region) = region(text) else { continue }
      options.regions.append(Range(region))
    }
    try InputChecks.requireMetadata(path)
    return try InputChecks.explaining(path) {
      let device = try FileDevice(
        path: path, access: .readOnly, exclusive: options.source == .current)
      warnOfSize(device, console)
      if arguments.has("json") {
        try writeJSON(device, options, console)
      } else {
        try writeText(device, options, console)
      }
      return ExitStatus.ok.rawValue
    }
  }

  private static func writeText(_ device: FileDevice, _ options: RmapOptions, _ console: Console)
    throws
  {
    let sink = console.output
    // What devices that share a run have in common is made once.
    var begin = TextPiece()
    var end = TextPiece()
    try ThinRmap.run(device, options: options, progress: console.makeProgress()) {
      run, ids throws(BlockIOError) in
      unsafe begin.make { text in
        unsafe text.append("data ")
        unsafe text.append(decimal: run.dataBegin.rawValue)
        unsafe text.append("..")
        unsafe text.append(decimal: run.dataEnd.rawValue)
        unsafe text.append(" -> thin(")
      }
      unsafe end.make { text in
        unsafe text.append(") ")
        unsafe text.append(decimal: run.virtualBegin.rawValue)
        unsafe text.append("..")
        unsafe text.append(decimal: run.virtualEnd.rawValue)
        unsafe text.append("\n")
      }
      for i in ids.indices {
        try unsafe sink.write(upTo: 256) { line in
          unsafe line.append(begin)
          unsafe line.append(decimal: ids[i].rawValue)
          unsafe line.append(end)
        }
      }
    }
  }

  private static func writeJSON(_ device: FileDevice, _ options: RmapOptions, _ console: Console)
    throws
  {
    let sink = console.output
    try sink.write("{\"runs\":[")
    var isFirst = true
    try ThinRmap.run(device, options: options, progress: console.makeProgress()) {
      run, ids throws(BlockIOError) in
      for i in ids.indices {
        let comma: StaticString = isFirst ? "" : ","
        isFirst = false
        try unsafe sink.write(upTo: 256) { line in
          unsafe line.append(comma)
          unsafe line.append("{\"data_begin\":")
          unsafe line.append(decimal: run.dataBegin.rawValue)
          unsafe line.append(",\"data_end\":")
          unsafe line.append(decimal: run.dataEnd.rawValue)
          unsafe line.append(",\"dev_id\":")
          unsafe line.append(decimal: ids[i].rawValue)
          unsafe line.append(",\"begin\":")
          unsafe line.append(decimal: run.virtualBegin.rawValue)
          unsafe line.append(",\"end\":")
          unsafe line.append(decimal: run.virtualEnd.rawValue)
          unsafe line.append("}")
        }
      }
    }
    try sink.write("]}\n")
  }

  /// A value of `--region`: two numbers separated by two dots.
  private enum Region {
    case success(Range<UInt64>)
    case failure(String)
  }

  private static func region(_ text: String) -> Region {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 3, parts[1].isEmpty else {
      return .failure("badly formed region: expected BEGIN..END")
    }
    guard let begin = UInt64(parts[0]), let end = UInt64(parts[2]) else {
      return .failure("invalid digit found in string: expected BEGIN..END in decimal digits")
    }
    guard begin < end else { return .failure("end <= begin") }
    return .success(begin..<end)
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "rmap", fieldName: "thin_rmap",
    summary: "list the thin devices that use each data block",
    description: [
      """
      Prints a line for each run of data blocks that belongs to a run of virtual blocks of a thin \
      device, sorted by data block: data BEGIN..END -> thin(ID) BEGIN..END. The END is not part of \
      the run. A shared data block has a line for each device that uses it; an unused one has no \
      line.
      """,
      "The pool must be inactive, unless -m is given.",
    ],
    options: [
      OptionSpec(
        "region",
        value: .required(
          placeholder: "BLOCK_RANGE",
          .checked {
            if case .failure(let fault) = region($0) { return fault }
            return nil
          }),
        help: """
          Print only these data blocks, as BEGIN..END, without END. May be repeated. Default: all \
          data blocks.
          """, isRepeatable: true),
      .metadataSnapshot(
        "Look at the pool's metadata snapshot; works while the pool is active."),
      OptionSpec(
        "json",
        help: """
          Print one JSON object: runs, each with data_begin, data_end, dev_id, begin and end in blocks.
          """),
      .ioEngine,
    ],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      (
        "$ --region 1000..1001 /dev/mapper/vg-pool_tmeta",
        "List the devices that use data block 1000."
      ),
      ("$ -m /dev/mapper/vg-pool_tmeta", "List all data blocks of an active pool."),
    ],
    seeAlso: ["thin_ls", "thin_dump", "thin_delta"])
}
