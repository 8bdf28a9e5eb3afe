import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import Targets
import ThinTools

/// The devices to make so that a pool and its volumes are served, in order.
struct PoolPlan {
  var devices: [ConciseTable.Device] = []
  /// What the user should know.
  var notes: [String] = []
}

extension PoolPlan {
  /// The devices for a pool on two devices or files.
  init(_ options: ServeOptions, metadata: String, data: String) throws(ToolError) {
    var pool = try PoolInspection(
      metadata: metadata, data: data, isForReading: options.isReadOnly)
    if pool.blockCount > pool.knownBlockCount, !options.isReadOnly {
      notes.append(
        "data has grown from \(pool.knownBlockCount) to \(pool.blockCount) blocks, which are taken in"
      )
    }
    var features = options.features
    if options.isReadOnly { features.insert(.readOnly) }
    // A twentieth of all, but no more than is enough for somebody to act upon.
    let lowWater = min(pool.blockCount / 20, (16 << 30) / (pool.blockSectors * 512))
    let target = ThinPoolTarget(
      metadataDevice: NameMangling.word(metadata), dataDevice: NameMangling.word(data),
      blockSectors: pool.blockSectors, lowWaterBlocks: options.lowWaterBlocks ?? max(1, lowWater),
      features: features)
    add(
      options.name, ThinPoolTarget.type, target.parameters,
      sectors: pool.blockCount * pool.blockSectors)
    let wanted = try volumes(options, &pool, metadata)
    notes = pool.notes + notes
    for volume in wanted {
      guard volume.name != options.name else {
        throw ToolError(.refused, "'\(volume.name)' is the name of the pool itself (see --name)")
      }
      let thin = ThinTarget(
        pool: "/dev/mapper/\(NameMangling.word(options.name))", id: volume.id,
        externalOrigin: volume.origin.map { NameMangling.word($0) })
      add(
        volume.name, ThinTarget.type, thin.parameters, sectors: volume.sectors ?? 0,
        isReadOnly: options.isReadOnly)
    }
  }

  private mutating func add(
    _ name: String, _ type: String, _ parameters: String, sectors: UInt64, isReadOnly: Bool = false
  ) {
    let line = TableLine(start: 0, length: sectors, type: type, parameters: parameters)
    devices.append(ConciseTable.Device(name: name, isReadOnly: isReadOnly, table: [line]))
  }

  /// The volumes that are asked for, or else one for every device, each with its size.
  private mutating func volumes(
    _ options: ServeOptions, _ pool: inout PoolInspection, _ metadata: String
  ) throws(ToolError) -> [VolumeSpec] {
    let isEverything = options.volumes.isEmpty
    let wanted =
      isEverything
      ? try pool.deviceIDs().map { VolumeSpec(name: "thin\($0)", id: $0, sectors: nil) }
      : options.volumes
    var volumes: [VolumeSpec] = []
    let origins = OriginRecords(metadata: metadata)?.load() ?? [:]
    for var volume in wanted {
      if let origin = origins[UInt64(volume.id)], volume.origin == nil, !volume.hasNoOrigin {
        let fault = OriginRecords.need("thin device \(volume.id)", origin)
        let size = volume.sectors.map { "\($0)s" } ?? "SIZE"
        let advice =
          "give --volume \(volume.name)=\(volume.id):\(size):\(origin), or - in place of that"
        guard isEverything else { throw ToolError(.refused, "\(fault)\n  \(advice)") }
        notes.append("warning: \(fault); it is not served: \(advice)")
        continue
      }
      if volume.sectors == nil {
        do throws(ToolError) {
          volume.sectors = try pool.mappedSectors(volume.id)
        } catch {
          // One of many does not keep the others from being served.
          guard isEverything else { throw error }
          notes.append("\(error): it is not served (give --volume NAME=\(volume.id):SIZE)")
          continue
        }
        notes.append(
          "\(volume.name): \(volume.sectors ?? 0) sectors, up to the last block mapped; how large it was "
            + "made is not known (give --volume \(volume.name)=\(volume.id):SIZE)")
      }
      volumes.append(volume)
    }
    return volumes
  }

  /// The devices of a file of concise tables, or of one device to a line.
  init(tables path: String, isReadOnly: Bool) throws(ToolError) {
    let text = try Self.contents(path)
    var fault: ConciseTable.FormatError?
    let list = text.split(separator: "\n").filter { !$0.hasPrefix("#") }.joined(separator: ";")
    ConciseTable.parse(list) { (result: Result<ConciseTable.Device, ConciseTable.FormatError>) in
      switch result {
      case .success(var device):
        // Some tables are not to be read-only, a pool's; that nothing is written is seen to elsewhere.
        let isWritable = device.table.contains {
          TargetType.named($0.type)?.traits.contains(.alwaysWritable) == true
        }
        device.isReadOnly = device.isReadOnly || isReadOnly && !isWritable
        devices.append(device)
      case .failure(let error): fault = error
      }
    }
    if let fault {
      throw ToolError(.refused, "\(path): \(fault.messages.joined(separator: " "))")
    }
  }

  private static func contents(_ path: String) throws(ToolError) -> String {
    do throws(BlockIOError) {
      let bytes = try WholeFile.bytes(at: path, upTo: 16 << 20)
      if let text = String(validating: bytes, as: UTF8.self) { return text }
    } catch {
      guard error.code == EFBIG else { throw ToolError(error.code, error.description) }
    }
    throw ToolError(.refused, "\(path) is no file of tables")
  }
}
