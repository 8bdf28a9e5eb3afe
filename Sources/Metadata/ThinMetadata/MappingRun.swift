public import BlockIO
public import PersistentData
public import ThinFormat

/// A run of mappings: consecutive virtual blocks on consecutive data blocks, of the same time.
@frozen public struct MappingRun: Equatable, Sendable {
  /// First virtual block.
  public var virtualBlock: VirtualBlock
  /// Data block of the first virtual block.
  public var dataBlock: DataBlock
  /// The number of blocks, at least 1.
  public var length: UInt64
  /// The pool's time when the mappings were made.
  public var time: UInt32

  /// A run with these values.
  @inlinable
  public init(virtualBlock: VirtualBlock, dataBlock: DataBlock, length: UInt64, time: UInt32) {
    self.virtualBlock = virtualBlock
    self.dataBlock = dataBlock
    self.length = length
    self.time = time
  }
}

/// Joins the mappings of one device, given in key order, into runs as long as possible:
///
///     if !joiner.extend(block, data, time), let run = joiner.begin(block, data, time) { use(run) }
@frozen public struct RunJoiner {
  @usableFromInline var start: UInt64 = 0
  /// The next virtual block of the run; without a run a number that no mapping has.
  @usableFromInline var next: UInt64 = .max
  @usableFromInline var nextData: UInt64 = 0
  @usableFromInline var time: UInt32 = 0
  @usableFromInline var hasRun = false

  /// A joiner without mappings.
  @inlinable public init() {}

  /// Extends the run by a mapping, if the mapping continues it. Returns whether it did.
  @inlinable @inline(__always)
  public mutating func extend(
    _ virtualBlock: VirtualBlock, _ dataBlock: DataBlock, _ time: UInt32
  ) -> Bool {
    guard virtualBlock.rawValue == next, dataBlock.rawValue == nextData, time == self.time else {
      return false
    }
    next &+= 1
    nextData &+= 1
    return true
  }

  /// Begins a run with a mapping.
  /// - Returns: the previous run; nil if there was none.
  @inlinable
  public mutating func begin(
    _ virtualBlock: VirtualBlock, _ dataBlock: DataBlock, _ time: UInt32
  ) -> MappingRun? {
    let ended = end()
    start = virtualBlock.rawValue
    next = virtualBlock.rawValue &+ 1
    nextData = dataBlock.rawValue &+ 1
    self.time = time
    hasRun = true
    return ended
  }

  /// Ends the run and returns it; nil if there is none.
  @inlinable
  public mutating func end() -> MappingRun? {
    guard hasRun else { return nil }
    let length = next &- start
    let run = MappingRun(
      virtualBlock: VirtualBlock(start), dataBlock: DataBlock(nextData &- length),
      length: length, time: time)
    self = RunJoiner()
    return run
  }
}

/// Checks the order of the leaves of one mapping tree as they are read in key order.
public struct LeafOrder {
  private var lastKey: UInt64?

  /// The order at the start of a tree.
  public init() {}

  /// Checks the next leaf.
  /// - Parameter firstKey: the separator above it, if known: it must not have a smaller key.
  /// - Throws: `TreeFault` if the block is not a sound leaf, or a key is out of place.
  @_lifetime(copy bytes)
  public mutating func next(
    _ block: MetadataBlock, _ bytes: RawSpan, failure: BlockIOError? = nil, firstKey: UInt64 = 0
  ) throws(TreeFault) -> BtreeNodeView {
    let block = block.rawValue
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
    // No device can have 2^64 blocks, and the end of the last one would overflow.
    guard last < .max else {
      throw TreeFault(.mappings, block: block, .keyNotBelowNextSeparator(limit: last, found: last))
    }
    lastKey = last
    return leaf
  }
}
