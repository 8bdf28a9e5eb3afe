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

    var isEmpty: Bool { next == entries.count }
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
    case .left:
      let node = try Self.next(leaf, bytes, failure, dataBlockCount, &left.order)
      Self.append(node, to: &left)
    case .right:
      let node = try Self.next(leaf, bytes, failure, dataBlockCount, &right.order)
      Self.append(node, to: &right)
    case .both:
      // The leaf is read once, but its mappings are in both sides; the order is checked for each
      // side.
      let node = try Self.next(leaf, bytes, failure, dataBlockCount, &left.order)
      _ = try Self.next(leaf, bytes, failure, dataBlockCount, &right.order)
      guard left.isEmpty, right.isEmpty else {
        Self.append(node, to: &left)
        Self.append(node, to: &right)
        return
      }
      addShared(node, body)
    }
  }

  /// The next leaf of a side, all of whose data blocks exist.
  @_lifetime(copy bytes)
  private static func next(
    _ leaf: ComparedLeaf, _ bytes: RawSpan, _ failure: BlockIOError?, _ dataBlockCount: UInt64,
    _ order: inout LeafOrder
  ) throws(TreeFault) -> BtreeNodeView {
    let node = try order.next(
      MetadataBlock(leaf.block), bytes, failure: failure, firstKey: leaf.firstKey)
    var isBeyond = false
    for i in 0..<node.entryCount {
      isBeyond = Mapping(rawValue: node.value64(i)).dataBlock >= dataBlockCount || isBeyond
    }
    guard isBeyond else { return node }
    var i = 0
    while Mapping(rawValue: node.value64(i)).dataBlock < dataBlockCount { i += 1 }
    throw TreeFault(
      .mappings, block: leaf.block,
      .dataBlockBeyondEnd(
        virtualBlock: node.key(i), dataBlock: Mapping(rawValue: node.value64(i)).dataBlock,
        blockCount: dataBlockCount))
  }

  private static func append(_ node: borrowing BtreeNodeView, to side: inout Side) {
    if side.next > 0 {
      side.entries.removeSubrange(0..<side.next)
      side.next = 0
    }
    side.entries.reserveCapacity(side.entries.count + node.entryCount)
    for i in 0..<node.entryCount {
      side.entries.append(
        Entry(key: node.key(i), dataBlock: Mapping(rawValue: node.value64(i)).dataBlock))
    }
  }

  /// Adds the mappings of a leaf that both sides share, where no other mapping is waiting.
  private mutating func addShared(
    _ node: borrowing BtreeNodeView, _ body: (DifferenceRun) -> Bool
  ) {
    var i = 0
    while i < node.entryCount, !isStopped {
      let (key, data) = (node.key(i), Mapping(rawValue: node.value64(i)).dataBlock)
      let end = node.mappingRunEnd(from: i, followsData: rule == .dataBlocks)
      add(
        DifferenceRun(
          kind: .same, virtualBlock: VirtualBlock(key), length: UInt64(end - i),
          left: DataBlock(data), right: DataBlock(data)), body)
      i = end
    }
  }

  /// Compares all mappings read so far with keys below `end`.
  private mutating func compare(below end: UInt64, _ body: (DifferenceRun) -> Bool) {
    var (l, r) = (left.next, right.next)
    let (lefts, rights) = (left.entries, right.entries)
    let rule = rule
    while !isStopped,
      let run = Self.nextRun(lefts.span, &l, rights.span, &r, below: end, rule)
    { add(run, body) }
    left.next = l
    right.next = r
  }

  /// The run that begins with the next entry of either side, below `end`.
  private static func nextRun(
    _ lefts: Span<Entry>, _ l: inout Int, _ rights: Span<Entry>, _ r: inout Int,
    below end: UInt64, _ rule: RunRule
  ) -> DifferenceRun? {
    // `LeafOrder` refuses the key 2^64 - 1, which means none here.
    let leftKey = l < lefts.count ? lefts[l].key : .max
    let rightKey = r < rights.count ? rights[r].key : .max
    guard min(leftKey, rightKey) < end else { return nil }
    // One that is alone ends at the other side's next entry.
    if leftKey < rightKey {
      return runAlone(.leftOnly, lefts, &l, below: min(end, rightKey), rule)
    }
    if rightKey < leftKey {
      return runAlone(.rightOnly, rights, &r, below: min(end, leftKey), rule)
    }
    let (left, right) = (lefts[l].dataBlock, rights[r].dataBlock)
    let isSame = left == right
    let most = Int(min(UInt64(min(lefts.count - l, rights.count - r)), end - leftKey))
    var length = 1
    while length < most {
      let (a, b) = (lefts[l &+ length], rights[r &+ length])
      guard a.key == leftKey &+ UInt64(length), b.key == a.key,
        (a.dataBlock == b.dataBlock) == isSame,
        rule == .virtualBlocks
          || a.dataBlock == left &+ UInt64(length) && b.dataBlock == right &+ UInt64(length)
      else { break }
      length += 1
    }
    l += length
    r += length
    return DifferenceRun(
      kind: isSame ? .same : .different, virtualBlock: VirtualBlock(leftKey),
      length: UInt64(length), left: DataBlock(left), right: DataBlock(right))
  }

  /// The run of one side alone that begins with its entry `i`, below `limit`.
  private static func runAlone(
    _ kind: DifferenceRun.Kind, _ entries: Span<Entry>, _ i: inout Int, below limit: UInt64,
    _ rule: RunRule
  ) -> DifferenceRun {
    let (key, data) = (entries[i].key, entries[i].dataBlock)
    let most = Int(min(UInt64(entries.count - i), limit - key))
    var length = 1
    while length < most, entries[i &+ length].key == key &+ UInt64(length),
      rule == .virtualBlocks || entries[i &+ length].dataBlock == data &+ UInt64(length)
    { length += 1 }
    i += length
    return DifferenceRun(
      kind: kind, virtualBlock: VirtualBlock(key), length: UInt64(length),
      left: kind == .leftOnly ? DataBlock(data) : 0,
      right: kind == .rightOnly ? DataBlock(data) : 0)
  }

  private mutating func add(_ found: DifferenceRun, _ body: (DifferenceRun) -> Bool) {
    if let run, run.kind == found.kind, run.virtualBlock &+ run.length == found.virtualBlock,
      rule == .virtualBlocks
        || (run.kind == .rightOnly || run.left &+ run.length == found.left)
          && (run.kind == .leftOnly || run.right &+ run.length == found.right)
    {
      self.run?.length = run.length + found.length
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
