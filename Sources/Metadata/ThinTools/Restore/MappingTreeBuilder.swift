import BlockIO
import PersistentData
import ThinFormat

/// A written node: its first key and its block.
struct NodeReference: Equatable {
  var key: UInt64
  var block: UInt64
}

/// The nodes of one level with a sequence of mappings, made from a `<def>`.
struct SharedNodes {
  /// In ascending order; at least one node.
  var nodes: [NodeReference]
  /// 0 for leaves.
  var level: Int
  /// Whether the only node has fewer entries than required of any node but a root.
  var isUnderfull: Bool
}

/// Builds mapping trees bottom-up, one after the other, from mappings and from shared nodes built
/// before.
///
/// A tree grows only at its right edge: `levels[0]` holds mappings that are not in a leaf yet,
/// `levels[n]` nodes of level n - 1 without a parent yet. Before a shared node of level n is added,
/// all entries below must be written into nodes. If too few entries for a node wait there, the
/// shared node is split up instead, and its own first nodes are added, and so on down to mappings
/// if necessary. The same happens at the end with the last node. So at most one path of a shared
/// sequence loses its sharing, and only next to a short sequence.
///
/// Trees that differ in a few places share the internal nodes between those places: if the added
/// nodes turn out to be all children of a node in an earlier tree, that node replaces them.
/// Thousands of snapshots share these nodes, rather than the extent of a `<def>`.
///
/// Reference counts: writing a leaf counts its data blocks, writing an internal node counts its
/// children, and the caller that uses a root counts it. A node that is not used has a count of zero
/// at the end; `releaseUnused` reverses the counts that it made.
///
/// Invariants: every node in `levels` has at least a third of its entries; levels between the first
/// and the highest may be empty.
final class MappingTreeBuilder {
  /// From this many nodes on, a def gets its own parents. Two devices that each build parents over
  /// the same 126 nodes need as many blocks; more devices, or more nodes, need more.
  static let parentsFrom = 126

  let writer: SequentialBlockWriter
  let metadataCounts: ReferenceCounts
  let dataCounts: ReferenceCounts
  private let leaves: NodeAccumulator
  private var levels: [NodeAccumulator]
  /// The states of all `levels`; the first is not used.
  private var states: [LevelState] = [LevelState()]
  /// An underfull node that is the whole tree so far.
  private var sole: NodeReference?
  /// Created when the first node is split up, which most pools never need.
  private lazy var readBack = ReadBackCache(writer)
  /// Nodes that were split up and may have no other use.
  private var takenApart: Set<UInt64> = []

  init(
    writer: SequentialBlockWriter, metadataCounts: ReferenceCounts, dataCounts: ReferenceCounts
  ) {
    self.writer = writer
    self.metadataCounts = metadataCounts
    self.dataCounts = dataCounts
    leaves = NodeAccumulator(isLeaf: true, valueSize: 8)
    levels = [leaves]
  }

  /// Adds a run of mappings.
  /// - Precondition: keys are above all so far, data blocks below the end, the time fits.
  func append(_ run: PoolXmlMapping) throws(BlockWriteError) {
    if sole != nil { try dissolveSole() }
    let value = run.dataBegin.rawValue << 24 | UInt64(run.time)
    if run.length == 1 {
      if leaves.isFull { try writeNode(level: 0, entries: leaves.entriesMax) }
      leaves.append(key: run.thinBegin.rawValue, value: value)
      return
    }
    var done: UInt64 = 0
    while done < run.length {
      if leaves.isFull { try writeNode(level: 0, entries: leaves.entriesMax) }
      let length = min(run.length - done, UInt64(leaves.room))
      leaves.append(
        key: run.thinBegin.rawValue + done, value: value + done << 24, valueStep: 1 << 24,
        length: Int(length))
      done += length
    }
  }

  /// Adds shared nodes.
  /// - Precondition: keys are above all so far.
  func append(_ shared: SharedNodes) throws(BlockWriteError) {
    if sole != nil { try dissolveSole() }
    guard shared.isUnderfull else {
      return try append(shared.nodes[...], level: shared.level)
    }
    if isEmpty {
      sole = shared.nodes[0]
    } else {
      try takeApart(shared.nodes[0], level: 0)
    }
  }

  private var isEmpty: Bool { sole == nil && levels.allSatisfy { $0.count == 0 } }

  private func dissolveSole() throws(BlockWriteError) {
    guard let node = sole else { return }
    sole = nil
    try takeApart(node, level: 0)
  }

  /// Adds `nodes` of `level`, each with enough entries.
  private func append(_ nodes: ArraySlice<NodeReference>, level: Int) throws(BlockWriteError) {
    for node in nodes {
      if try settle(through: level) {
        try push(node, level: level + 1, isShared: true)
      } else {
        try takeApart(node, level: level)
      }
    }
  }

  /// Writes the waiting entries of levels 0 to `level` into nodes. Returns false if there are too
  /// few.
  private func settle(through level: Int) throws(BlockWriteError) -> Bool {
    for l in 0...level where l < levels.count && levels[l].count > 0 {
      guard levels[l].count >= levels[l].entriesMin else { return false }
      try settle(level: l)
    }
    return true
  }

  private func settle(level: Int) throws(BlockWriteError) {
    while levels[level].count > 0 {
      try writeNode(level: level, entries: levels[level].nextNodeCount)
    }
  }

  /// Adds the entries of `node` instead of the node itself.
  private func takeApart(_ node: NodeReference, level: Int) throws(BlockWriteError) {
    var children: [NodeReference] = []
    var mappings: [Mapping] = []
    var keys: [UInt64] = []
    try withNode(node.block) { view in
      for i in 0..<view.entryCount {
        if level > 0 {
          children.append(NodeReference(key: view.key(i), block: view.value64(i)))
        } else {
          keys.append(view.key(i))
          mappings.append(Mapping(rawValue: view.value64(i)))
        }
      }
    }
    takenApart.insert(node.block)
    if level > 0 { return try append(children[...], level: level - 1) }
    for (key, mapping) in zip(keys, mappings) {
      if leaves.isFull { try writeNode(level: 0, entries: leaves.entriesMax) }
      leaves.append(key: key, value: mapping.rawValue)
    }
  }

  /// Splits up the last node of the level above `level`, before the entries that wait in `level`.
  /// - Precondition: a level above has a node.
  private func borrow(level: Int) throws(BlockWriteError) {
    if levels[level + 1].count == 0 { try borrow(level: level + 1) }
    let node = removeLast(level: level + 1)
    takenApart.insert(node.block)
    let before = levels[level].count
    try withNode(node.block) { view in levels[level].prepend(view) }
    guard level > 0 else { return }
    let added = levels[level].count - before
    states[level].isShared.insert(contentsOf: repeatElement(false, count: added), at: 0)
    states[level].candidate = nil
  }

  private func removeLast(level: Int) -> NodeReference {
    let node = levels[level].removeLast()
    states[level].removeLast(1)
    return NodeReference(key: node.key, block: node.value)
  }

  /// Adds a node of the level below to the waiting ones of `level`.
  /// - Parameter isShared: whether other trees may use the node too.
  private func push(_ node: NodeReference, level: Int, isShared: Bool) throws(BlockWriteError) {
    while level >= levels.count {
      levels.append(NodeAccumulator(isLeaf: false, valueSize: 8))
      states.append(LevelState())
    }
    if levels[level].isFull { try writeNode(level: level, entries: levels[level].entriesMax) }
    levels[level].append(key: node.key, value: node.block)
    states[level].isShared.append(isShared)
    if let record = match(node, level: level, isShared: isShared) {
      try replace(by: record, level: level)
    }
  }

  /// Compares the nodes added to `level` with the children of a known node. Returns its record if
  /// the last waiting nodes are all its children.
  private func match(_ node: NodeReference, level: Int, isShared: Bool) -> Int32? {
    guard isShared else {
      states[level].candidate = nil
      return nil
    }
    if let candidate = states[level].candidate {
      states[level].candidate = states[level].known.continuing(
        candidate.record, matched: candidate.matched, with: node.block
      ).map { ($0, candidate.start, candidate.matched + 1) }
    }
    if states[level].candidate == nil {
      let start = levels[level].count - 1
      guard start == 0 || start >= levels[level].entriesMin,
        let record = states[level].known.beginning(with: node.block)
      else { return nil }
      states[level].candidate = (record, start, 1)
    }
    guard let candidate = states[level].candidate,
      candidate.matched == states[level].known.childCount(candidate.record)
    else { return nil }
    return candidate.record
  }

  /// Replaces the last waiting nodes of `level` by the known node whose children they are.
  private func replace(by record: Int32, level: Int) throws(BlockWriteError) {
    let count = states[level].known.childCount(record)
    let node = states[level].known.node(record)
    for _ in 0..<count { _ = levels[level].removeLast() }
    states[level].removeLast(count)
    try settle(level: level)
    try push(node, level: level + 1, isShared: true)
  }

  @inline(never)
  private func writeNode(level: Int, entries: Int) throws(BlockWriteError) {
    let (node, isShared) = try write(level: level, entries: entries)
    try push(node, level: level + 1, isShared: isShared)
  }

  /// Writes a node and counts its references.
  /// - Returns: the node, and whether other trees may use it.
  private func write(level: Int, entries: Int) throws(BlockWriteError)
    -> (node: NodeReference, isShared: Bool)
  {
    let values = unsafe levels[level].firstValues
    if level == 0 {
      unsafe dataCounts.increment(mappings: values, count: entries)
      let node = try leaves.writeNode(entries: entries, to: writer)
      return (NodeReference(key: node.key, block: node.block), false)
    }
    let children = (0..<entries).map { i in
      unsafe UInt32(truncatingIfNeeded: UInt64(littleEndian: values[i]))
    }
    for child in children { metadataCounts.increment(UInt64(child)) }
    let written = try levels[level].writeNode(entries: entries, to: writer)
    let node = NodeReference(key: written.key, block: written.block)
    let isShared =
      entries >= levels[level].entriesMin && states[level].isShared[0..<entries].allSatisfy { $0 }
    if isShared { states[level].known.insert(node, children: children) }
    states[level].removeFirst(entries, entriesMin: levels[level].entriesMin)
    return (node, isShared)
  }

  /// Ends a tree and returns its root, not counted.
  func finishTree() throws(BlockWriteError) -> UInt64 {
    if let node = sole {
      sole = nil
      return node.block
    }
    var level = 0
    while let highest = levels.lastIndex(where: { $0.count > 0 }), highest > 0 {
      if level == highest {
        if levels[level].count == 1 { return removeLast(level: level).block }
        if levels[level].count <= levels[level].entriesMax { break }
      } else if levels[level].count > 0, levels[level].count < levels[level].entriesMin {
        try borrow(level: level)
        continue
      }
      try settle(level: level)
      level += 1
    }
    if level == 0 && leaves.count > leaves.entriesMax {
      try settle(level: 0)
      level = 1
    }
    return try write(level: level, entries: levels[level].count).node.block
  }

  /// Ends a sequence of nodes that trees will share.
  func finishShared() throws(BlockWriteError) -> SharedNodes {
    let isOneLeaf = levels.dropFirst().allSatisfy { $0.count == 0 }
    if isOneLeaf && leaves.count < leaves.entriesMin {
      let node = try write(level: 0, entries: leaves.count).node
      return SharedNodes(nodes: [node], level: 0, isUnderfull: true)
    }
    try settle(level: 0)
    var level = 1
    while levels[level].count >= Self.parentsFrom
      || levels.dropFirst(level + 1).contains(where: { $0.count > 0 })
    {
      try settle(level: level)
      level += 1
    }
    var nodes: [NodeReference] = []
    while levels[level].count > 0 {
      nodes.append(removeLast(level: level))
    }
    return SharedNodes(nodes: nodes.reversed(), level: level - 1, isUnderfull: false)
  }

  /// Reverses the counts made by unused nodes, among `nodes` and those split up, and by nodes that
  /// become unused thereby.
  func releaseUnused(_ nodes: some Sequence<UInt64>) throws(BlockWriteError) {
    var released: Set<UInt64> = []
    for block in nodes { try release(block, &released) }
    for block in takenApart { try release(block, &released) }
  }

  private func release(_ block: UInt64, _ released: inout Set<UInt64>) throws(BlockWriteError) {
    var waiting = [block]
    while let block = waiting.popLast() {
      guard metadataCounts.count(of: block) == 0, released.insert(block).inserted else { continue }
      try withNode(block) { view in
        if view.isLeaf {
          dataCounts.decrement(mappingsOf: view)
          return
        }
        for i in 0..<view.entryCount {
          metadataCounts.decrement(view.value64(i))
          waiting.append(view.value64(i))
        }
      }
    }
  }

  /// Reads back a node that was written here.
  private func withNode(_ block: UInt64, _ body: (borrowing BtreeNodeView) -> Void)
    throws(BlockWriteError)
  {
    let bytes = unsafe RawSpan(_unsafeBytes: try readBack.bytes(of: block))
    do throws(FormatError) {
      let view = try BtreeNodeView(validating: bytes, number: block, leafValueSize: 8)
      body(view)
    } catch {
      throw .device(
        BlockIOError(
          .read, path: writer.device.path, offset: block * UInt64(Limits.blockBytes), code: 5))
    }
  }
}
