public import BlockIO
import PersistentData
public import ThinFormat
public import ThinMetadata

/// The options of `ThinDump`.
public struct DumpOptions: Equatable, Sendable {
  /// Format of the output.
  public var format = DumpFormat.xml
  /// The state of the pool to read.
  public var source = MetadataView.Source.current
  /// Whether to leave out the mappings.
  public var skipMappings = false
  /// The devices to dump; nil for all.
  public var deviceIDs: Set<ThinID>?
  /// Whether to salvage damaged metadata.
  public var repair = false
  /// What a repair takes. Its overrides also apply without one.
  public var salvage = SalvageOptions()

  /// Everything, as XML.
  public init() {}
}

/// Values from the user in place of those that a damaged superblock or dump has lost.
public struct SuperblockOverrides: Equatable, Sendable {
  /// Data block size in sectors.
  public var dataBlockSectors: UInt32?
  /// Data blocks of the pool; used only if larger.
  public var dataBlockCount: UInt64?
  /// Transaction id; used only if larger.
  public var transactionID: UInt64?

  /// No values.
  public init() {}
}

/// `thin_dump`.
public enum ThinDump {
  /// Writes a pool's metadata as text.
  ///
  /// Memory: that of `LeafSequence` and `SharedRuns`, independent of the number of mappings; for a
  /// repair also that of `TreeForest`.
  /// - Parameter onLoss: receives a line for everything that a repair cannot save.
  /// - Throws: `ToolError`, with `.refused` before anything is written if the pool does not have a
  ///   requested device, and with `.inputOutput` if the output fails. The output is then incomplete,
  ///   which its missing last line shows.
  public static func run(
    _ device: any BlockDevice, to sink: ByteSink, options: DumpOptions, progress: Progress,
    onLoss: (String) -> Void = { _ in }
  ) throws(ToolError) {
    let pool: DumpSource
    if options.repair {
      let log = SalvageLog()
      defer { for line in log.lines { onLoss(line) } }
      pool = try salvage(device, options: options.salvage, progress: progress, log: log)
    } else {
      pool = try DumpSource(device, options)
    }
    let writer = DumpWriter(sink: sink, format: options.format)
    let devices = try chosen(options.deviceIDs, of: pool.devices)
    if options.skipMappings {
      try writer.begin(pool.header)
      for device in devices {
        try writer.beginDevice(device.id, device.details)
        try writer.endDevice()
      }
      try writer.end()
    } else {
      var dumper = Dumper(pool, writer, progress)
      try dumper.write(pool.header, devices)
    }
    try written { () throws(BlockIOError) in try sink.flush() }
  }
}

/// The devices with these ids. All must exist, because a dump without one of them would look
/// complete.
private func chosen(_ ids: Set<ThinID>?, of devices: [ThinDevice]) throws(ToolError)
  -> [ThinDevice]
{
  guard let ids else { return devices }
  let found = devices.filter { ids.contains($0.id) }
  guard found.count < ids.count else { return found }
  func list(_ ids: [ThinID]) -> String {
    ids.prefix(20).map { "\($0)" }.joined(separator: ", ") + (ids.count > 20 ? ", ..." : "")
  }
  let missing = list(ids.subtracting(found.map(\.id)).sorted())
  let present = devices.isEmpty ? "it has none" : "it has \(list(devices.map(\.id)))"
  throw ToolError(
    .refused,
    "the pool has no thin device \(missing); \(present). Nothing was dumped; thin_ls lists all "
      + "thin devices.")
}

/// The devices to dump, with access to the leaves of their mapping trees.
struct DumpSource {
  let reader: BlockReader
  let header: DumpHeader
  let devices: [ThinDevice]
  /// Data blocks of the pool; mappings beyond are impossible.
  let dataBlockCount: UInt64
  /// The largest time of a mapping; larger ones are written as this one.
  let mappingTimeMax: UInt32
  let stream: BlockStream
  private let leaves: LeafSequence
  /// The usable part of a damaged pool; nil for a sound pool.
  let salvaged: TreeForest?
  /// The metadata snapshot, if it exists and is wanted.
  var snapshot: HeldSnapshot?

  /// A pool that must be sound.
  init(_ device: any BlockDevice, _ options: DumpOptions) throws(ToolError) {
    do throws(MetadataError) {
      let view = try MetadataView(device, source: options.source)
      reader = view.reader
      header = DumpHeader(
        view.superblock, dataBlockCount: view.dataBlockCount,
        options.salvage.overrides)
      dataBlockCount = view.dataBlockCount
      devices =
        options.skipMappings
        ? try view.deviceDetails().map { ThinDevice(id: $0.id, root: 0, details: $0.details) }
        : try view.devices()
    } catch {
      throw ToolError(error)
    }
    stream = BlockStream(device)
    leaves = LeafSequence(reader, stream: stream)
    salvaged = nil
    mappingTimeMax = Limits.timeMax
  }

  /// The usable part of a damaged pool, found by `forest`.
  init(
    salvaged forest: TreeForest, _ reader: BlockReader, _ header: DumpHeader,
    _ devices: [ThinDevice], mappingTimeMax: UInt32
  ) {
    self.mappingTimeMax = mappingTimeMax
    self.reader = reader
    self.header = header
    self.devices = devices
    dataBlockCount = header.dataBlockCount
    stream = forest.stream
    leaves = LeafSequence(reader, stream: stream)
    salvaged = forest
  }

  /// Calls `body` with the leaves of a device, in key order.
  func forEachLeaf(of device: ThinDevice, _ body: (UInt64) -> Void) throws(ToolError) {
    do throws(TreeFault) {
      if let salvaged {
        salvaged.forEachUsableLeaf(.mappings, root: device.root.rawValue, body)
      } else {
        try leaves.forEach(root: device.root.rawValue) { leaf throws(TreeFault) in body(leaf) }
      }
    } catch {
      throw ToolError(error, advice: "With --repair, what is usable can be dumped.")
    }
  }
}
