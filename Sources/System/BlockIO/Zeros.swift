import Glibc

extension UnsafeRawBufferPointer {
  /// Whether every byte is zero.
  public var isAllZero: Bool {
    guard let start = baseAddress, count > 0 else { return true }
    // Each byte is held against the next one, as fast as memory can be read.
    return unsafe start.load(as: UInt8.self) == 0 && memcmp(start, start + 1, count - 1) == 0
  }
}

extension UnsafeMutableRawBufferPointer {
  /// Whether every byte is zero.
  public var isAllZero: Bool { UnsafeRawBufferPointer(self).isAllZero }
}

extension RawSpan {
  /// Whether every byte is zero.
  public var isAllZero: Bool { unsafe withUnsafeBytes { unsafe $0.isAllZero } }
}
