import Glibc

/// A unit of storage, by all its names.
public enum StorageUnit: String, CaseIterable, Sendable {
  case byte
  case sector
  case kibibyte
  case mebibyte
  case gibibyte
  case tebibyte
  case pebibyte
  case exbibyte
  case kilobyte
  case megabyte
  case gigabyte
  case terabyte
  case petabyte
  case exabyte

  /// The unit called `text`: its name, symbol or letter.
  public init?(_ text: String) {
    guard
      let unit = Self.allCases.first(where: {
        $0.rawValue == text || $0.symbol == text || $0.letter == text
      })
    else { return nil }
    self = unit
  }

  /// Bytes of the unit.
  public var bytes: UInt64 {
    switch self {
    case .byte: 1
    case .sector: 512
    case .kibibyte: 1 << 10
    case .mebibyte: 1 << 20
    case .gibibyte: 1 << 30
    case .tebibyte: 1 << 40
    case .pebibyte: 1 << 50
    case .exbibyte: 1 << 60
    case .kilobyte: 1000
    case .megabyte: 1_000_000
    case .gigabyte: 1_000_000_000
    case .terabyte: 1_000_000_000_000
    case .petabyte: 1_000_000_000_000_000
    case .exabyte: 1_000_000_000_000_000_000
    }
  }

  /// One letter: lower case for binary multiples, upper case for decimal ones.
  public var letter: String {
    switch self {
    case .byte: "b"
    case .sector: "s"
    case .kibibyte: "k"
    case .mebibyte: "m"
    case .gibibyte: "g"
    case .tebibyte: "t"
    case .pebibyte: "p"
    case .exbibyte: "e"
    case .kilobyte: "K"
    case .megabyte: "M"
    case .gigabyte: "G"
    case .terabyte: "T"
    case .petabyte: "P"
    case .exabyte: "E"
    }
  }

  /// The symbol: `KiB`, `kB`; `b` and `s` for bytes and sectors.
  public var symbol: String {
    switch self {
    case .byte, .sector: letter
    case .kibibyte: "KiB"
    case .kilobyte: "kB"
    case .mebibyte, .gibibyte, .tebibyte, .pebibyte, .exbibyte: "\(letter.uppercased())iB"
    case .megabyte, .gigabyte, .terabyte, .petabyte, .exabyte: "\(letter)B"
    }
  }
}

/// Parses a size like `64k`, `20GiB` or `128`: digits and a unit, sectors by default. Returns
/// bytes.
/// - Throws: `.request` with the reason.
public func parseStorageSize(_ text: String) throws(ToolError) -> UInt64 {
  let digits = text.prefix { $0.isASCII && $0.isNumber }
  let suffix = text.dropFirst(digits.count)
  guard !digits.isEmpty else { throw ToolError(.refused, "a size must start with a number") }
  guard let unit = suffix.isEmpty ? .sector : StorageUnit(String(suffix)) else {
    throw ToolError(.refused, "unknown unit '\(suffix)'")
  }
  guard let count = UInt64(digits) else { throw ToolError(.refused, "too large") }
  let (bytes, overflow) = count.multipliedReportingOverflow(by: unit.bytes)
  if overflow { throw ToolError(.refused, "too large") }
  return bytes
}

/// A size in the unit in which its rounded value is at most 8192: `19MiB`, `0b`.
public func prettySize(bytes: UInt64) -> String {
  let units: [StorageUnit] = [
    .byte, .kibibyte, .mebibyte, .gibibyte, .tebibyte, .pebibyte, .exbibyte,
  ]
  // The unit in which the number has eleven to twenty bits; the next one if it exceeds 8192.
  var index = max(1, (63 - min(63, bytes.leadingZeroBitCount)) / 10) - 1
  var count = bytes >> UInt64(10 * index)
  if count > 8192 {
    count = (count + 512) >> 10
    index += 1
  }
  return "\(count)\(units[index].symbol)"
}

/// `bytes` in `unit`: a whole number without decimals, all digits if it is less than one, and
/// otherwise two decimals.
public func formatSize(bytes: UInt64, in unit: StorageUnit) -> String {
  let value = Double(bytes) / Double(unit.bytes)
  if value < 1 { return plainDecimal(value) }
  return UInt64(exactly: value).map { String($0) } ?? printed(value, "%.2f")
}

/// The shortest digits that parse as `value` (from 0 to below 1), without an exponent.
private func plainDecimal(_ value: Double) -> String {
  if value == 0 { return "0" }
  let text = value.description
  let parts = text.split(separator: "e")
  let exponent = parts.count == 2 ? Int(parts[1]) ?? 0 : 0
  let point = parts[0].firstIndex(of: ".") ?? parts[0].endIndex
  // value = 0.digits * 10^shift
  var digits = Array((parts[0][..<point] + parts[0][point...].dropFirst()).utf8)
  var shift = parts[0].distance(from: parts[0].startIndex, to: point) + exponent
  let leading = digits.prefix { $0 == UInt8(ascii: "0") }.count
  digits.removeFirst(leading)
  shift -= leading
  while digits.last == UInt8(ascii: "0") { digits.removeLast() }
  // Of two equally near values, Swift takes the even one, but the original tools take the larger
  // one.
  let exact = Array(printed(value, "%.40e").utf8.filter { $0 != UInt8(ascii: ".") })
  let rest = exact[digits.count..<41]
  if rest.first == UInt8(ascii: "5"), rest.dropFirst().allSatisfy({ $0 == UInt8(ascii: "0") }),
    exact.starts(with: digits)
  {
    digits[digits.count - 1] += 1
  }
  return "0." + String(repeating: "0", count: -shift) + String(decoding: digits, as: UTF8.self)
}

/// The output of printf(3) for `value`.
private func printed(_ value: Double, _ format: String) -> String {
  unsafe withVaList([value]) { list in
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
      guard let base = buffer.baseAddress else { return "" }
      unsafe vsnprintf(base, buffer.count, format, list)
      return unsafe String(cString: base)
    }
  }
}
