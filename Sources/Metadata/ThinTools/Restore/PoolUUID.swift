/// Parses the pool's uuid: 32 hexadecimal digits, dashes anywhere, the sixteen bytes in order.
enum PoolUUID {
  /// The uuid as the superblock's two little-endian words; zero for an empty text, nil for an
  /// invalid one.
  static func parse(_ text: String) -> (low: UInt64, high: UInt64)? {
    if text.isEmpty { return (0, 0) }
    var words: [UInt64] = [0, 0]
    var digits = 0
    for byte in text.utf8 where byte != UInt8(ascii: "-") {
      guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue, digits < 32 else {
        return nil
      }
      // Within a byte, the first digit is the upper half.
      let shift = digits % 16 / 2 * 8 + (digits % 2 == 0 ? 4 : 0)
      words[digits / 16] |= UInt64(digit) << UInt64(shift)
      digits += 1
    }
    return digits == 32 ? (words[0], words[1]) : nil
  }
}
