import BlockIO
import BlockServer
import DataPath
import EventLoop
import Glibc
import PoolManager
import ThinFormat
import ThinMetadata
public import ThinTools

/// What `dmthin serve --rescue` serves.
public struct RescueServing: Equatable, Sendable {
  /// The pool's metadata: a device, a file, or a packed file.
  public var metadata: String
  /// The pool's data: a device or file.
  public var data: String
  /// Where the metadata begins, in bytes.
  public var metadataOffset: UInt64 = 0
  /// Where the data begins, in bytes.
  public var dataOffset: UInt64 = 0
  /// What is salvaged.
  public var options = RescueOptions()
  /// Whether lost ranges are zeros rather than errors.
  public var lostAsZeroes = false

  /// A rescue of everything.
  public init(metadata: String, data: String) {
    self.metadata = metadata
    self.data = data
  }
}

/// Makes exports of what can be read of a damaged pool.
struct RescueExports {
  private let serving: RescueServing
  private let loop: EventLoop
  private let openDisk: (_ path: String, _ exclusive: Bool) throws(BlockIOError) -> BlockDestination
  private let note: (String) -> Void

  init(
    _ serving: RescueServing, _ loop: EventLoop, note: @escaping (String) -> Void,
    openDisk: @escaping (_ path: String, _ exclusive: Bool) throws(BlockIOError) -> BlockDestination
  ) {
    self.serving = serving
    self.loop = loop
    self.note = note
    self.openDisk = openDisk
  }

  /// The exports, of the volumes named or else of all devices.
  func make(_ volumes: [VolumeSpec]) throws(ToolError) -> [Export] {
    let isExclusive = serving.options.source == .current
    let progress = makeProgress()
    let metadata = try RescueSource.metadata(
      serving.metadata, from: serving.metadataOffset, exclusive: isExclusive, progress: progress,
      onNotice: { note("warning: \($0)") })
    let index = try RescueIndex(metadata, options: serving.options, progress: progress)
    for line in index.report.notes { note("warning: \(line)") }
    // Both may be parts of one device, which can be claimed once.
    let isOther = FileIdentity(path: serving.metadata) != FileIdentity(path: serving.data)
    let disk = try open(serving.data, exclusive: isExclusive && isOther)
    guard serving.dataOffset < disk.byteCount,
      serving.dataOffset % UInt64(disk.logicalBlockBytes) == 0
    else {
      throw ToolError(
        .refused,
        "\(serving.data) has \(disk.byteCount) bytes in sectors of \(disk.logicalBlockBytes): no data "
          + "can begin at byte \(serving.dataOffset)")
    }
    let origins = OriginRecords(metadata: serving.metadata)?.load() ?? [:]
    var exports: [Export] = []
    for volume in try self.volumes(volumes, index) {
      guard let device = index[volume.id] else { throw missing(volume, index) }
      if volume.origin == .unstated, let origin = origins[device.id] {
        note(
          "warning: \(OriginRecords.need("thin device \(device.id)", origin)); they read as zeros here"
        )
      }
      if let export = try export(volume, index, device, disk) { exports.append(export) }
    }
    return exports
  }

  private func volumes(_ named: [VolumeSpec], _ index: RescueIndex) throws(ToolError)
    -> [VolumeSpec]
  {
    guard named.isEmpty else {
      let names = Set(named.map(\.name))
      guard names.count == named.count else {
        throw ToolError(.refused, "two volumes have one name")
      }
      return named
    }
    for left in index.report.leftOut where left.root == nil {
      note("warning: thin device \(left.id ?? 0): nothing can be read, its mapping tree is lost")
    }
    return index.devices.map { VolumeSpec(name: "thin\($0.id)", id: $0.id, sectors: nil) }
  }

  private func missing(_ volume: VolumeSpec, _ index: RescueIndex) -> ToolError {
    let isLeftOut = index.report.leftOut.contains { $0.id == volume.id }
    return ToolError(
      .refused,
      isLeftOut
        ? "thin device \(volume.id) cannot be read: its mapping tree is lost, or it was deleted (see "
          + "--include-deleted)"
        : "the pool has no thin device \(volume.id)")
  }

  private func export(
    _ volume: VolumeSpec, _ index: RescueIndex, _ device: RescueDevice, _ disk: BlockDestination
  ) throws(ToolError) -> Export? {
    let sector = UInt64(disk.logicalBlockBytes)
    let layout = RescueLayout(
      index, device, dataByteCount: (disk.byteCount - serving.dataOffset) / sector * sector)
    let size = volume.sectors.map { $0 * 512 } ?? layout.knownByteCount
    if size == 0, !device.isWhole {
      note("warning: thin device \(device.id): nothing can be read, its mappings are lost")
      return nil
    }
    let plan: ExtractionPlan
    do throws(BlockIOError) {
      plan = try ExtractionPlan(layout, byteCount: size)
    } catch {
      throw ToolError(error)
    }
    let lost = plan.lostBytes + plan.beyondBytes
    var summary = "thin device \(device.id), read-only, rescued"
    if lost > 0 { summary += ", \(lost) bytes lost" }
    if !device.doubtful.isEmpty { summary += ", partly doubtful" }
    if lost > 0 {
      let how = serving.lostAsZeroes ? "they read as zeros" : "reading them fails"
      note("\(volume.name): \(lost) of \(size) bytes are lost: \(how)")
    }
    let origin = try volume.origin.path.map { path throws(ToolError) in
      try open(path, exclusive: false)
    }
    return Export(
      name: volume.name, summary: summary,
      destination: RescueVolume(
        layout, loop, disk: disk, dataOffset: serving.dataOffset, origin: origin, byteCount: size,
        lostAsZeroes: serving.lostAsZeroes),
      isReadOnly: true)
  }

  private func open(_ path: String, exclusive: Bool) throws(ToolError) -> BlockDestination {
    do throws(BlockIOError) { return try openDisk(path, exclusive) } catch {
      throw ToolError(error)
    }
  }

  /// Prints how far the reading of metadata is, every ten seconds.
  private func makeProgress() -> Progress {
    var last = Self.seconds()
    return Progress { [note] title, done, total in
      let now = Self.seconds()
      guard now - last >= 10 else { return }
      last = now
      note(total > 0 ? "\(title): \(done) of \(total)" : "\(title): \(done)")
    }
  }

  private static func seconds() -> UInt64 { EventLoop.now() / 1_000_000_000 }

  /// Commands that show what is served.
  static func commands(_ exports: [Export], sockets: [String]) -> [String] {
    guard let socket = sockets.first, let first = exports.first else { return [] }
    return MountAdvice.commands(export: first.name, socket: socket)
  }
}
