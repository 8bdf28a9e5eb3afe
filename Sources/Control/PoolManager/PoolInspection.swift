import BlockIO
import DeviceMapper
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata
public import ThinTools

/// Checks the two devices of a pool before it is served. Both stay locked as long as this value
/// lives, so that the results stay valid.
public struct PoolInspection {
  private let metadata: FileDevice
  private let data: FileDevice
  private let superblock: Superblock
  /// Sectors in a data block.
  public var blockSectors: UInt64 { UInt64(superblock.dataBlockSectors) }
  /// The number of whole data blocks on the data device.
  public var blockCount: UInt64 { data.byteCount / 512 / blockSectors }
  /// The number of data blocks in the metadata.
  public var knownBlockCount: UInt64 { superblock.dataSpaceMap.blockCount }

  /// Whether the pool will only be read: then unreadable parts are left out.
  private let isForReading: Bool
  /// Messages for the user about parts that are left out.
  public private(set) var notes: [String] = []

  /// Opens both devices, and checks that they belong together.
  /// - Parameter isForReading: nothing will be written. Then a data device that is too small, and
  ///   damage outside of the mappings, are accepted.
  public init(metadata metadataPath: String, data dataPath: String, isForReading: Bool = false)
    throws(ToolError)
  {
    self.isForReading = isForReading
    try Self.requireDistinct(metadataPath, dataPath)
    metadata = try Self.open(metadataPath)
    data = try Self.open(dataPath)
    // The kernel's target would format it at once.
    if let isBlank = try? PoolMetadata.isUnformatted(metadata), isBlank {
      // A data device may begin with zeros, and a superblock may have been wiped: formatting would
      // destroy either.
      let found = Recognizer.recognize(metadataPath).flatMap {
        $0 == .zeros ? nil : $0.advice(metadataPath)
      }
      throw ToolError(
        .refused,
        "\(metadataPath) holds no metadata"
          + ((Self.exchanged(metadataPath, dataPath, data) ?? found).map { "\n\($0)" }
            ?? ": see 'dmthin pool format'"))
    }
    do throws(MetadataError) {
      superblock = try MetadataView(metadata, source: .current).superblock
    } catch {
      let advice =
        Self.exchanged(metadataPath, dataPath, data)
        ?? Recognizer.recognize(metadataPath)?.advice(metadataPath)
        ?? "a pool without superblock cannot be served; save what is left of it with: "
        + "thin_dump --repair \(metadataPath)"
      throw ToolError(.metadata(error), "\(metadataPath): \(error)\n\(advice)")
    }
    if isForReading, blockCount < knownBlockCount, blockCount > 0 {
      notes.append(
        "warning: \(dataPath) has \(blockCount) blocks of \(blockSectors) sectors, and the pool "
          + "\(knownBlockCount): what lies beyond its end cannot be read")
      return
    }
    try Self.requireFit(superblock, metadataPath, data)
    guard blockCount > 0 else {
      throw ToolError(.refused, "\(dataPath) is smaller than a block of \(blockSectors) sectors")
    }
  }

  /// Refuses metadata and data on the same device or file, or on two that share blocks.
  static func requireDistinct(_ metadata: String, _ data: String) throws(ToolError) {
    guard let left = FileIdentity(path: metadata), let right = FileIdentity(path: data),
      left.overlaps(right)
    else { return }
    throw ToolError(.refused, "metadata and data cannot be on the same device")
  }

  /// Refuses a data device with fewer blocks than the pool in `metadata` has.
  /// - Returns: the number of whole data blocks on the device.
  @discardableResult
  static func requireFit(_ superblock: Superblock, _ metadata: String, _ data: FileDevice)
    throws(ToolError) -> UInt64
  {
    let blockSectors = UInt64(superblock.dataBlockSectors)
    let present = data.byteCount / UInt64(Limits.sectorBytes) / blockSectors
    let known = superblock.dataSpaceMap.blockCount
    guard present >= known else {
      throw ToolError(
        .refused,
        "\(data.path) has \(present) blocks of \(blockSectors) sectors, but the pool in "
          + "\(metadata) has \(known): it is not its data device, or has become smaller")
    }
    return present
  }

  /// A sentence for metadata and data that were given the wrong way round; otherwise nil.
  private static func exchanged(_ metadataPath: String, _ dataPath: String, _ data: FileDevice)
    -> String?
  {
    guard (try? MetadataView(data, source: .current)) != nil else { return nil }
    return
      "\(dataPath) holds metadata: the two are swapped, so give --metadata \(dataPath) "
      + "--data \(metadataPath)"
  }

  private static func open(_ path: String) throws(ToolError) -> FileDevice {
    do throws(BlockIOError) {
      return try FileDevice(path: path, access: .readOnly, exclusive: true)
    } catch {
      throw ToolError(error)
    }
  }

  /// Checks the superblock and the device tree of a pool that is about to be activated, as volume
  /// managers do.
  /// - Parameter metadata: its device, open.
  static func activatable(_ metadata: FileDevice, _ request: PoolActivation) throws(ToolError)
    -> Superblock
  {
    let superblock: Superblock
    do throws(MetadataError) {
      superblock = try MetadataView(metadata, source: .current).superblock
    } catch {
      throw ToolError(
        .metadata(error),
        "\(request.metadata) cannot be activated: \(error)\n  see: dmthin pool doctor "
          + "\(shellQuoted(request.metadata)) --data \(shellQuoted(request.data))")
    }
    guard !request.skipsCheck else { return superblock }
    if superblock.needsCheck && !request.features.contains(.readOnly) {
      throw ToolError(
        .needsCheck,
        "\(request.metadata) needs a check before it is activated: thin_check --auto-repair "
          + shellQuoted(request.metadata))
    }
    var options = CheckOptions()
    options.skipMappings = true
    let report = try ThinCheck.run(metadata, options: options, progress: Progress())
    guard !report.isDamaged else {
      let first = report.findings.first?.message ?? "it is damaged"
      throw ToolError(
        .damaged,
        "\(request.metadata) cannot be activated: \(first)\n  see all with: thin_check "
          + shellQuoted(request.metadata))
    }
    return superblock
  }

  /// Ids of all thin devices, ascending. For reading, those that can be read. Ids that no table can name are
  /// left out, with a note for each.
  mutating func deviceIDs() throws(ToolError) -> [ThinID] {
    let ids: [ThinID]
    do throws(MetadataError) {
      let view = try MetadataView(metadata, source: .current)
      if isForReading {
        let (roots, faults) = view.readableDeviceRoots()
        for fault in faults {
          notes.append("damaged: \(fault); the thin devices in it are not served")
        }
        ids = roots.map(\.id)
      } else {
        ids = try view.deviceDetails().map(\.id)
      }
    } catch {
      throw Self.damaged(metadata.path, "\(error)")
    }
    for id in ids where id > .max {
      notes.append(
        "thin device \(id): expected an id of at most \(ThinID.max); it is not served (dmthin extract "
          + "copies its content)")
    }
    return ids.filter { $0 <= .max }
  }

  private static func damaged(_ path: String, _ what: String) -> ToolError {
    ToolError(
      .damaged,
      "\(path): \(what)\nlist all damage with: thin_check \(path); serve the readable part with "
        + "--read-only, and save it with: thin_dump --repair \(path)")
  }

  /// Sectors of a thin device up to the end of its last mapped block, because its size is not
  /// recorded. For reading, up to the first damage.
  mutating func mappedSectors(_ id: ThinID) throws(ToolError) -> UInt64 {
    let last: VirtualBlock?
    let fault: PoolError?
    do throws(PoolError) {
      let pool =
        isForReading
        ? try PoolMetadata.openForReading(metadata) : try PoolMetadata.open(metadata)
      guard try pool.hasDevice(id) else { throw .notFound }
      (last, fault) =
        isForReading
        ? try pool.highestReadable(id) : (try pool.highestMapped(id), nil)
    } catch {
      if error == .notFound {
        throw ToolError(
          .refused,
          "the pool has no thin device \(id); list its devices with: thin_ls \(metadata.path)")
      }
      throw Self.damaged(metadata.path, "thin device \(id): \(error)")
    }
    if let fault {
      notes.append(
        "damaged: thin device \(id) from its block \(last ?? 0) on: \(fault); it is served up to that block, "
          + "unless its size is given")
    }
    guard let last else {
      throw ToolError(.refused, "thin device \(id) has no mapped blocks, and its size is not known")
    }
    return min(last.rawValue, DeviceSize.sectorsMax / blockSectors - 1) * blockSectors
      + blockSectors
  }
}
