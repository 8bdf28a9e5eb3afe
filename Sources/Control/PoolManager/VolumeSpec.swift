import BlockIO
import DeviceMapper
public import ThinFormat

/// A thin device of a pool, under a name.
public struct VolumeSpec: Equatable, Sendable {
  /// Name of the active device, and of a server's export.
  public var name: String
  /// Id in the pool.
  public var id: ThinID
  /// Size in sectors of 512 bytes; nil: up to the last block that is mapped.
  public var sectors: UInt64?
  /// The external origin, a device or file.
  public var origin: ExternalOrigin

  /// A malformed text.
  public struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
    /// The reason.
    public let description: String
  }

  /// A volume.
  public init(name: String, id: ThinID, sectors: UInt64?, origin: ExternalOrigin = .unstated) {
    self.name = name
    self.id = id
    self.sectors = sectors
    self.origin = origin
  }

  /// Parses `NAME=ID`, `NAME=ID:SIZE` and `NAME=ID:SIZE:ORIGIN`, with `-` for no origin.
  /// - Throws: `Malformed` with the reason.
  public init(_ text: String) throws(Malformed) {
    guard let equals = text.firstIndex(of: "=") else {
      throw Malformed(description: "expected NAME=ID:SIZE")
    }
    let name = String(text[..<equals])
    let words = text[text.index(after: equals)...]
      .split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
    guard (1...127).contains(name.utf8.count), !name.utf8.contains(UInt8(ascii: "/")) else {
      throw Malformed(description: "a name must have 1 to 127 bytes, without a slash")
    }
    guard let id = UInt32(words[0]), id <= ThinTarget.idMax else {
      throw Malformed(description: "an id must be a number up to \(ThinTarget.idMax)")
    }
    self.init(name: name, id: ThinID(UInt64(id)), sectors: nil)
    guard words.count > 1 else { return }
    do throws(DeviceSize.Malformed) {
      sectors = try DeviceSize.sectors(words[1])
    } catch {
      throw Malformed(description: error.description)
    }
    guard words.count > 2 else { return }
    guard !words[2].isEmpty else { throw Malformed(description: "the origin is missing") }
    origin = words[2] == "-" ? .none : .path(String(words[2]))
  }
}
