import BlockIO
public import DeviceMapper
import Glibc
public import ThinFormat
public import ThinTools

/// Records the external origin of each thin device at its last activation. The pool does not store
/// it, and without its origin such a device, or a snapshot of it, reads zeros in place of data.
///
/// A record is used to ask the user, never applied silently, because another program may have made
/// a device of the same id since.
public struct OriginRecords: Sendable {
  /// The records of one pool: the path of the origin by id.
  public typealias Origins = [ThinID: String]

  /// A sentence on why a device needs an origin.
  /// - Parameters:
  ///   - device: its name in the sentence.
  ///   - path: the recorded origin.
  public static func need(_ device: String, _ path: String) -> String {
    "\(device) needs an external origin for blocks that it does not map: it, or its origin, was "
      + "last activated over \(path)"
  }

  private static let bytesMax = 4 << 20
  private static let heading = "dmthin origins 1"
  private let folder: String
  private let pool: String

  /// Records of the pool whose metadata is at `metadata`.
  /// - Parameter folder: the folder of all records; nil for none.
  public init?(metadata: String, folder: String? = OriginRecords.usualFolder) {
    self.init(FileIdentity(path: metadata), folder)
  }

  /// Records of the pool whose metadata device has this number.
  public init?(metadata: DeviceNumber) {
    self.init(FileIdentity(blockDevice: metadata.major, metadata.minor), Self.usualFolder)
  }

  private init?(_ identity: FileIdentity?, _ folder: String?) {
    guard let folder, let identity else { return nil }
    self.folder = folder
    pool = identity.lastingName
  }

  /// The default folder of records (`StateFolder`).
  public static var usualFolder: String? {
    StateFolder.usual("origins", variable: "DMTHIN_ORIGINS")
  }

  /// The recorded origins. Records that are unreadable, or that another user could have written,
  /// are ignored.
  public func load() -> Origins {
    guard let file = try? TrustedFolder.own(folder).openFile(pool, O_RDONLY) else { return [:] }
    defer { close(file) }
    let bytes = (try? WholeFile.bytes(of: file, path: folder, upTo: Self.bytesMax)) ?? []
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    guard lines.first ?? "" == Self.heading else { return [:] }
    var origins: Origins = [:]
    for line in lines.dropFirst() {
      let words = line.split(separator: " ", maxSplits: 1)
      if words.count == 2, let id = UInt64(words[0]) {
        origins[ThinID(id)] = String(words[1])
      }
    }
    return origins
  }

  /// Changes the records.
  /// - Throws: if they cannot be written; the old ones stay.
  public func update(_ change: (inout Origins) -> Void) throws(ToolError) {
    let before = load()
    var origins = before
    change(&origins)
    // A path that contains a line end could not be read back.
    origins = origins.filter { !$0.value.contains("\n") }
    guard origins != before else { return }
    let lines = origins.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)\n" }
    let text = "\(Self.heading)\n" + lines.joined()
    guard text.utf8.count <= Self.bytesMax else {
      throw ToolError(.unexpected, "\(folder)/\(pool) would be larger than \(Self.bytesMax) bytes")
    }
    do throws(TrustedFolder.Fault) {
      let kept = try TrustedFolder.made(folder)
      guard !origins.isEmpty else {
        kept.remove(pool)
        return
      }
      try kept.replace(pool, with: text)
    } catch {
      throw ToolError(.unexpected, "cannot record the external origins of thin devices: \(error)")
    }
  }
}

extension OriginRecords.Origins {
  /// Snapshots need the origins of the devices that they were taken of.
  public mutating func inherit(_ volumes: [SnapshotVolume]) {
    for volume in volumes { self[volume.new] = self[volume.origin] }
  }

  /// Forgets devices that were deleted, or created again.
  public mutating func forget(_ ids: ClosedRange<ThinID>) {
    self = filter { !ids.contains($0.key) }
  }
}
