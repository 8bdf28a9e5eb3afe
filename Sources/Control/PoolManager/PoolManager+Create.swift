import BlockIO
public import DeviceMapper
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata
public import ThinTools

/// The parameters for making or activating a pool.
public struct PoolActivation: Sendable {
  /// The pool's name.
  public var name: String
  /// Path of the metadata device.
  public var metadata: String
  /// Path of the data device.
  public var data: String
  /// Sectors in a data block; nil chooses one, or uses the metadata's.
  public var blockSectors: UInt32?
  /// Number of free data blocks at which an event is raised; nil chooses one.
  public var lowWaterBlocks: UInt64?
  /// The features to enable.
  public var features: Set<ThinPoolTarget.Feature> = []
  /// The uuid; nil for none.
  public var uuid: String?
  /// Whether to overwrite what the metadata device holds.
  public var overwrites = false
  /// Whether to activate without checking the metadata.
  public var skipsCheck = false

  /// A pool `name` on two devices.
  public init(name: String, metadata: String, data: String) {
    self.name = name
    self.metadata = metadata
    self.data = data
  }
}

extension PoolManager {
  /// Makes a pool on two unused devices, and activates it. After a failure the metadata device is
  /// unchanged, except for what `overwrites` allowed to overwrite.
  public func create(_ request: PoolActivation) throws(ToolError) -> PoolGeometry {
    let key = try key(request)
    return try locked(key: key, request.name) { () throws(ToolError) in
      try requireFree(request.name)
      let geometry = try prepare(request)
      var request = request
      request.blockSectors = geometry.blockSectors
      request.lowWaterBlocks = geometry.lowWaterBlocks
      do throws(ToolError) {
        try start(request, sectors: geometry.dataBlocks * UInt64(geometry.blockSectors))
      } catch {
        throw unformatted(request.metadata, error)
      }
      runFolder.remove(key, .lease)
      return geometry
    }
  }

  /// Erases what the kernel may have written before it found the error.
  /// - Returns: `error`, extended if erasing fails too.
  private func unformatted(_ path: String, _ error: ToolError) -> ToolError {
    do {
      try Self.wipe(MetadataOutput.open(path))
      return error
    } catch let undo {
      return ToolError(
        error.cause,
        "\(error.message)\n  \(undo)\n  \(path) may now hold an empty pool; before it is used for "
          + "another purpose: wipefs -a \(shellQuoted(path)), or give --force")
    }
  }

  /// Checks both devices and prepares the metadata device for the kernel, which formats it. The
  /// devices are closed again.
  private func prepare(_ request: PoolActivation) throws(ToolError) -> PoolGeometry {
    let metadata = try claim(request.metadata, "metadata")
    try requireDistinct(request)
    let data = try claim(request.data, "data")
    let sector = UInt64(Limits.sectorBytes)
    let geometry = try PoolGeometry(
      dataSectors: data.byteCount / sector, metadataSectors: metadata.byteCount / sector,
      blockSectors: request.blockSectors, lowWaterBlocks: request.lowWaterBlocks)
    try requireUnformatted(metadata, request)
    return geometry
  }

  /// Activates a pool with existing metadata, and some of its thin devices. On failure nothing
  /// stays active.
  /// - Parameter volumes: thin devices, each with its size.
  /// - Returns: the data blocks in the metadata, and on the data device.
  public func activatePool(_ request: PoolActivation, volumes: [VolumeSpec] = [])
    throws(ToolError) -> (recorded: UInt64, present: UInt64)
  {
    for volume in volumes { try requireFree(volume.name) }
    let key = try key(request)
    return try locked(key: key, request.name) { () throws(ToolError) in
      try requireFree(request.name)
      let (superblock, present) = try inspect(request)
      var request = request
      request.blockSectors = superblock.dataBlockSectors
      request.lowWaterBlocks =
        request.lowWaterBlocks
        ?? PoolGeometry.lowWater(blocks: present, blockSectors: superblock.dataBlockSectors)
      try start(request, sectors: present * UInt64(superblock.dataBlockSectors))
      // A metadata snapshot stays when its pool is deactivated, and so does its lease.
      if superblock.metadataSnapshot == 0 { runFolder.remove(key, .lease) }
      try activate(volumes, of: request.name)
      return (superblock.dataSpaceMap.blockCount, present)
    }
  }

  /// Activates thin devices of a pool that was just activated. On failure the pool is deactivated
  /// too.
  private func activate(_ volumes: [VolumeSpec], of name: String) throws(ToolError) {
    guard !volumes.isEmpty else { return }
    let pool = try pool(name)
    var active: [String] = []
    do throws(ToolError) {
      for volume in volumes {
        try activate(
          pool,
          ThinActivation(
            name: volume.name, id: volume.id, sectors: volume.sectors ?? 0,
            origin: volume.origin))
        active.append(volume.name)
      }
    } catch {
      do throws(ToolError) {
        for name in active.reversed() + [pool.name] { try remove(name) }
      } catch let undo {
        throw ToolError(
          error.cause,
          "\(error.message)\n  \(undo.message)\n  some of it is still active; deactivate it with: "
            + "dmthin pool deactivate --all \(shellQuoted(pool.name))")
      }
      throw error
    }
  }

  /// The superblock of a pool that can be activated, and the number of data blocks on the data
  /// device. The devices are closed again.
  private func inspect(_ request: PoolActivation) throws(ToolError) -> (Superblock, UInt64) {
    let metadata = try claim(request.metadata, "metadata")
    try requireDistinct(request)
    let data = try claim(request.data, "data")
    let superblock = try PoolInspection.activatable(metadata, request)
    let present = try PoolInspection.requireFit(superblock, request.metadata, data)
    return (superblock, present)
  }

  private func start(
    _ request: PoolActivation, sectors: UInt64
  ) throws(ToolError) {
    let target = ThinPoolTarget(
      metadataDevice: try devices.word(request.metadata, backend),
      dataDevice: try devices.word(request.data, backend),
      blockSectors: UInt64(request.blockSectors ?? 0),
      lowWaterBlocks: request.lowWaterBlocks ?? 0, features: request.features)
    let line = TableLine(
      start: 0, length: sectors, type: "thin-pool", parameters: target.parameters)
    do throws(DeviceMapperError) {
      try backend.create(DeviceCreation(name: request.name, uuid: request.uuid, table: [line]))
    } catch {
      // The kernel only logs the reason.
      let isKnown = (try? backend.targets())?.contains { $0.name == line.type } ?? true
      throw failure(
        "activate \(request.name)", error,
        hint: error.code == EINVAL && !isKnown ? "there is no thin-pool target" : nil)
    }
  }

  /// Opens a device exclusively.
  private func claim(_ path: String, _ role: String) throws(ToolError) -> FileDevice {
    _ = try devices.word(path, backend)
    do throws(BlockIOError) {
      return try FileDevice(path: path, access: .readWrite, exclusive: true)
    } catch {
      guard error.code != EBUSY else {
        throw ToolError(
          .inUse,
          "the \(role) device \(path) is in use: mounted, part of another device, or of an active "
            + "pool")
      }
      throw ToolError(error)
    }
  }

  /// The key of a pool in the run folder before it is active. A file has no number: the server that
  /// opens it assigns one.
  private func key(_ request: PoolActivation) throws(ToolError) -> String {
    backend.takesFiles ? request.name : "\(try devices.number(request.metadata))"
  }

  private func requireDistinct(_ request: PoolActivation) throws(ToolError) {
    let words = (
      try devices.word(request.metadata, backend),
      try devices.word(request.data, backend)
    )
    guard words.0 != words.1 else {
      throw ToolError(.refused, "metadata and data cannot be on the same device")
    }
    try PoolInspection.requireDistinct(request.metadata, request.data)
  }

  /// Requires that the kernel will format the device: its first block must be zero.
  private func requireUnformatted(_ metadata: FileDevice, _ request: PoolActivation)
    throws(ToolError)
  {
    do throws(PoolError) {
      if try PoolMetadata.isUnformatted(metadata) { return }
    } catch {
      throw ToolError(.pool(error), "\(error)")
    }
    guard request.overwrites else {
      let isPool = (try? MetadataView(metadata, source: .current)) != nil
      let (name, path) = (shellQuoted(request.name), shellQuoted(request.metadata))
      throw ToolError(
        .refused,
        isPool
          ? "\(request.metadata) already holds the metadata of a pool; activate it with: dmthin "
            + "pool activate \(name) --metadata \(path) --data \(shellQuoted(request.data)); or "
            + "overwrite it with --force"
          : "\(request.metadata) is not empty; to overwrite it, give --force")
    }
    try Self.wipe(metadata)
  }

  private static func wipe(_ metadata: FileDevice) throws(ToolError) {
    let zeros = AlignedBuffer(count: Limits.blockBytes)
    do throws(BlockIOError) {
      try unsafe metadata.write(UnsafeRawBufferPointer(zeros.bytes), at: 0)
      try metadata.flush()
    } catch {
      throw ToolError(error)
    }
  }
}
