public import DeviceMapper
public import ThinFormat
public import ThinTools

/// The devices to create, in order, for serving a pool and its volumes.
public struct PoolPlan {
  /// The devices with their tables.
  public var devices: [ConciseTable.Device] = []
  /// Ids of thin devices to make in a new pool, once its device exists.
  public var newThins: [ThinID] = []
  /// Messages for the user.
  public var notes: [String] = []

  /// An empty plan.
  public init() {}

  /// The parameters for serving a pool on two devices or files.
  public struct Request: Sendable {
    /// Path of the metadata.
    public var metadata: String
    /// Path of the data.
    public var data: String
    /// The pool's name.
    public var name: String
    /// The thin devices; empty for all of the pool.
    public var volumes: [VolumeSpec] = []
    /// Features of the pool.
    public var features: Set<ThinPoolTarget.Feature> = []
    /// Free data blocks at which an event is raised; nil chooses a number.
    public var lowWaterBlocks: UInt64?
    /// Whether to write nothing.
    public var isReadOnly = false

    /// A pool `name` with all of its thin devices.
    public init(name: String, metadata: String, data: String) {
      self.name = name
      self.metadata = metadata
      self.data = data
    }
  }
}

extension PoolPlan {
  /// The devices for a pool on two devices or files.
  /// - Throws: if it is not a pool, or cannot be active in its present state.
  public init(_ request: Request) throws(ToolError) {
    let metadata = request.metadata
    var pool = try PoolInspection(
      metadata: metadata, data: request.data, isForReading: request.isReadOnly)
    if pool.blockCount > pool.knownBlockCount, !request.isReadOnly {
      notes.append(
        "data has grown from \(pool.knownBlockCount) to \(pool.blockCount) blocks, and the pool is extended"
      )
    }
    var features = request.features
    if request.isReadOnly { features.insert(.readOnly) }
    let lowWater = PoolGeometry.lowWater(
      blocks: pool.blockCount, blockSectors: UInt32(clamping: pool.blockSectors))
    let target = ThinPoolTarget(
      metadataDevice: NameMangling.word(metadata), dataDevice: NameMangling.word(request.data),
      blockSectors: pool.blockSectors, lowWaterBlocks: request.lowWaterBlocks ?? lowWater,
      features: features)
    add(
      request.name, ThinPoolTarget.type, target.parameters,
      sectors: pool.blockCount * pool.blockSectors)
    let wanted = try volumes(request, &pool, metadata)
    notes = pool.notes + notes
    for volume in wanted { try add(volume, request) }
  }

  /// The devices for a new pool on two disks that hold only zeros. The pool's target formats it.
  /// - Throws: if the sizes are unsuitable, or the size of a volume is not given.
  public init(new request: Request, metadataSectors: UInt64, dataSectors: UInt64) throws(ToolError)
  {
    let geometry = try PoolGeometry(
      dataSectors: dataSectors, metadataSectors: metadataSectors,
      lowWaterBlocks: request.lowWaterBlocks)
    notes.append("the pool is new, and is lost at the end: \(geometry.reason)")
    if let warning = geometry.warning { notes.append("warning: \(warning)") }
    var features = request.features
    if request.isReadOnly { features.insert(.readOnly) }
    let blockSectors = UInt64(geometry.blockSectors)
    let target = ThinPoolTarget(
      metadataDevice: NameMangling.word(request.metadata),
      dataDevice: NameMangling.word(request.data), blockSectors: blockSectors,
      lowWaterBlocks: geometry.lowWaterBlocks, features: features)
    add(
      request.name, ThinPoolTarget.type, target.parameters,
      sectors: geometry.dataBlocks * blockSectors)
    for volume in request.volumes {
      guard volume.sectors != nil else {
        throw ToolError(
          .refused,
          "\(volume.name) is in a new pool, so its size is not known: give --volume "
            + "\(volume.name)=\(volume.id):SIZE")
      }
      if !newThins.contains(volume.id) { newThins.append(volume.id) }
      try add(volume, request)
    }
  }

  private mutating func add(_ volume: VolumeSpec, _ request: Request) throws(ToolError) {
    guard volume.name != request.name else {
      throw ToolError(.refused, "'\(volume.name)' is the name of the pool itself (see --name)")
    }
    let thin = ThinTarget(
      pool: "/dev/mapper/\(NameMangling.word(request.name))",
      id: ThinPoolMessage.id(volume.id),
      externalOrigin: volume.origin.path.map { NameMangling.word($0) })
    add(
      volume.name, ThinTarget.type, thin.parameters, sectors: volume.sectors ?? 0,
      isReadOnly: request.isReadOnly)
  }

  private mutating func add(
    _ name: String, _ type: String, _ parameters: String, sectors: UInt64, isReadOnly: Bool = false
  ) {
    let line = TableLine(start: 0, length: sectors, type: type, parameters: parameters)
    devices.append(ConciseTable.Device(name: name, isReadOnly: isReadOnly, table: [line]))
  }

  /// The requested volumes, or else one for every device, each with its size.
  private mutating func volumes(
    _ request: Request, _ pool: inout PoolInspection, _ metadata: String
  ) throws(ToolError) -> [VolumeSpec] {
    let isEverything = request.volumes.isEmpty
    let wanted =
      isEverything
      ? try pool.deviceIDs().map { VolumeSpec(name: "thin\($0)", id: $0, sectors: nil) }
      : request.volumes
    var volumes: [VolumeSpec] = []
    let origins = OriginRecords(metadata: metadata)?.load() ?? [:]
    for var volume in wanted {
      if let origin = origins[volume.id], volume.origin == .unstated {
        let fault = OriginRecords.need("thin device \(volume.id)", origin)
        let size = volume.sectors.map { "\($0)s" } ?? "SIZE"
        let advice =
          "give --volume \(volume.name)=\(volume.id):\(size):\(origin), or - instead of the path"
        guard isEverything else { throw ToolError(.refused, "\(fault)\n  \(advice)") }
        notes.append("warning: \(fault); it is not served: \(advice)")
        continue
      }
      if volume.sectors == nil {
        do throws(ToolError) {
          volume.sectors = try pool.mappedSectors(volume.id)
        } catch {
          // One bad device among all does not prevent serving the others.
          guard isEverything else { throw error }
          notes.append("\(error): it is not served (give --volume NAME=\(volume.id):SIZE)")
          continue
        }
        notes.append(
          "\(volume.name): \(volume.sectors ?? 0) sectors, up to the last mapped block; its real size "
            + "is not known (give --volume \(volume.name)=\(volume.id):SIZE)")
      }
      volumes.append(volume)
    }
    return volumes
  }
}
