/// Hashes bytes by FNV-1a with 64 bits: for short names, and to notice changes. Anyone can make two inputs
/// with the same hash, so nothing that has to be secure may depend on it.
public struct Digest: Equatable, Sendable {
  /// The hash of what was added.
  public private(set) var value: UInt64 = 0xcbf2_9ce4_8422_2325

  /// The hash of nothing.
  public init() {}

  /// The hash of bytes.
  public init(_ bytes: some Sequence<UInt8>) { add(contentsOf: bytes) }

  /// Adds a byte, or as one a larger number.
  public mutating func add(_ word: UInt64) { value = (value ^ word) &* 0x100_0000_01b3 }

  /// Adds bytes.
  public mutating func add(contentsOf bytes: some Sequence<UInt8>) {
    for byte in bytes { add(UInt64(byte)) }
  }
}
