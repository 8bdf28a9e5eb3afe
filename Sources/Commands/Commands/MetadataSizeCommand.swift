import ThinTools

/// `thin_metadata_size`.
public enum MetadataSizeCommand: Command {
  /// Computes and prints the size.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let estimate = try MetadataSizeEstimate(
      poolBytes: try parseStorageSize(arguments.text("pool-size") ?? ""),
      blockBytes: try parseStorageSize(arguments.text("block-size") ?? ""),
      devicesMax: arguments.number("max-thins") ?? 0)
    if estimate.isLimited {
      console.warning(
        "metadata cannot be large enough for this pool; use larger blocks, or more than one pool")
    }
    if arguments.has("json") {
      var json = JSONWriter(console.output)
      try json.beginObject()
      try json.member("metadata_blocks", estimate.blocks)
      try json.member("metadata_sectors", estimate.bytes / 512)
      try json.member("metadata_bytes", estimate.bytes)
      try json.member("limited", estimate.isLimited)
      try json.endObject()
      try json.finish()
      return 0
    }
    let unit = arguments.text("unit").flatMap { StorageUnit($0) } ?? .sector
    let number = formatSize(bytes: estimate.bytes, in: unit)
    let suffix =
      switch arguments.text("numeric-only") {
      case "short": unit.letter
      case "long": "\(unit.rawValue)s"
      default: arguments.has("numeric-only") ? "" : " \(unit.rawValue)s"
      }
    try console.line(number + suffix)
    return 0
  }

  private static let size = ValueKind.checked { text in
    do throws(ToolError) {
      _ = try parseStorageSize(text)
      return nil
    } catch {
      return error.message
    }
  }

  private static let unit = ValueKind.checked { text in
    StorageUnit(text) == nil ? "unknown unit" : nil
  }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "size", fieldName: "thin_metadata_size",
    summary: "tell how much metadata a thin pool needs",
    description: [
      """
      Prints the size of the metadata device for a pool in which every data block is mapped, with \
      the leaves of the mapping trees half full, as they are after random writes. Snapshots that \
      diverge need more: about 33 bytes for each block that is written after the snapshot. The \
      size is at least the minimum for a pool, and at most the maximum of the format; if that \
      maximum is too little, a warning is printed.
      """,
      """
      Sizes are a whole number and a unit: b (bytes), s (sectors of 512 bytes), k, m, g, t, p, e \
      (powers of 1024) or K, M, G, T, P, E (powers of 1000); also KiB or kibibyte, kB or \
      kilobyte, and so on. Without a unit they are in sectors.
      """,
    ],
    options: [
      OptionSpec(
        "block-size", short: "b", value: .required(placeholder: "SIZE[bskmg]", size),
        help: "Size of a data block: a multiple of 64 KiB, at most 1 GiB.", isRequired: true),
      OptionSpec(
        "pool-size", short: "s", value: .required(placeholder: "SIZE[bskmgtp]", size),
        help: "Size of the data device.", isRequired: true),
      OptionSpec(
        "max-thins", short: "m", value: .required(placeholder: "NUM", .number),
        help: "The most thin devices and snapshots that the pool will have.", isRequired: true),
      OptionSpec(
        "unit", short: "u", value: .required(placeholder: "UNIT", unit),
        help: "Unit of the result, as above. Default: sector."),
      OptionSpec(
        "numeric-only", short: "n",
        value: .optional(placeholder: "OPT", .choice(["short", "long"])),
        help: """
          Print the number alone; with =short, the letter of the unit after it, with =long, its \
          name.
          """),
      OptionSpec(
        "json",
        help: """
          Print one JSON object: metadata_blocks of 4096 bytes, metadata_sectors, metadata_bytes, \
          and whether the format's maximum limits it.
          """),
    ],
    examples: [
      ("$ -b 64k -s 1t -m 1000", "A pool of 1 TiB in blocks of 64 KiB: 1073232 sectors."),
      ("$ -b 256k -s 20t -m 50 -u m -n", "The number of mebibytes alone."),
    ],
    seeAlso: ["thin_restore"])
}
