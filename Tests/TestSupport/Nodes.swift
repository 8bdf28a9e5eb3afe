public import Simulation
public import ThinFormat

/// An entry of a node whose values are eight bytes.
public struct NodeEntry: Equatable, Sendable {
  /// The key.
  public var key: UInt64
  /// The value.
  public var value: UInt64

  /// An entry.
  public init(_ key: UInt64, _ value: UInt64) {
    self.key = key
    self.value = value
  }
}

extension MemoryDevice {
  /// Makes a block zeros.
  public func wipe(_ block: UInt64) {
    let bytes = edit(block)
    for i in 0..<bytes.count { bytes[i] = 0 }
  }

  /// Writes a node with these entries and seals it.
  public func putNode(
    _ block: UInt64, kind: TreeKind = .mappings, isLeaf: Bool, _ entries: [NodeEntry]
  ) {
    wipe(block)
    let bytes = edit(block)
    let valueSize = isLeaf ? kind.valueSize : 8
    BtreeNodeRecord.begin(bytes, isLeaf: isLeaf, valueSize: valueSize)
    BtreeNodeRecord.setEntryCount(bytes, entries.count)
    let values = 32 + 8 * BtreeNodeRecord.entriesMax(valueSize: valueSize)
    for (i, entry) in entries.enumerated() {
      bytes.storeBytes(of: entry.key.littleEndian, toByteOffset: 32 + 8 * i, as: UInt64.self)
      bytes.storeBytes(
        of: entry.value.littleEndian, toByteOffset: values + valueSize * i, as: UInt64.self)
    }
    BlockHeader.seal(bytes, number: block, kind: .btreeNode)
  }

  /// Reads the entries of a node with values of eight bytes, and whether it is a leaf, without the
  /// engine.
  public func nodeEntries(_ block: UInt64) -> (isLeaf: Bool, entries: [NodeEntry]) {
    let bytes = peek(block)
    let count = Int(bytes.load(fromByteOffset: 16, as: UInt32.self))
    let entries = (0..<count).map { i in
      NodeEntry(
        bytes.load(fromByteOffset: 32 + 8 * i, as: UInt64.self),
        bytes.load(fromByteOffset: 2048 + 8 * i, as: UInt64.self))
    }
    return (bytes.load(fromByteOffset: 4, as: UInt32.self) == 2, entries)
  }

  /// Changes bytes of a block and corrects the checksum, so that only the content shows the change.
  /// The block's number stays as `change` leaves it.
  public func change(
    _ block: UInt64, _ kind: BlockKind, _ change: (UnsafeMutableRawBufferPointer) -> Void
  ) {
    let bytes = edit(block)
    change(bytes)
    BlockHeader.reseal(bytes, kind: kind)
  }

  /// Gives the last device of the leaves that are the roots of both trees of devices another id. Returns the
  /// one that it had in each.
  @discardableResult
  public func changeLastDeviceID(to id: UInt64) -> [UInt64] {
    var old: [UInt64] = []
    for root in [superblock.mappingRoot, superblock.detailsRoot] {
      change(root, .btreeNode) { bytes in
        let index = Int(bytes.load(fromByteOffset: 16, as: UInt32.self)) - 1
        let place = BtreeNodeRecord.keysOffset + 8 * index
        old.append(bytes.load(fromByteOffset: place, as: UInt64.self))
        bytes.storeBytes(of: id, toByteOffset: place, as: UInt64.self)
      }
    }
    return old
  }

  /// Changes the superblock and corrects its checksum.
  public func changeSuperblock(_ change: (inout Superblock) -> Void) {
    self.change(0, .superblock) { bytes in
      var superblock = Superblock(decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
      change(&superblock)
      superblock.encode(into: bytes)
    }
  }

  /// The decoded superblock, valid or not.
  public var superblock: Superblock { Superblock(decoding: RawSpan(_unsafeBytes: peek(0))) }
}
