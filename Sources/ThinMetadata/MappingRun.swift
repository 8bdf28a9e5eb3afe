public import BlockIO
public import PersistentData
public import ThinFormat

/// A run of mappings: neighbouring virtual blocks on neighbouring data blocks, of one time.
@frozen public struct MappingRun: Equatable, Sendable {
  /// First virtual block.
  public var virtualBlock: UInt64
  /// Data block of the first virtual block.
  public var dataBlock: UInt64
  /// Blocks, at least 1.
  public var length: UInt64
  /// The pool's time when the mappings were made.
  public var time: UInt32

  /// A run with these values.
  @inlinable
  public init(virtualBlock: UInt64, dataBlock: UInt64, length: UInt64, time: UInt32) {
    self.virtualBlock = virtualBlock
    self.dataBlock = dataBlock
    self.length = length
    self.time = time
  }

  /// Whether this mapping comes right after the run.
  @inlinable @inline(__always)
  public func isContinued(by virtualBlock: UInt64, _ mapping: Mapping) -> Bool {
    virtualBlock == self.virtualBlock &+ length && mapping.dataBlock == dataBlock &+ length
      && mapping.time == time
  }
}

/// Takes the leaves of one mapping tree as they are read, in key order, and refuses what cannot be the
/// next one.
public struct LeafOrder {
  private var lastKey: UInt64?

  /// At the start of a tree.
  public init() {}

  /// The next leaf.
  /// - Parameter firstKey: the separator above it, if known: it has no key below that.
  /// - Throws: `TreeFault` where the block is no sound leaf, or a key is not in its place.
  @_lifetime(copy bytes)
  public mutating func next(
    _ block: UInt64, _ bytes: RawSpan, failure: BlockIOError? = nil, firstKey: UInt64 = 0
  ) throws(TreeFault) -> BtreeNodeView {
    if let failure { throw TreeFault(.mappings, block: block, .unusable(.io(failure))) }
    let leaf: BtreeNodeView
    do throws(FormatError) {
      leaf = try BtreeNodeView(
        validating: bytes, number: block, leafValueSize: TreeKind.mappings.valueSize)
    } catch {
      throw TreeFault(.mappings, block: block, .unusable(.format(error)))
    }
    guard leaf.isLeaf else {
      throw TreeFault(
        .mappings, block: block,
        .unusable(
          .format(
            .field(
              .nodeFlags, expected: UInt64(BtreeNodeRecord.leafFlag),
              found: UInt64(BtreeNodeRecord.internalFlag)))))
    }
    guard leaf.entryCount > 0 else { return leaf }
    let expected = max(firstKey, lastKey.map { $0 + 1 } ?? 0)
    guard leaf.key(0) >= expected else {
      throw TreeFault(
        .mappings, block: block, .keyBelowSeparator(expected: expected, found: leaf.key(0)))
    }
    let last = leaf.key(leaf.entryCount - 1)
    // 2^64 blocks are more than any device can have, and the end of the last would not be a number.
    guard last < .max else {
      throw TreeFault(.mappings, block: block, .keyNotBelowNextSeparator(limit: last, found: last))
    }
    lastKey = last
    return leaf
  }
}
