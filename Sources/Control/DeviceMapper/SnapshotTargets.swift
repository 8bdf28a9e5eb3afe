/// `snapshot` and `snapshot-merge`: `ORIGIN COW P|PO|N CHUNK [COUNT FEATURE...]`.
public struct SnapshotTarget: TargetGrammar {
  /// The types' names.
  public static let type = "snapshot"
  /// The name of the type that merges a snapshot into its origin.
  public static let mergeType = "snapshot-merge"
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case origin, cow }
  /// The place of the exceptions.
  public enum Store: String, CaseIterable, Sendable {
    /// On the COW device.
    case persistent = "P"
    /// On the COW device, with a status of its own for a full one.
    case persistentWithOverflow = "PO"
    /// In memory.
    case transient = "N"
  }
  /// The features of a snapshot. The kernel prints them in this order.
  public enum Feature: String, CaseIterable, Sendable {
    case discardZeroesCOW = "discard_zeroes_cow"
    case discardPassdownOrigin = "discard_passdown_origin"
  }

  /// Path or `major:minor`.
  public var origin: String
  /// Path or `major:minor`.
  public var cow: String
  /// The place of the exceptions.
  public var store: Store
  /// Sectors in a chunk; 0 lets the store choose, if it is persistent.
  public var chunkSectors: UInt32
  /// The requested features.
  public var features: Set<Feature>

  /// A snapshot in chunks of `chunkSectors`.
  public init(
    origin: String, cow: String, store: Store, chunkSectors: UInt32, features: Set<Feature> = []
  ) {
    self.origin = origin
    self.cow = cow
    self.store = store
    self.chunkSectors = chunkSectors
    self.features = features
  }

  /// Parses a table line of either type.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    try self.init(words, merging: line.type == Self.mergeType, opener: opener)
  }

  /// Parses the words of a table line.
  /// - Parameter merging: whether the target is `snapshot-merge`, which writes to the origin.
  public init(_ words: [String], merging: Bool = false, opener: DeviceOpener<Role>? = nil)
    throws(TargetError)
  {
    guard words.count >= 4 else { throw TargetError("requires 4 or more arguments") }
    let features = try Self.features(ArgumentList(Array(words.dropFirst(4))))
    try DeviceRequest(words[0], Role.origin, merging ? .readWrite : .read)
      .open(by: opener, orSay: "Cannot get origin device")
    guard words[0] != words[1] else {
      throw TargetError("COW device cannot be the same as origin device")
    }
    try DeviceRequest(words[1], Role.cow).open(by: opener, orSay: "Cannot get COW device")
    guard let store = Self.store(words[2]),
      let chunk = KernelText.strict(words[3], max: UInt64(UInt32.max)),
      Self.isChunkSize(chunk)
    else { throw TargetError("Couldn't create exception store") }
    guard !merging || store != .transient else {
      throw TargetError("Snapshot exception store does not support snapshot-merge.")
    }
    self.init(
      origin: words[0], cow: words[1], store: store,
      chunkSectors: UInt32(truncatingIfNeeded: chunk), features: features)
  }

  /// Whether the kernel takes chunks of so many sectors: a power of two, or 0 for what the store chooses, and
  /// at most `INT_MAX >> SECTOR_SHIFT`.
  public static func isChunkSize(_ sectors: UInt64) -> Bool {
    sectors & (sectors &- 1) == 0 && sectors <= 4_194_303
  }

  private static func store(_ word: String) -> Store? {
    let letters = Array(word.utf8.map { $0 & ~0x20 })
    switch letters.first {
    case UInt8(ascii: "N"): return .transient
    case UInt8(ascii: "P"):
      guard letters.count > 1 else { return .persistent }
      return letters[1] == UInt8(ascii: "O") ? .persistentWithOverflow : nil
    default: return nil
    }
  }

  private static func features(_ arguments: ArgumentList) throws(TargetError) -> Set<Feature> {
    var arguments = arguments
    guard arguments.count > 0 else { return [] }
    var left = try arguments.groupCount(max: 2, orSay: "Invalid number of feature arguments")
    var features: Set<Feature> = []
    while left > 0, let word = arguments.shift() {
      guard let feature = Feature.allCases.first(where: { KernelText.isSame(word, $0.rawValue) })
      else { throw TargetError("Unrecognised feature requested") }
      features.insert(feature)
      left -= 1
    }
    guard !features.contains(.discardPassdownOrigin) || features.contains(.discardZeroesCOW) else {
      throw TargetError("discard_passdown_origin feature depends on discard_zeroes_cow")
    }
    return features
  }

  /// The parameters in a table line.
  public var parameters: String {
    let names = Feature.allCases.filter(features.contains).map { " \($0.rawValue)" }.joined()
    let count = features.isEmpty ? "" : " \(features.count)"
    return "\(origin) \(cow) \(store.rawValue) \(chunkSectors)\(count)\(names)"
  }
}

/// `snapshot-origin ORIGIN`: a device whose old content is kept by snapshots.
public struct SnapshotOriginTarget: TargetGrammar {
  /// The type's name.
  public static let type = "snapshot-origin"
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case origin }
  /// Path or `major:minor`.
  public var origin: String

  /// The origin of snapshots.
  public init(origin: String) { self.origin = origin }

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard words.count == 1 else {
      throw TargetError("origin: incorrect number of arguments")
    }
    try DeviceRequest(words[0], Role.origin).open(by: opener, orSay: "Cannot get target device")
    self.init(origin: words[0])
  }

  /// The parameters in a table line.
  public var parameters: String { origin }
}

/// The status of a snapshot, merging or not.
public enum SnapshotStatus: Hashable, Sendable {
  /// Sectors in use on the COW device, and how many of those hold metadata.
  case working(sectors: BlockUsage, metadataSectors: UInt64)
  /// `Invalid`: its content is lost.
  case invalid
  /// `Merge failed`: it was merged only in part.
  case mergeFailed
  /// `Overflow`: the COW device is full.
  case overflow
  /// `Unknown`: the store does not report it.
  case unknown

  private static let words: [(status: SnapshotStatus, text: String)] = [
    (.invalid, "Invalid"), (.mergeFailed, "Merge failed"), (.overflow, "Overflow"),
    (.unknown, "Unknown"),
  ]

  /// Parses the parameters of a status line; nil if they are not a snapshot's.
  public init?(_ parameters: String) {
    if let word = Self.words.first(where: { $0.text == parameters }) {
      self = word.status
      return
    }
    let words = parameters.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 2, let sectors = BlockUsage(words[0]), let metadata = plain(words[1])
    else { return nil }
    self = .working(sectors: sectors, metadataSectors: metadata)
  }

  /// As the kernel prints it.
  public var parameters: String {
    if case .working(let sectors, let metadata) = self { return "\(sectors) \(metadata)" }
    return Self.words.first { $0.status == self }?.text ?? ""
  }
}
