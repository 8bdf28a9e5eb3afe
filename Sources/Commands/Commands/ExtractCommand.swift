import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import ThinFormat
import ThinMetadata
public import ThinTools

/// What `dmthin extract` is asked to do.
struct ExtractRequest {
  var metadata: String
  var data: String
  /// The external origin of the device.
  var origin: String?
  /// The device; nil for all of them.
  var id: ThinID?
  /// The image; nil where nothing is written.
  var output: String?
  /// The folder for the images of all devices.
  var folder: String?
  var map: String?
  var byteCount: UInt64?
  var retries: Int
  var isDry: Bool
  var isJSON: Bool
  var force: Bool
  var metadataOffset: UInt64
  var dataOffset: UInt64
  var options: RescueOptions

  init(_ arguments: ParsedArguments) {
    metadata = arguments.text("metadata") ?? ""
    data = arguments.text("data") ?? ""
    origin = arguments.text("origin")
    id = arguments.positionals.first.flatMap { UInt64($0) }.map { ThinID($0) }
    isDry = arguments.has("dry-run")
    output = arguments.text("output")
    folder = arguments.text("all")
    map = arguments.text("map")
    byteCount = arguments.text("size").flatMap { try? DeviceSize.sectors($0) * 512 }
    retries = Int(clamping: arguments.number("retry") ?? 0)
    isJSON = arguments.has("json")
    force = arguments.has("force")
    metadataOffset = arguments.offset("metadata-offset")
    dataOffset = arguments.offset("data-offset")
    options = arguments.rescue
  }
}

extension ParsedArguments {
  /// The options of a rescue that choose what is salvaged.
  public var rescue: RescueOptions {
    var options = RescueOptions()
    options.source = source
    options.salvage = salvage
    return options
  }

  /// A byte at which metadata or data begins.
  public func offset(_ name: String) -> UInt64 {
    text(name).flatMap { try? DeviceSize.sectors($0) * 512 } ?? 0
  }
}

extension OptionSpec {
  /// Options of a rescue that choose what is salvaged, and where metadata and data are.
  public static let rescue: [OptionSpec] = [
    .metadataSnapshot(
      """
      Read the pool's metadata snapshot, which works while the pool is active. What is written to a volume \
      meanwhile may be in its image, or not: read a snapshot that is not written to.
      """),
    offset("metadata-offset", "The byte of the metadata device or file where the metadata begins"),
    offset("data-offset", "The byte of the data device or file where the pool's data begins"),
    .generation(
      """
      Read the superblock's generation, the newest that is whole, or the one whose metadata index or \
      metadata snapshot is at this block. Default: the superblock's, unless a whole one is newer for certain.
      """, conflicts: ["metadata-snap"]),
    .prefer(), .includeDeleted(),
    .dataBlockSize("Data block size in sectors of 512 bytes, where the superblock has lost it."),
    .dataBlockCount("Data blocks of the pool; used where it is more than the metadata says."),
  ]

  private static func offset(_ name: String, _ what: String) -> OptionSpec {
    OptionSpec(
      name, value: .required(placeholder: "OFFSET", size), help: "\(what), like 1m or 2048s.")
  }

  /// A size by lvm2's rule.
  static let size = ValueKind.checked { text in
    do throws(DeviceSize.Malformed) {
      _ = try DeviceSize.sectors(text)
      return nil
    } catch {
      return error.description
    }
  }
}

/// `dmthin extract`.
enum ExtractCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    if let text = arguments.positionals.first, UInt64(text) == nil {
      throw UsageError("'\(text)' is no id of a thin device: expected a number")
    }
    let request = ExtractRequest(arguments)
    try check(request)
    try InputChecks.requireInput(request.metadata)
    try InputChecks.requireInput(request.data)
    if let origin = request.origin { try InputChecks.requireInput(origin) }
    return try InputChecks.explaining(request.metadata) {
      try extract(request, console)
    }
  }

  private static func check(_ request: ExtractRequest) throws(UsageError) {
    guard (request.id != nil) != (request.folder != nil) || request.isDry && request.id == nil
    else {
      throw UsageError(
        request.id == nil ? "no thin device is given" : "--all takes every thin device",
        tip: "give ID and --output FILE, or --all FOLDER; --dry-run alone lists all thin devices")
    }
    guard request.id == nil || request.output != nil || request.isDry else {
      throw UsageError("the following required arguments were not provided:\n  --output <FILE>")
    }
    guard
      request.id != nil
        || request.output == nil && request.byteCount == nil && request.map == nil
          && request.origin == nil
    else {
      throw UsageError("--output, --map, --size and --origin are for one thin device: give its ID")
    }
  }

  private static func extract(_ request: ExtractRequest, _ console: Console) throws -> Int32 {
    let isExclusive = request.options.source == .current
    let progress = console.makeProgress()
    let metadata = try RescueSource.metadata(
      request.metadata, from: request.metadataOffset, exclusive: isExclusive, progress: progress,
      onNotice: { console.warning($0) })
    let index = try RescueIndex(metadata, options: request.options, progress: progress)
    // Both may be parts of one device, which can be claimed once.
    let isOther = FileIdentity(path: request.metadata) != FileIdentity(path: request.data)
    let data = try RescueSource.data(
      request.data, from: request.dataOffset, exclusive: isExclusive && isOther)
    var source = ExtractJob.Source(
      metadataPath: request.metadata, dataPath: request.data,
      data: ExtractionSource(data.device, sectorBytes: data.sectorBytes),
      transactionID: index.transactionID)
    if let path = request.origin {
      // Other devices may stand on it as well.
      let origin = try RescueSource.data(path, exclusive: false)
      let whole = ExtractionSource(origin.device, sectorBytes: origin.sectorBytes)
      // The kernel shows all sectors of 512 bytes that a file has.
      guard origin.device.byteCount - whole.byteCount < UInt64(Limits.sectorBytes) else {
        throw ToolError(
          .refused,
          "\(path) ends within \(origin.sectorBytes) bytes, which can only be read together: make a loop "
            + "device of it (losetup --find --show --read-only \(path)), and give that as --origin")
      }
      source.originPath = path
      source.origin = whole
    }
    let text = ExtractText(request, index)
    for note in text.notes { console.warning(note) }
    let jobs = try jobs(request, index, source)
    if let output = request.output, !request.isDry, request.map == nil,
      FileIdentity(path: output)?.isBlockDevice == true
    {
      throw UsageError("an image on a block device needs a map: give --map FILE")
    }
    if request.byteCount == nil, !jobs.isEmpty {
      console.note(
        "The metadata does not record the size of a volume: an image ends with its last mapped block"
          + (request.origin == nil ? "" : ", or with the external origin")
          + ". If the volume was larger, give --size.")
    }
    let origins = OriginRecords(metadata: request.metadata)?.load() ?? [:]
    for job in jobs where !request.isDry {
      for line in text.before(job) { console.warning(line) }
      if request.origin == nil, let origin = origins[job.device.id] {
        console.warning(
          OriginRecords.need("thin device \(job.device.id)", origin)
            + "; they are holes of the image. With --origin \(origin) they are copied")
      }
      try job.run(retries: request.retries, progress: progress)
      if !request.isJSON { for line in text.after(job) { try console.line(line) } }
    }
    if request.isJSON {
      try text.writeJSON(jobs, to: console.output)
    } else {
      if request.isDry { for line in jobs.flatMap(text.planned) { try console.line(line) } }
      for line in text.end(jobs) { try console.line(line) }
    }
    return status(jobs, text).rawValue
  }

  /// 64 if anything is lost with metadata, 74 if only data cannot be read.
  private static func status(_ jobs: [ExtractJob], _ text: ExtractText) -> ExitStatus {
    let statuses = jobs.map(\.status)
    if !text.lost.isEmpty || statuses.contains(.damaged) { return .damaged }
    return statuses.first { $0 != .ok } ?? .ok
  }

  private static func jobs(
    _ request: ExtractRequest, _ index: RescueIndex, _ source: ExtractJob.Source
  ) throws(ToolError) -> [ExtractJob] {
    if let folder = request.folder, !request.isDry, unsafe mkdir(folder, 0o700) != 0,
      errno != EEXIST
    {
      throw ToolError(BlockIOError(.create, path: folder, code: errno))
    }
    var jobs: [ExtractJob] = []
    for device in try devices(request, index) {
      let path = request.folder.map { "\($0)/thin-\(device.id).img" } ?? request.output
      let job = try ExtractJob(
        index, device, source, byteCount: request.byteCount, path: request.isDry ? nil : path,
        mapPath: request.map, force: request.force)
      if job.plan.byteCount == 0, !device.isWhole, request.id != nil {
        throw ToolError(
          .damaged, "nothing of thin device \(device.id) can be read: its mapping tree is lost")
      }
      jobs.append(job)
    }
    return jobs
  }

  private static func devices(_ request: ExtractRequest, _ index: RescueIndex) throws(ToolError)
    -> [RescueDevice]
  {
    guard let id = request.id else { return index.devices }
    if let device = index[id] { return [device] }
    if index.report.leftOut.contains(where: { $0.id == id }) {
      throw ToolError(
        .damaged,
        "thin device \(id) cannot be read: its mapping tree is lost, or it was deleted (see "
          + "--include-deleted)")
    }
    let present = index.devices.prefix(20).map { "\($0.id)" }.joined(separator: ", ")
    throw ToolError(
      .refused,
      "the pool has no thin device \(id); it has "
        + (present.isEmpty ? "none" : present + (index.devices.count > 20 ? ", ..." : "")))
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "extract", fieldName: "dmthin-extract",
    summary: "copy thin volumes out of a pool, damaged or not",
    description: [
      """
      Reads the metadata of a pool as thin_repair does, and copies a thin device, or all of them, from \
      the data device into files: everything that can still be reached, without a repair and without \
      the kernel. Nothing is written to metadata or data. The pool must be inactive, unless -m is given.
      """,
      """
      An image is sparse: what is not mapped is a hole, or with --origin a copy of the external origin. \
      What is lost reads as zeros and is in the map, a file in the form of GNU ddrescue: + is in the \
      image, - is lost with metadata or cannot be read. ddrescuelog -t and ddrescueview show it. Ranges \
      that may not be the latest are named in its comments.
      """,
      """
      Bad sectors of the data device or the origin are read around: first everything else is read, then \
      what failed is halved down to the sector, then --retry passes follow. The image is \
      FILE.unfinished until everything was tried. Killed at any point, the same command continues with \
      the map and reads only what is not in the image. Given again for an image with bad sectors, it \
      tries these again.
      """,
      """
      META may also be a file of thin_metadata_pack. Metadata and data may lie inside larger devices \
      (--metadata-offset, --data-offset). The commands that show the content of an image, read-only, \
      are printed at the end.
      """,
    ],
    options: [
      OptionSpec(
        "metadata", value: .required(placeholder: "META", .path),
        help: "The pool's metadata: a device, a file, or a packed file.", isRequired: true),
      OptionSpec(
        "data", value: .required(placeholder: "DATA", .path),
        help: "The pool's data device or file.", isRequired: true),
      OptionSpec(
        "origin", value: .required(placeholder: "ORIGIN", .path),
        help: """
          The external origin that the thin device was activated over: the device or file shows where \
          nothing is mapped.
          """, conflicts: ["all"]),
      OptionSpec(
        "output", short: "o", value: .required(placeholder: "FILE", .path),
        help: """
          The image to write: a file, or a block device, whose unmapped ranges are zeroed; a device \
          needs --map.
          """),
      OptionSpec(
        "all", value: .required(placeholder: "FOLDER", .path),
        help:
          "Copy every thin device, to thin-ID.img in this folder, with thin-ID.img.map beside it.",
        conflicts: ["output", "map", "size"]),
      OptionSpec(
        "size", value: .required(placeholder: "SIZE", OptionSpec.size),
        help: """
          Size of the volume, like 204800s or 10g; the metadata does not record it. Default: the end of \
          the last mapped block, or of the external origin if that is later.
          """),
      OptionSpec(
        "map", value: .required(placeholder: "FILE", .path),
        help: "The map. Default: the image's name with .map."),
      OptionSpec(
        "retry", value: .required(placeholder: "NUMBER", .number(max: 1000)),
        help: "Passes over sectors that could not be read. Default: 0."),
      OptionSpec(
        "dry-run", help: "Write nothing: print what would be copied, and what is lost."),
      OptionSpec(
        "force", short: "f",
        help: "Begin again, and replace images and maps, or overwrite a device that is not empty."),
    ] + OptionSpec.rescue + [.json, .quiet],
    positionals: [
      PositionalSpec(
        "ID", help: "The id of a thin device, as thin_ls prints it.", isRequired: false)
    ],
    examples: [
      (
        "$ --metadata meta --data data --dry-run",
        "List what can be saved of each thin device."
      ),
      (
        "$ --metadata meta --data data 1 -o root.img --size 100g --retry 2",
        "Copy thin device 1, and try bad sectors twice more."
      ),
      (
        "$ --metadata pool.pack --data /dev/vg/pool_tdata --all saved",
        "Copy every thin device, with metadata from a packed file."
      ),
      ("ddrescuelog -t root.img.map", "Show how much of an image is there."),
    ],
    exitStatus: [
      (.ok, "Everything was copied."),
      (
        .damaged,
        "Something is lost with metadata, or may not be the latest. What can be read is in the image."
      ),
      (
        .inputOutput,
        "Sectors of the data device or the origin cannot be read, and everything else is in the image; "
          + "or writing failed."
      ),
    ],
    seeAlso: ["thin_repair", "thin_ls", "dmthin-serve", "ddrescuelog"])
}
