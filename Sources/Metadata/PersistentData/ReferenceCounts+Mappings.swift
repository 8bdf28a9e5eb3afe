public import ThinFormat

extension ReferenceCounts {
  /// Adds one for every data block in `count` mappings.
  /// - Parameter mappings: raw values of a leaf, little-endian.
  /// - Precondition: every data block is below `blockCount`.
  public func increment(mappings: UnsafePointer<UInt64>, count: Int) {
    for i in 0..<count {
      unsafe increment(Mapping(rawValue: UInt64(littleEndian: mappings[i])).dataBlock)
    }
  }

  /// Subtracts one for every data block in a leaf's mappings.
  /// - Precondition: every count is above zero.
  public func decrement(mappingsOf node: borrowing BtreeNodeView) {
    for i in 0..<node.entryCount {
      decrement(Mapping(rawValue: node.value64(i)).dataBlock)
    }
  }
}
