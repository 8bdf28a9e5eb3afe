import BlockIO
public import ThinMetadata
public import ThinTools

/// A parsed `thin_ls` command line.
public struct LsRequest: Equatable, Sendable {
  /// The metadata device or file.
  public var input: String
  /// Columns, in order.
  public var fields: [LsField]
  /// Whether to print the names of the columns first.
  public var hasHeaders: Bool
  /// Which state of the pool to read.
  public var source: MetadataView.Source
  /// Whether to print the result as JSON. to print the result as JSON.
  public var isJSON: Bool

  init(_ arguments: ParsedArguments) {
    input = arguments.positionals[0]
    fields = arguments.words("format")?.compactMap { LsField(rawValue: $0) } ?? LsField.standard
    hasHeaders = !arguments.has("no-headers")
    source = arguments.source
    isJSON = arguments.has("json")
  }
}

/// `thin_ls`.
public enum LsCommand: Command {
  /// Lists devices on `console`, by `printDevices`. Returns the exit status.
  static func runEngine(_ request: LsRequest, console: Console) throws -> Int32 {
    var options = LsOptions()
    options.source = request.source
    options.countsExclusive = request.fields.contains { $0.source == .allMappings }
    options.findsHighest = request.fields.contains { $0.source == .lastMapping }
    let device = try FileDevice(
      path: request.input, access: .readOnly, exclusive: request.source == .current)
    warnOfSize(device, console)
    let result = try ThinLs.run(device, options: options, progress: console.makeProgress())
    try printDevices(
      result.rows, dataBlockSectors: result.dataBlockSectors, request: request, console: console)
    return ExitStatus.ok.rawValue
  }

  /// Prints `rows` in the format that the request selects.
  static func printDevices(
    _ rows: [LsRow], dataBlockSectors: UInt32, request: LsRequest, console: Console
  ) throws(BlockIOError) {
    if !request.isJSON {
      let table = LsTable(
        fields: request.fields, hasHeaders: request.hasHeaders, dataBlockSectors: dataBlockSectors)
      return try table.write(rows, to: console.output)
    }
    var json = JSONWriter(console.output)
    try json.beginObject()
    try json.member("data_block_sectors", UInt64(dataBlockSectors))
    try json.key("devices")
    try json.beginArray()
    for row in rows {
      try json.beginObject()
      for field in request.fields {
        try json.member(
          field.rawValue.lowercased(), field.number(row, dataBlockSectors: dataBlockSectors))
      }
      try json.endObject()
    }
    try json.endArray()
    try json.endObject()
    try json.finish()
  }

  /// Checks the kind of the input before the engine opens it.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let request = LsRequest(arguments)
    try InputChecks.requireMetadata(request.input)
    return try InputChecks.explaining(request.input) {
      try runEngine(request, console: console)
    }
  }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "ls", fieldName: "thin_ls",
    summary: "list the thin devices of a pool",
    description: [
      "Prints a line for each thin device, in the order of their ids. The fields are:",
      LsField.allCases.map { "\($0.rawValue): \($0.meaning)." }.joined(separator: "\n"),
      """
      Exclusive and shared blocks require reading every mapping of the pool; the other fields are \
      quick. The pool must be inactive, unless -m is given.
      """,
    ],
    options: [
      OptionSpec(
        "format", short: "o",
        value: .required(placeholder: "FIELDS", .list(LsField.allCases.map(\.rawValue))),
        help: """
          Fields to print, separated by commas. \
          Default: \(LsField.standard.map(\.rawValue).joined(separator: ",")).
          """),
      OptionSpec("no-headers", help: "Leave out the line with the names of the fields."),
      .metadataSnapshot(
        "List the devices of the pool's metadata snapshot; works while the pool is active."),
      OptionSpec(
        "json",
        help: """
          Print one JSON object: data_block_sectors, and devices with the chosen fields in lower \
          case, sizes in bytes. A value that is unknown or not applicable is null.
          """),
      .verbose, .ioEngine,
    ],
    positionals: [PositionalSpec("INPUT", help: "Metadata device, or a file with a copy of it.")],
    examples: [
      ("$ /dev/mapper/vg-pool_tmeta", "List the devices of an inactive pool."),
      (
        "$ -m -o DEV,EXCLUSIVE,SHARED /dev/mapper/vg-pool_tmeta",
        "Show what deleting each device would free."
      ),
      ("$ --no-headers -o DEV pool.bin", "Ids alone, for a script."),
    ],
    seeAlso: ["thin_check", "thin_dump"])
}
