import BlockIO
public import DeviceMapper
import Glibc
public import ThinTools

/// Which thin devices of a pool read what they do not have from an external origin, as of their last
/// activation: the pool does not know, and without its origin such a device, or a snapshot of it, shows zeros
/// where there are data.
///
/// A record says what to ask for, not what to do: another program may have made a device of the same id
/// since.
public struct OriginRecords: Sendable {
  /// What is known of one pool: the path of the origin by id.
  public typealias Origins = [UInt64: String]

  /// Says of a device why it cannot do without an origin.
  /// - Parameters:
  ///   - device: what the sentence calls it.
  ///   - path: the origin that is known.
  public static func need(_ device: String, _ path: String) -> String {
    "\(device) reads from an external origin what it does not have: it, or what it is a snapshot of, was "
      + "last activated over \(path)"
  }

  private static let bytesMax = 4 << 20
  private static let heading = "dmthin origins 1"
  private let folder: String
  private let pool: String

  /// Records of the pool whose metadata is at `metadata`.
  /// - Parameter folder: where all records are; nil stands for none.
  public init?(metadata: String, folder: String? = OriginRecords.usualFolder) {
    self.init(FileIdentity(path: metadata), folder)
  }

  /// Records of the pool whose metadata is on a device that has a number.
  public init?(metadata: DeviceNumber) {
    self.init(FileIdentity(blockDevice: metadata.major, metadata.minor), Self.usualFolder)
  }

  private init?(_ identity: FileIdentity?, _ folder: String?) {
    guard let folder, let identity else { return nil }
    self.folder = folder
    pool = identity.lastingName
  }

  /// Where records are, unless something else is said (`StateFolder`).
  public static var usualFolder: String? {
    StateFolder.usual("origins", variable: "DMTHIN_ORIGINS")
  }

  /// The origins that are known. What others could have written, or cannot be read, is nothing.
  public func load() -> Origins {
    guard let file = try? TrustedFolder.own(folder).openFile(pool, O_RDONLY) else { return [:] }
    defer { close(file) }
    let bytes = (try? WholeFile.bytes(of: file, path: folder, upTo: Self.bytesMax)) ?? []
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
    guard lines.first ?? "" == Self.heading else { return [:] }
    var origins: Origins = [:]
    for line in lines.dropFirst() {
      let words = line.split(separator: " ", maxSplits: 1)
      if words.count == 2, let id = UInt64(words[0]) { origins[id] = String(words[1]) }
    }
    return origins
  }

  /// Changes what is known.
  /// - Throws: where it cannot be kept; what was known stays.
  public func update(_ change: (inout Origins) -> Void) throws(ToolError) {
    let before = load()
    var origins = before
    change(&origins)
    // A path with a line end could not be read back.
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
      throw ToolError(.unexpected, "cannot keep which origins thin devices have: \(error)")
    }
  }
}

extension OriginRecords.Origins {
  /// Snapshots need the origins of what they are snapshots of.
  public mutating func inherit(_ volumes: [SnapshotVolume]) {
    for volume in volumes { self[volume.new] = self[volume.origin] }
  }

  /// Devices of these ids are gone, or new.
  public mutating func forget(_ ids: ClosedRange<UInt64>) {
    self = filter { !ids.contains($0.key) }
  }
}
