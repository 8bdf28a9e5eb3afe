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
}

/// Joins mappings of one device, which are given in key order, to runs as long as they can be:
///
///     if !joiner.extend(key, dataBlock, time), let run = joiner.begin(key, dataBlock, time) { use(run) }
@frozen public struct RunJoiner {
  @usableFromInline var start: UInt64 = 0
  /// The virtual block that the run would go on with; without a run one that no mapping has.
  @usableFromInline var next: UInt64 = .max
  @usableFromInline var nextData: UInt64 = 0
  @usableFromInline var time: UInt32 = 0
  @usableFromInline var hasRun = false

  /// Before the first mapping.
  @inlinable public init() {}

  /// Makes the run longer by a mapping, if it goes on with that.
  @inlinable @inline(__always)
  public mutating func extend(_ virtualBlock: UInt64, _ dataBlock: UInt64, _ time: UInt32) -> Bool {
    guard virtualBlock == next, dataBlock == nextData, time == self.time else { return false }
    next &+= 1
    nextData &+= 1
    return true
  }

  /// Begins a run with a mapping.
  /// - Returns: the one that ended; nil where there was none.
  @inlinable
  public mutating func begin(
    _ virtualBlock: UInt64, _ dataBlock: UInt64, _ time: UInt32
  ) -> MappingRun? {
    let ended = end()
    start = virtualBlock
    next = virtualBlock &+ 1
    nextData = dataBlock &+ 1
    self.time = time
    hasRun = true
    return ended
  }

  /// Ends the run; nil where there is none.
  @inlinable
  public mutating func end() -> MappingRun? {
    guard hasRun else { return nil }
    let length = next &- start
    let run = MappingRun(
      virtualBlock: start, dataBlock: nextData &- length, length: length, time: time)
    self = RunJoiner()
    return run
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
