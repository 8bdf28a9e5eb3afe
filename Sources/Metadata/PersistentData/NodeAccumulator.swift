import Glibc
public import ThinFormat

/// The waiting entries of one level of a tree under construction.
///
/// Up to two nodes' entries are held back, so that the last nodes of a level can be balanced and
/// none is underfull.
///
/// Invariants: keys ascend; `waiting` is at most twice `entriesMax`; numbers are little-endian.
@safe public final class NodeAccumulator {
  /// Whether the level has leaves.
  public let isLeaf: Bool
  /// Bytes of a value.
  public let valueSize: Int
  /// The entries of a full node.
  public let entriesMax: Int
  /// A node with fewer entries is underfull, unless it is a root.
  public let entriesMin: Int
  /// The number of waiting entries. Private, so that accesses need no check at run time.
  private var waiting = 0
  private let keys: UnsafeMutablePointer<UInt64>
  private let values: UnsafeMutableRawPointer

  /// An empty level of nodes with values of `valueSize` bytes (8 for internal nodes).
  public init(isLeaf: Bool, valueSize: Int) {
    self.isLeaf = isLeaf
    self.valueSize = valueSize
    entriesMax = BtreeNodeRecord.entriesMax(valueSize: valueSize)
    entriesMin = entriesMax / 3
    unsafe keys = .allocate(capacity: 2 * entriesMax)
    unsafe keys.initialize(repeating: 0, count: 2 * entriesMax)
    unsafe values = .allocate(byteCount: 2 * entriesMax * valueSize, alignment: 8)
  }

  deinit {
    unsafe keys.deallocate()
    unsafe values.deallocate()
  }

  /// The number of waiting entries.
  public var count: Int { waiting }

  /// Whether the first node must be written before an entry can be appended.
  public var isFull: Bool { count == 2 * entriesMax }

  /// The number of entries that can be appended.
  public var room: Int { 2 * entriesMax - count }

  /// Appends an entry with a value of eight bytes.
  /// - Precondition: not full, `valueSize` is 8, `key` is larger than all others.
  public func append(key: UInt64, value: UInt64) {
    precondition(waiting < 2 * entriesMax && valueSize == 8)
    unsafe keys[waiting] = key.littleEndian
    unsafe values.storeBytes(of: value.littleEndian, toByteOffset: waiting &* 8, as: UInt64.self)
    waiting += 1
  }

  /// Appends `length` entries. Keys increase by one, values by `valueStep`.
  /// - Precondition: there is room, `valueSize` is 8, `key` is larger than all others.
  public func append(key: UInt64, value: UInt64, valueStep: UInt64, length: Int) {
    precondition(length <= room && valueSize == 8)
    let slots = unsafe values.assumingMemoryBound(to: UInt64.self) + waiting
    for i in 0..<length {
      unsafe keys[waiting &+ i] = (key &+ UInt64(truncatingIfNeeded: i)).littleEndian
      unsafe slots[i] = (value &+ UInt64(truncatingIfNeeded: i) &* valueStep).littleEndian
    }
    waiting += length
  }

  /// Appends an entry whose value `encode` writes, given a buffer and the offset in it.
  /// - Precondition: not full, `key` is larger than all others.
  public func append(key: UInt64, encode: (UnsafeMutableRawBufferPointer, Int) -> Void) {
    precondition(waiting < 2 * entriesMax)
    unsafe keys[waiting] = key.littleEndian
    let all = unsafe UnsafeMutableRawBufferPointer(start: values, count: 2 * entriesMax * valueSize)
    unsafe encode(all, count * valueSize)
    waiting += 1
  }

  /// Removes the last entry.
  /// - Precondition: not empty, `valueSize` is 8.
  public func removeLast() -> (key: UInt64, value: UInt64) {
    precondition(waiting > 0 && valueSize == 8)
    waiting -= 1
    return unsafe (
      UInt64(littleEndian: keys[waiting]),
      UInt64(littleEndian: values.load(fromByteOffset: count * 8, as: UInt64.self))
    )
  }

  /// Inserts all entries of a node before the waiting ones.
  /// - Precondition: there is room, value sizes are equal, the node's keys are below all others.
  public func prepend(_ node: borrowing BtreeNodeView) {
    let added = node.entryCount
    precondition(added <= room && node.valueSize == valueSize)
    unsafe memmove(keys + added, keys, count * 8)
    unsafe memmove(values + added * valueSize, values, count * valueSize)
    unsafe node.bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      unsafe memcpy(keys, base + BtreeNodeRecord.keysOffset, added * 8)
      unsafe memcpy(values, base + node.valuesOffset, added * valueSize)
    }
    waiting += added
  }

  /// The number of entries of the next node, chosen so that the rest makes valid nodes too: all of
  /// them, or half of two nodes' entries.
  public var nextNodeCount: Int { count <= entriesMax ? count : count - count / 2 }

  /// The values of the first entries, for values of eight bytes, little-endian.
  public var firstValues: UnsafePointer<UInt64> {
    unsafe UnsafePointer(values.assumingMemoryBound(to: UInt64.self))
  }

  /// Writes the first `entries` as a node and removes them. Zero entries make an empty leaf.
  /// - Returns: the node's first key (0 of an empty one) and its block.
  public func writeNode(entries: Int, to writer: SequentialBlockWriter) throws(BlockWriteError)
    -> (key: UInt64, block: UInt64)
  {
    precondition(entries <= count && entries <= entriesMax)
    let number = try writer.allocate()
    let first = unsafe entries > 0 ? UInt64(littleEndian: keys[0]) : 0
    try unsafe writer.write(number, kind: .btreeNode) { block in
      unsafe BtreeNodeRecord.begin(block, isLeaf: isLeaf, valueSize: valueSize)
      unsafe BtreeNodeRecord.setEntryCount(block, entries)
      guard let base = block.baseAddress else { return }
      unsafe memcpy(base + BtreeNodeRecord.keysOffset, keys, entries * 8)
      let valuesOffset = BtreeNodeRecord.keysOffset + 8 * entriesMax
      unsafe memcpy(base + valuesOffset, values, entries * valueSize)
    }
    waiting -= entries
    unsafe memmove(keys, keys + entries, count * 8)
    unsafe memmove(values, values + entries * valueSize, count * valueSize)
    return (first, number)
  }
}
