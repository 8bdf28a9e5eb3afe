/// Big-endian numbers at any alignment. The caller knows that they are within its memory.
extension UnsafeRawPointer {
  @inline(__always) func big16(_ offset: Int) -> UInt16 {
    unsafe UInt16(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }
  @inline(__always) func big32(_ offset: Int) -> UInt32 {
    unsafe UInt32(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }
  @inline(__always) func big64(_ offset: Int) -> UInt64 {
    unsafe UInt64(bigEndian: loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }
}

extension UnsafeMutableRawPointer {
  @inline(__always) func putBig<Value: FixedWidthInteger>(_ value: Value, _ offset: Int) {
    unsafe storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self)
  }
}

/// Reads a client's bytes from the front; nil where there are too few.
@safe struct WireReader {
  private var rest: UnsafeRawBufferPointer.SubSequence

  init(_ bytes: UnsafeRawBufferPointer) { unsafe rest = bytes[...] }

  var isAtEnd: Bool { unsafe rest.isEmpty }

  mutating func bytes(_ count: Int) -> [UInt8]? {
    guard count >= 0, unsafe count <= rest.count else { return nil }
    defer { unsafe rest = rest.dropFirst(count) }
    return unsafe Array(rest.prefix(count))
  }

  mutating func integer<Value: FixedWidthInteger>(_ type: Value.Type) -> Value? {
    guard let raw = bytes(MemoryLayout<Value>.size) else { return nil }
    return raw.reduce(0) { $0 << 8 | Value(truncatingIfNeeded: $1) }
  }

  /// A string with its length, 32 bits, before it.
  mutating func string() -> [UInt8]? {
    integer(UInt32.self).flatMap { bytes(Int($0)) }
  }
}

/// Bytes on their way out, of a handshake; a request's go another way.
struct WireWriter {
  private(set) var bytes: [UInt8] = []

  mutating func put<Value: FixedWidthInteger>(_ value: Value) {
    unsafe withUnsafeBytes(of: value.bigEndian) { unsafe bytes.append(contentsOf: $0) }
  }
  mutating func put(_ text: String) { bytes.append(contentsOf: text.utf8) }
  mutating func put(_ raw: [UInt8]) { bytes.append(contentsOf: raw) }
  mutating func zeroes(_ count: Int) { bytes.append(contentsOf: repeatElement(0, count: count)) }
}
