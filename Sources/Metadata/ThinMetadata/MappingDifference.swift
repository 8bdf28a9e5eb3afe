import BlockIO
public import PersistentData
public import ThinFormat

/// A run of virtual blocks with the same relation between two thin devices.
@frozen public struct DifferenceRun: Equatable, Sendable {
  /// How the two devices map a virtual block.
  public enum Kind: UInt8, Sendable {
    /// Both map it to the same data block.
    case same
    /// Only the left one maps it.
    case leftOnly
    /// Only the right one maps it.
    case rightOnly
    /// They map it to different data blocks.
    case different
  }

  /// How the two devices map the blocks.
  public var kind: Kind
  /// First virtual block.
  public var virtualBlock: VirtualBlock
  /// The number of blocks, at least 1.
  public var length: UInt64
  /// The left device's data block of the first one; 0 if it maps none.
  public var left: DataBlock
  /// The right device's data block of the first one; 0 if it maps none.
  public var right: DataBlock

  /// A run with these values.
  @inlinable
  public init(
    kind: Kind, virtualBlock: VirtualBlock, length: UInt64, left: DataBlock, right: DataBlock
  ) {
    self.kind = kind
    self.virtualBlock = virtualBlock
    self.length = length
    self.left = left
    self.right = right
  }
}

/// Compares the mappings of two thin devices, visiting equal subtrees at most once.
///
/// Mappings are compared by data block: two devices of one committed state that map a virtual block
/// to the same data block share its content, whatever the times are. Memory: that of
/// `LeafDifference`, a list of leaves to read (1 MiB), and a leaf of each side.
public struct MappingDifference: ~Copyable {
  /// What ends a run besides a gap and a change of kind.
  public enum RunRule: Sendable {
    /// Nothing.
    case virtualBlocks
    /// A data block, on either side, that does not follow the previous one.
    case dataBlocks
  }

  private struct Entry {
    var key: UInt64
    var dataBlock: UInt64
  }

  /// The mappings of a side that were read and not yet compared.
  private struct Side {
    var order = LeafOrder()
    var entries: [Entry] = []
    var next = 0
  }

  private static var planMax: Int { 1 << 15 }
  private let stream: BlockStream
  private let dataBlockCount: UInt64
  private let rule: RunRule
  private var leaves: LeafDifference
  private var plan: [ComparedLeaf] = []
  private var left = Side()
  private var right = Side()
  private var run: DifferenceRun?
  private var isStopped = false

  /// Compares the mapping trees with these roots.
  /// - Parameter dataBlockCount: data blocks of the pool; mappings beyond are damage.
  /// - Parameter includesSame: whether to list equal mappings too, which requires reading shared
  ///   leaves.
  /// - Throws: `TreeFault` if the first path of a tree is unusable.
  public init(
    _ view: MetadataView, left: MetadataBlock, right: MetadataBlock, includesSame: Bool,
    rule: RunRule
  ) throws(TreeFault) {
    stream = BlockStream(view.reader.device)
    dataBlockCount = view.dataBlockCount
    self.rule = rule
    leaves = try LeafDifference(
      view.reader, stream: stream, left: left.rawValue, right: right.rawValue,
      listsCommon: includesSame)
  }

  /// Calls `body` with every run, by ascending virtual blocks, until it returns false.
  ///
  /// Without `includesSame`, only the runs of `same` that were read anyway are listed; ignore them.
  /// - Throws: `TreeFault` at the first damage. The runs before it are correct.
  public mutating func forEachRun(_ body: (DifferenceRun) -> Bool) throws(TreeFault) {
    while !isStopped {
      plan.removeAll(keepingCapacity: true)
      while plan.count < Self.planMax, let leaf = try leaves.next() { plan.append(leaf) }
      if plan.isEmpty { break }
      try readPlan(body)
    }
    compare(below: .max, body)
    emit(nil, body)
  }

  private mutating func readPlan(_ body: (DifferenceRun) -> Bool) throws(TreeFault) {
    let plan = self.plan
    var ahead = 0
    var at = 0
    try stream.read(
      next: { () throws(TreeFault) -> UInt64? in
        guard ahead < plan.count, !isStopped else { return nil }
        ahead += 1
        return plan[ahead - 1].block
      },
      body: { block, bytes, failure throws(TreeFault) in
        let leaf = plan[at]
        at += 1
        if isStopped { return }
        // Neither side has an unread key below this leaf's first key.
        compare(below: leaf.firstKey, body)
        try take(leaf, bytes, failure, body)
      })
  }

  private mutating func take(
    _ leaf: ComparedLeaf, _ bytes: RawSpan, _ failure: BlockIOError?,
    _ body: (DifferenceRun) -> Bool
  ) throws(TreeFault) {
    switch leaf.owner {
    case .left: try Self.append(leaf, bytes, failure, dataBlockCount, to: &left)
    case .right: try Self.append(leaf, bytes, failure, dataBlockCount, to: &right)
    case .both:
      try Self.append(leaf, bytes, failure, dataBlockCount, to: &left)
      // The leaf is read once, but its mappings are in both sides; the order is checked for each
      // side.
      try Self.append(leaf, bytes, failure, dataBlockCount, to: &right)
    }
  }

  private static func append(
    _ leaf: ComparedLeaf, _ bytes: RawSpan, _ failure: BlockIOError?, _ dataBlockCount: UInt64,
    to side: inout Side
  ) throws(TreeFault) {
    let node = try side.order.next(
      MetadataBlock(leaf.block), bytes, failure: failure, firstKey: leaf.firstKey)
    if side.next > 0 {
      side.entries.removeSubrange(0..<side.next)
      side.next = 0
    }
    side.entries.reserveCapacity(side.entries.count + node.entryCount)
    for i in 0..<node.entryCount {
      let dataBlock = Mapping(rawValue: node.value64(i)).dataBlock
      guard dataBlock < dataBlockCount else {
        throw TreeFault(
          .mappings, block: leaf.block,
          .dataBlockBeyondEnd(
            virtualBlock: node.key(i), dataBlock: dataBlock, blockCount: dataBlockCount))
      }
      side.entries.append(Entry(key: node.key(i), dataBlock: dataBlock))
    }
  }

  /// Compares all mappings read so far with keys below `end`.
  private mutating func compare(below end: UInt64, _ body: (DifferenceRun) -> Bool) {
    // `LeafOrder` refuses the key 2^64 - 1, which means none here.
    var (l, r) = (left.next, right.next)
    let (lefts, rights) = (left.entries, right.entries)
    while !isStopped {
      let leftKey = l < lefts.count ? lefts[l].key : .max
      let rightKey = r < rights.count ? rights[r].key : .max
      let key = min(leftKey, rightKey)
      guard key < end else { break }
      var found = DifferenceRun(
        kind: .same, virtualBlock: VirtualBlock(key), length: 1, left: 0, right: 0)
      if leftKey == key {
        found.left = DataBlock(lefts[l].dataBlock)
        l += 1
      }
      if rightKey == key {
        found.right = DataBlock(rights[r].dataBlock)
        r += 1
      }
      if leftKey != rightKey {
        found.kind = leftKey == key ? .leftOnly : .rightOnly
      } else if found.left != found.right {
        found.kind = .different
      }
      add(found, body)
    }
    left.next = l
    right.next = r
  }

  @inline(__always)
  private mutating func add(_ found: DifferenceRun, _ body: (DifferenceRun) -> Bool) {
    if let run, run.kind == found.kind, run.virtualBlock &+ run.length == found.virtualBlock,
      rule == .virtualBlocks
        || (run.kind == .rightOnly || run.left &+ run.length == found.left)
          && (run.kind == .leftOnly || run.right &+ run.length == found.right)
    {
      self.run?.length = run.length + 1
      return
    }
    emit(found, body)
  }

  /// Passes on the complete run, and begins another.
  private mutating func emit(_ next: DifferenceRun?, _ body: (DifferenceRun) -> Bool) {
    if let run, !isStopped, !body(run) { isStopped = true }
    run = next
  }
}
