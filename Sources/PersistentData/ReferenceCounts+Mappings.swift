public import ThinFormat

extension ReferenceCounts {
  /// Adds one for every data block that `count` mappings name.
  /// - Parameter mappings: raw values of a leaf, little-endian.
  /// - Precondition: every data block is below `blockCount`.
  public func increment(mappings: UnsafePointer<UInt64>, count: Int) {
    for i in 0..<count {
      increment(Mapping(rawValue: UInt64(littleEndian: mappings[i])).dataBlock)
    }
  }

  /// Takes one away for every data block that a leaf's mappings name.
  /// - Precondition: every count is above zero.
  public func decrement(mappingsOf node: borrowing BtreeNodeView) {
    for i in 0..<node.entryCount {
      decrement(Mapping(rawValue: node.value64(i)).dataBlock)
    }
  }
}
