import ThinFormat

/// Recognises elements without content in exactly the form of a dump, without a general parser:
///
///     <single_mapping origin_block="N" data_block="N" time="N"/>
///     <range_mapping origin_begin="N" data_begin="N" length="N" time="N"/>
///     <ref name="NAME"/>
///
/// after any spaces and line ends. Everything else is "not canonical", whether it is valid or not.
enum CanonicalElement {
  /// The number of bytes that a scan may read beyond the end of the text; their content does not
  /// matter.
  static var overread: Int { 192 }

  /// Eight bytes of memory as a number, the first byte being the least significant.
  @inline(__always)
  private static func word(_ p: UnsafePointer<UInt8>) -> UInt64 {
    unsafe UInt64(littleEndian: UnsafeRawPointer(p).loadUnaligned(as: UInt64.self))
  }

  /// Whether `text`, of 8 to 32 bytes, is at `p`. Compares words, of which the last overlaps.
  @inline(__always)
  private static func stands(_ text: StaticString, at p: UnsafePointer<UInt8>) -> Bool {
    let count = text.utf8CodeUnitCount
    let wanted = unsafe text.utf8Start
    var different = unsafe word(p + (count - 8)) ^ word(wanted + (count - 8))
    var at = 0
    while at + 8 < count {
      unsafe different |= word(p + at) ^ word(wanted + at)
      at += 8
    }
    return different == 0
  }

  /// Parses one to fifteen digits, and moves `p` past them; nil otherwise.
  @inline(__always)
  private static func number(_ p: inout UnsafePointer<UInt8>) -> UInt64? {
    let first = unsafe word(p) ^ 0x3030_3030_3030_3030
    let count = digitCount(first)
    if count < 8 {
      guard count > 0 else { return nil }
      unsafe p += count
      return value(first << UInt64(64 - 8 * count))
    }
    var result = value(first)
    let second = unsafe word(p + 8) ^ 0x3030_3030_3030_3030
    let more = digitCount(second)
    guard more < 8 else { return nil }
    unsafe p += 8 + more
    guard more > 0 else { return result }
    for _ in 0..<more { result &*= 10 }
    return result &+ value(second << UInt64(64 - 8 * more))
  }

  /// The number of bytes, from the least significant, that are below ten.
  @inline(__always)
  private static func digitCount(_ bytes: UInt64) -> Int {
    // The highest bit of a byte of ten or more is set; a carry only affects the bytes above it.
    let others = ((bytes &+ 0x7676_7676_7676_7676) | bytes) & 0x8080_8080_8080_8080
    return others.trailingZeroBitCount >> 3
  }

  /// The number formed by eight digit values, the least significant byte being the first digit.
  @inline(__always)
  private static func value(_ digits: UInt64) -> UInt64 {
    let pairs = (digits &* 10 &+ digits >> 8) & 0x00FF_00FF_00FF_00FF
    let fours = (pairs &* 100 &+ pairs >> 16) & 0x0000_FFFF_0000_FFFF
    return (fours &* 10000 &+ fours >> 32) & 0xFFFF_FFFF
  }

  /// Parses a mapping element at `p`, at most up to `end`.
  /// - Parameters:
  ///   - p: moved past the element; unchanged if there is none.
  ///   - newlines: increased by the newlines passed.
  @inline(__always)
  static func scan(
    _ p: inout UnsafePointer<UInt8>, end: UnsafePointer<UInt8>, newlines: inout Int
  ) -> PoolXmlMapping? {
    var at = unsafe p
    var lines = 0
    guard unsafe skipSpace(&at, end: end, newlines: &lines) else { return nil }
    var run = PoolXmlMapping(thinBegin: 0, dataBegin: 0, length: 1, time: 0)
    if unsafe stands("<single_mapping origin_block=\"", at: at) {
      unsafe at += 30
      guard let thin = unsafe number(&at), unsafe stands("\" data_block=\"", at: at) else {
        return nil
      }
      unsafe at += 14
      guard let data = unsafe number(&at) else { return nil }
      run.thinBegin = VirtualBlock(thin)
      run.dataBegin = DataBlock(data)
    } else if unsafe stands("<range_mapping origin_begin=\"", at: at) {
      unsafe at += 29
      guard let thin = unsafe number(&at), unsafe stands("\" data_begin=\"", at: at) else {
        return nil
      }
      unsafe at += 14
      guard let data = unsafe number(&at), unsafe stands("\" length=\"", at: at) else { return nil }
      unsafe at += 10
      guard let length = unsafe number(&at) else { return nil }
      run.thinBegin = VirtualBlock(thin)
      run.dataBegin = DataBlock(data)
      run.length = length
    } else {
      return nil
    }
    guard unsafe stands("\" time=\"", at: at) else { return nil }
    unsafe at += 8
    guard let time = unsafe number(&at), time <= UInt64(UInt32.max) else { return nil }
    run.time = UInt32(truncatingIfNeeded: time)
    // "/>
    guard unsafe word(at) & 0xFF_FFFF == 0x3E_2F22 else { return nil }
    unsafe at += 3
    guard unsafe at <= end else { return nil }
    unsafe p = at
    newlines &+= lines
    return run
  }

  /// Parses a ref element at `p`, at most up to `end`. Returns its name, which points into the
  /// text. A name with an entity reference, or with anything but printable ASCII, is not canonical.
  /// - Parameters: as for `scan`.
  static func scanRef(
    _ p: inout UnsafePointer<UInt8>, end: UnsafePointer<UInt8>, newlines: inout Int
  ) -> UnsafeBufferPointer<UInt8>? {
    var at = unsafe p
    var lines = 0
    guard unsafe skipSpace(&at, end: end, newlines: &lines), unsafe stands("<ref name=\"", at: at)
    else {
      return nil
    }
    unsafe at += 11
    let name = unsafe at
    while unsafe at < end, unsafe at.pointee != 0x22 {
      let isPlain = unsafe at.pointee >= 0x20 && at.pointee < 0x7F && at.pointee != 0x26
      guard isPlain, unsafe at.pointee != 0x3C, unsafe at - name < PoolXmlAttributes.valueMax else {
        return nil
      }
      unsafe at += 1
    }
    let nameEnd = unsafe at
    guard unsafe word(at) & 0xFF_FFFF == 0x3E_2F22 else { return nil }
    unsafe at += 3
    guard unsafe at <= end else { return nil }
    unsafe p = at
    newlines &+= lines
    return unsafe UnsafeBufferPointer(start: name, count: nameEnd - name)
  }

  /// Moves `at` past spaces and line ends. Returns false if expat must parse them.
  @inline(__always)
  private static func skipSpace(
    _ at: inout UnsafePointer<UInt8>, end: UnsafePointer<UInt8>, newlines lines: inout Int
  ) -> Bool {
    if unsafe word(at) & 0xFF_FFFF_FFFF == 0x20_2020_200A {
      unsafe at += 5
      lines = 1
    }
    while unsafe at < end && (at.pointee == 0x20 || at.pointee == 0x0A || at.pointee == 0x0D) {
      if unsafe at.pointee == 0x0A { lines &+= 1 }
      // A carriage return alone would be a line end too; before a newline they form one.
      if unsafe at.pointee == 0x0D && at[1] != 0x0A { return false }
      unsafe at += 1
    }
    return true
  }
}
