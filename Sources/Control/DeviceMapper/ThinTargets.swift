/// `thin-pool METADATA DATA BLOCKSIZE LOWWATER [COUNT FEATURE...]`.
public struct ThinPoolTarget: TargetGrammar {
  /// The type's name.
  public static let type = "thin-pool"
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case metadata, data }
  /// The features of a pool. The kernel prints them in this order.
  public enum Feature: String, CaseIterable, Sendable {
    /// New blocks are not zeroed.
    case skipBlockZeroing = "skip_block_zeroing"
    /// Discards are not supported.
    case ignoreDiscard = "ignore_discard"
    /// Discards only unmap.
    case noDiscardPassdown = "no_discard_passdown"
    /// Nothing is written to the metadata.
    case readOnly = "read_only"
    /// Writes fail when the pool is full, rather than wait.
    case errorIfNoSpace = "error_if_no_space"
  }

  /// The sizes of data blocks in sectors; each must be a multiple of the smallest.
  public static let blockSectorsRange: ClosedRange<UInt64> = 128...2_097_152

  /// Path or `major:minor`.
  public var metadataDevice: String
  /// Path or `major:minor`.
  public var dataDevice: String
  /// Sectors in a data block.
  public var blockSectors: UInt64
  /// Number of free data blocks at which an event is raised.
  public var lowWaterBlocks: UInt64
  /// The requested features.
  public var features: Set<Feature>

  /// A pool of data blocks of `blockSectors` sectors.
  public init(
    metadataDevice: String, dataDevice: String, blockSectors: UInt64, lowWaterBlocks: UInt64,
    features: Set<Feature> = []
  ) {
    self.metadataDevice = metadataDevice
    self.dataDevice = dataDevice
    self.blockSectors = blockSectors
    self.lowWaterBlocks = lowWaterBlocks
    self.features = features
  }

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    try self.init(KernelText.parameterWords(line.parameters), opener: opener)
  }

  /// Parses the words of a table line. Checks against other pools and the metadata come later.
  public init(_ words: [String], opener: DeviceOpener<Role>? = nil) throws(TargetError) {
    guard words.count >= 4 else { throw TargetError("Invalid argument count") }
    guard words[0] != words[1] else {
      throw TargetError("Error setting metadata or data device")
    }
    let features = try Self.features(ArgumentList(Array(words.dropFirst(4))))
    try DeviceRequest(
      words[0], Role.metadata, features.contains(.readOnly) ? .readBeforeWrite : .readWrite
    ).open(by: opener, orSay: "Error opening metadata block device")
    try DeviceRequest(words[1], Role.data, .readWrite)
      .open(by: opener, orSay: "Error getting data device")
    guard let blockSectors = KernelText.strict(words[2]),
      Self.blockSectorsRange.contains(blockSectors),
      blockSectors.isMultiple(of: Self.blockSectorsRange.lowerBound)
    else { throw TargetError("Invalid block size") }
    guard let lowWater = KernelText.strict(words[3]) else {
      throw TargetError("Invalid low water mark")
    }
    self.init(
      metadataDevice: words[0], dataDevice: words[1], blockSectors: blockSectors,
      lowWaterBlocks: lowWater, features: features)
  }

  private static func features(_ arguments: ArgumentList) throws(TargetError) -> Set<Feature> {
    var arguments = arguments
    guard arguments.count > 0 else { return [] }
    // There are five features, but at most four may be given.
    var left = try arguments.groupCount(
      max: 4, orSay: "Invalid number of pool feature arguments")
    var features: Set<Feature> = []
    while left > 0, let word = arguments.shift() {
      guard let feature = Feature.allCases.first(where: { KernelText.isSame(word, $0.rawValue) })
      else { throw TargetError("Unrecognised pool feature requested") }
      features.insert(feature)
      left -= 1
    }
    return features
  }

  /// As the kernel prints it, with a blank at the end.
  public var parameters: String {
    let devices = "\(metadataDevice) \(dataDevice)"
    let names = Feature.allCases.filter(features.contains).map { "\($0.rawValue) " }.joined()
    return "\(devices) \(blockSectors) \(lowWaterBlocks) \(features.count) \(names)"
  }
}

/// `thin POOL ID [ORIGIN]`: a thin device.
public struct ThinTarget: TargetGrammar {
  /// The type's name.
  public static let type = "thin"
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case origin, pool }
  /// The largest id of a thin device.
  public static let idMax: UInt32 = (1 << 24) - 1

  /// Path or `major:minor`.
  public var pool: String
  /// Id in the pool.
  public var id: UInt32
  /// Device that is read where nothing is mapped.
  public var externalOrigin: String?

  /// Thin device `id` of `pool`.
  public init(pool: String, id: UInt32, externalOrigin: String? = nil) {
    self.pool = pool
    self.id = id
    self.externalOrigin = externalOrigin
  }

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    try self.init(KernelText.parameterWords(line.parameters), opener: opener)
  }

  /// Parses the words of a table line.
  public init(_ words: [String], opener: DeviceOpener<Role>? = nil) throws(TargetError) {
    guard words.count == 2 || words.count == 3 else {
      throw TargetError("Invalid argument count")
    }
    let origin = words.count == 3 ? words[2] : nil
    if let origin {
      guard origin != words[0] else { throw TargetError("Error setting origin device") }
      try DeviceRequest(origin, Role.origin, .read)
        .open(by: opener, orSay: "Error opening origin device")
    }
    try DeviceRequest(words[0], Role.pool).open(by: opener, orSay: "Error opening pool device")
    guard let id = Self.id(words[1]) else { throw TargetError("Invalid device id") }
    self.init(pool: words[0], id: id, externalOrigin: origin)
  }

  /// The id in a word of a table or a message.
  static func id(_ word: String) -> UInt32? {
    KernelText.strict(word, max: UInt64(idMax)).map { UInt32(truncatingIfNeeded: $0) }
  }

  /// The parameters in a table line.
  public var parameters: String {
    let origin = externalOrigin.map { " \($0)" } ?? ""
    return "\(pool) \(id)\(origin)"
  }
}
