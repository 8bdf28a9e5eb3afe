/// Parses sizes of devices and data blocks by lvm2's rule: a whole number and a unit, in upper or
/// lower case, so that `10G` is 10 GiB.
public enum DeviceSize {
  /// A malformed text.
  public struct Malformed: Error, Equatable, Sendable, CustomStringConvertible {
    /// The accepted form.
    public let description: String
  }

  /// The rule in a sentence, for help and errors.
  public static let rule = """
    A size is a whole number with a unit, in either case: s is sectors of 512 bytes, b is bytes, \
    and k, m, g, t, p and e are KiB, MiB and so on.
    """

  /// The largest size in sectors. The number of bytes must fit into a signed 64-bit integer.
  public static let sectorsMax: UInt64 = UInt64(Int64.max) / 512

  private static let units = Array("kmgtpe".utf8)

  /// Sectors of 512 bytes of `204800s`, `10G` or `10GiB`: from 1 to `sectorsMax`.
  /// - Throws: `Malformed`, also for multiples of 1000 such as `10GB`, which would be misread as
  ///   `10GiB`.
  public static func sectors(_ text: some StringProtocol) throws(Malformed) -> UInt64 {
    let digits = text.utf8.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    let unit = text.utf8.dropFirst(digits.count).map {
      UInt8(ascii: "A")...UInt8(ascii: "Z") ~= $0 ? $0 | 0x20 : $0
    }
    let bytesShift: UInt64
    if let index = units.firstIndex(where: { unit == [$0] || unit == [$0] + Array("ib".utf8) }) {
      bytesShift = 10 * UInt64(index + 1)
    } else if unit == Array("s".utf8) {
      bytesShift = 9
    } else if unit == Array("b".utf8) {
      bytesShift = 0
    } else {
      throw Malformed(description: rule)
    }
    guard let count = UInt64(String(decoding: digits, as: UTF8.self)), count > 0,
      count <= UInt64(Int64.max) >> bytesShift
    else { throw Malformed(description: "a size must be at least a sector and less than 8 EiB") }
    guard (count << bytesShift) % 512 == 0 else {
      throw Malformed(description: "not a whole number of sectors of 512 bytes")
    }
    return count << bytesShift / 512
  }
}
