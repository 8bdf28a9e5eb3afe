import DeviceMapper

/// A thin device to be served.
public struct VolumeSpec: Equatable, Sendable {
  /// What clients ask for.
  public var name: String
  /// Which of the pool's thin devices.
  public var id: UInt32
  /// Size in sectors of 512 bytes; nil: up to the last block that is mapped.
  public var sectors: UInt64?
  /// A device or file that is read where nothing is mapped.
  public var origin: String?

  /// What is wrong with a text.
  public struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
    /// The reason.
    public let description: String
  }

  /// The largest size, in sectors: more bytes than a signed number of 64 bits can count are of no use
  /// to anybody.
  static let sectorsMax: UInt64 = UInt64(Int64.max) / 512

  /// A volume.
  public init(name: String, id: UInt32, sectors: UInt64?, origin: String? = nil) {
    self.name = name
    self.id = id
    self.sectors = sectors
    self.origin = origin
  }

  /// Understands `NAME=ID`, `NAME=ID:SIZE` and `NAME=ID:SIZE:ORIGIN`.
  /// - Throws: `Malformed` with the reason.
  public init(_ text: String) throws(Malformed) {
    guard let equals = text.firstIndex(of: "=") else {
      throw Malformed(description: "expected NAME=ID:SIZE")
    }
    let name = String(text[..<equals])
    let words = text[text.index(after: equals)...]
      .split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
    guard (1...127).contains(name.utf8.count), !name.utf8.contains(UInt8(ascii: "/")) else {
      throw Malformed(description: "a name has 1 to 127 bytes, without a slash")
    }
    guard let id = UInt32(words[0]), id <= ThinTarget.idMax else {
      throw Malformed(description: "an id is a number up to \(ThinTarget.idMax)")
    }
    self.init(name: name, id: id, sectors: nil)
    guard words.count > 1 else { return }
    sectors = try Self.sectors(words[1])
    guard words.count > 2 else { return }
    guard !words[2].isEmpty else { throw Malformed(description: "an origin is missing") }
    origin = String(words[2])
  }

  /// Sectors of `204800s`, `10G` or `10GiB`. Units are multiples of 1024 in either case: a size that is
  /// taken for a smaller one would hide the end of a file system.
  static func sectors(_ text: Substring) throws(Malformed) -> UInt64 {
    let digits = text.prefix { $0.isASCII && $0.isNumber }
    var unit = text.dropFirst(digits.count).lowercased()
    if unit.count == 3, unit.hasSuffix("ib") { unit.removeLast(2) }
    let shifts: [String: UInt64] = ["s": 0, "k": 1, "m": 11, "g": 21, "t": 31, "p": 41]
    guard let shift = shifts[unit] else {
      throw Malformed(
        description:
          "a size has a unit: s is sectors of 512 bytes; k, m, g, t and p are KiB and so on"
      )
    }
    guard let count = UInt64(digits), count > 0, count <= sectorsMax >> shift else {
      throw Malformed(description: "a size is at least a sector and less than 8 EiB")
    }
    return count << shift
  }
}
