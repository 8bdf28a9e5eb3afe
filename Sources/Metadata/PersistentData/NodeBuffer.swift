import Glibc
import ThinFormat

/// A B-tree node in a mutable buffer. Moves change only the entries that they name, because the
/// content of unused slots is on disk too, and must equal the kernel's.
@safe package struct NodeBuffer {
  package let bytes: UnsafeMutableRawBufferPointer
  private var base: UnsafeMutableRawPointer { unsafe bytes.baseAddress.unsafelyUnwrapped }

  /// - Precondition: `bytes` is a whole block.
  package init(_ bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Limits.blockBytes)
    unsafe self.bytes = bytes
  }

  private func load<V: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _: V.Type) -> V {
    unsafe V(littleEndian: base.load(fromByteOffset: offset, as: V.self))
  }

  package var isLeaf: Bool { load(4, UInt32.self) == BtreeNodeRecord.leafFlag }
  package var count: Int {
    get { Int(load(16, UInt32.self)) }
    nonmutating set { unsafe BtreeNodeRecord.setEntryCount(bytes, newValue) }
  }
  package var max: Int { Int(load(20, UInt32.self)) }
  package var valueSize: Int { Int(load(24, UInt32.self)) }
  package var isFull: Bool { count == max }
  private var valuesOffset: Int { BtreeNodeRecord.keysOffset + 8 * max }

  /// Makes the kernel's checks on reading a node, so that no index leaves the block.
  package func validate(_ block: UInt64) throws(PoolError) {
    let (max, size, count) = (self.max, self.valueSize, self.count)
    guard size > 0, size <= 64, max >= 3, max <= 508,
      BtreeNodeRecord.keysOffset + max * (8 + size) <= Limits.blockBytes
    else { throw .block(block, .format(.field(.entriesMax, expected: 252, found: UInt64(max)))) }
    guard count <= max else {
      throw .block(
        block, .format(.field(.entryCount, expected: UInt64(max), found: UInt64(count))))
    }
    let flags = load(4, UInt32.self)
    guard flags == BtreeNodeRecord.leafFlag || flags == BtreeNodeRecord.internalFlag else {
      throw .block(block, .format(.field(.nodeFlags, expected: 2, found: UInt64(flags))))
    }
  }

  /// Refuses neighbours between which entries cannot move.
  package func requireLike(_ other: NodeBuffer) throws(PoolError) {
    guard max == other.max, valueSize == other.valueSize, isLeaf == other.isLeaf else {
      throw .inconsistent("neighbouring nodes of different kinds")
    }
  }

  package func begin(isLeaf: Bool, valueSize: Int) {
    unsafe BtreeNodeRecord.begin(bytes, isLeaf: isLeaf, valueSize: valueSize)
  }

  /// Copies the flags and sizes of another node.
  package func begin(like other: NodeBuffer) {
    begin(isLeaf: other.isLeaf, valueSize: other.valueSize)
  }

  package func key(_ i: Int) -> UInt64 { load(BtreeNodeRecord.keysOffset + 8 * i, UInt64.self) }
  package func setKey(_ i: Int, _ key: UInt64) {
    unsafe base.storeBytes(
      of: key.littleEndian, toByteOffset: BtreeNodeRecord.keysOffset + 8 * i, as: UInt64.self)
  }

  package func valueOffset(_ i: Int) -> Int { valuesOffset + valueSize * i }
  package func value(_ i: Int) -> UnsafeMutableRawPointer { unsafe base + valueOffset(i) }
  package func value64(_ i: Int) -> UInt64 { load(valueOffset(i), UInt64.self) }
  package func setValue64(_ i: Int, _ value: UInt64) {
    unsafe base.storeBytes(of: value.littleEndian, toByteOffset: valueOffset(i), as: UInt64.self)
  }

  /// The greatest index whose key is at most `key`; -1 if there is none.
  package func floor(_ key: UInt64) -> Int {
    var low = -1
    var high = count
    while high - low > 1 {
      let middle = (low + high) / 2
      if self.key(middle) <= key { low = middle } else { high = middle }
    }
    return low
  }

  /// Moves entries within the node; ranges may overlap.
  package func move(from: Int, to: Int, count: Int) {
    guard count > 0 else { return }
    let keys = unsafe base + BtreeNodeRecord.keysOffset
    unsafe memmove(keys + 8 * to, keys + 8 * from, 8 * count)
    unsafe memmove(value(to), value(from), valueSize * count)
  }

  /// Copies entries of another node of the same tree.
  package func copy(from other: NodeBuffer, at from: Int, to: Int, count: Int) {
    guard count > 0 else { return }
    unsafe memcpy(
      base + BtreeNodeRecord.keysOffset + 8 * to,
      other.base + BtreeNodeRecord.keysOffset + 8 * from, 8 * count)
    unsafe memcpy(value(to), other.value(from), valueSize * count)
  }

  /// Makes room at `i` and returns the place of the value.
  package func insert(_ i: Int, key: UInt64) -> UnsafeMutableRawPointer {
    move(from: i, to: i + 1, count: count - i)
    count += 1
    setKey(i, key)
    return unsafe value(i)
  }

  /// Removes entry `i` and closes the gap.
  package func remove(_ i: Int) {
    move(from: i + 1, to: i, count: count - i - 1)
    count -= 1
  }
}
