package import ThinFormat

/// The references that leaf values hold, which change when a leaf is copied or a value is removed.
package enum ValueReferences {
  /// Values hold no references.
  case none
  /// Mappings: each holds a reference to a data block.
  case dataBlocks(DataSpaceMap)
  /// Roots of device trees, in operations on the tree of devices: dropping the last reference
  /// destroys the tree.
  case deviceTrees(DataSpaceMap)
  /// Roots of device trees, on the way to one of them.
  case passedThrough
}

/// A B-tree on disk, changed exactly as the kernel's dm-btree changes it: the same operations make
/// the same nodes in the same blocks, with the same left-over bytes.
package struct Btree {
  package let tm: TransactionManager
  package let kind: TreeKind
  package let references: ValueReferences

  package init(_ tm: TransactionManager, _ kind: TreeKind, _ references: ValueReferences = .none) {
    self.tm = tm
    self.kind = kind
    self.references = references
  }

  package func node(_ block: UInt64) throws(PoolError) -> NodeBuffer {
    let node = try tm.node(block)
    try node.validate(block)
    let valueSize = node.isLeaf ? kind.valueSize : 8
    guard node.valueSize == valueSize else {
      throw .block(
        block,
        .format(
          .field(.valueSize, expected: UInt64(valueSize), found: UInt64(node.valueSize))))
    }
    return node
  }

  /// A shadowed node, to be changed after the cache may have been trimmed: it may have been written
  /// meanwhile, and is marked dirty again.
  func shadowed(_ block: UInt64) throws(PoolError) -> NodeBuffer {
    let node = try node(block)
    tm.cache.markDirty(block)
    return node
  }

  /// Makes an empty tree.
  package func empty() throws(PoolError) -> UInt64 {
    let block = try tm.newBlock(.btreeNode)
    try tm.node(block).begin(isLeaf: true, valueSize: kind.valueSize)
    return block
  }

  // MARK: - Lookup

  /// Calls `body` with the value of `key`, if it exists.
  package func lookup<R>(root: UInt64, key: UInt64, _ body: (UnsafeMutableRawPointer) -> R)
    throws(PoolError) -> R?
  {
    var block = root
    for _ in 0..<64 {
      let node = try node(block)
      let i = node.floor(key)
      guard i >= 0 else { return nil }
      if node.isLeaf { return unsafe node.key(i) == key ? body(node.value(i)) : nil }
      block = node.value64(i)
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// The value of `key` in a tree with values of eight bytes.
  package func lookup64(root: UInt64, key: UInt64) throws(PoolError) -> UInt64? {
    try unsafe lookup(root: root, key: key) {
      unsafe UInt64(littleEndian: $0.load(as: UInt64.self))
    }
  }

  /// The first key that is at least `key`.
  package func firstKey(root: UInt64, from key: UInt64) throws(PoolError) -> UInt64? {
    try firstKey(root, from: key, 1)
  }

  private func firstKey(_ root: UInt64, from key: UInt64, _ level: Int) throws(PoolError)
    -> UInt64?
  {
    guard level <= 64 else { throw .inconsistent("a tree of more than 64 levels") }
    let node = try node(root)
    var i = node.floor(key)
    if node.isLeaf {
      if i < 0 || node.key(i) != key { i += 1 }
      return i < node.count ? node.key(i) : nil
    }
    i = Swift.max(i, 0)
    let (count, child) = (node.count, node.count > 0 ? node.value64(i) : 0)
    guard count > 0 else { return nil }
    let next = i + 1 < count ? node.value64(i + 1) : nil
    if let found = try firstKey(child, from: key, level + 1) { return found }
    guard let next else { return nil }
    return try firstKey(next, from: key, level + 1)
  }

  /// The largest key; nil for an empty tree.
  package func lastKey(root: UInt64) throws(PoolError) -> UInt64? {
    var block = root
    for _ in 0..<64 {
      let node = try node(block)
      guard node.count > 0 else { return nil }
      if node.isLeaf { return node.key(node.count - 1) }
      block = node.value64(node.count - 1)
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// The last readable key; nil for an empty tree. If a node on the way to it is damaged, returns
  /// the first key of that node according to its parent, and the fault.
  /// - Throws: if the root is damaged.
  package func lastReadableKey(root: UInt64) throws(PoolError) -> (key: UInt64?, fault: PoolError?)
  {
    var node = try node(root)
    for _ in 0..<64 {
      guard node.count > 0 else { return (nil, nil) }
      let key = node.key(node.count - 1)
      if node.isLeaf { return (key, nil) }
      do throws(PoolError) { node = try self.node(node.value64(node.count - 1)) } catch {
        return (key, error)
      }
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// Calls `body` for every entry, keys ascending, until it returns false.
  package func forEach(
    root: UInt64, _ body: (UInt64, UnsafeMutableRawPointer) throws(PoolError) -> Bool
  ) throws(PoolError) {
    _ = try unsafe visit(root, 1, body)
  }

  private func visit(
    _ block: UInt64, _ level: Int,
    _ body: (UInt64, UnsafeMutableRawPointer) throws(PoolError) -> Bool
  ) throws(PoolError) -> Bool {
    guard level <= 64 else { throw .inconsistent("a tree of more than 64 levels") }
    let node = try node(block)
    for i in 0..<node.count {
      if node.isLeaf {
        guard try unsafe body(node.key(i), node.value(i)) else { return false }
      } else {
        guard try unsafe visit(node.value64(i), level + 1, body) else { return false }
      }
    }
    return true
  }

  // MARK: - Shadowing

  /// Shadows a node, and counts the references that it holds.
  package func shadow(_ block: UInt64) throws(PoolError) -> UInt64 {
    let (copy, gained) = try tm.shadow(block, .btreeNode)
    if gained { try gainReferences(try node(copy)) }
    return copy
  }

  func gainReferences(_ node: NodeBuffer) throws(PoolError) {
    guard node.isLeaf else {
      try runs(node, value: { $0 }) { start, end throws(PoolError) in
        try tm.spaceMap.increment(start, end, tm)
      }
      return
    }
    switch references {
    case .none: break
    case .dataBlocks(let data):
      try runs(node, value: { $0 >> 24 }) { start, end throws(PoolError) in
        try data.increment(start, end, tm)
      }
    case .deviceTrees:
      for i in 0..<node.count {
        try tm.spaceMap.increment(node.value64(i), node.value64(i) &+ 1, tm)
      }
    case .passedThrough:
      try runs(node, value: { $0 }) { start, end throws(PoolError) in
        try tm.spaceMap.increment(start, end, tm)
      }
    }
  }

  /// Drops the references of `count` entries of a leaf, from index `first` on.
  package func loseReferences(_ node: NodeBuffer, _ first: Int, _ count: Int) throws(PoolError) {
    switch references {
    case .none: break
    case .dataBlocks(let data):
      try runs(node, first, count, value: { $0 >> 24 }) { start, end throws(PoolError) in
        try data.decrement(start, end, tm)
      }
    case .deviceTrees(let data):
      let roots = (first..<(first + count)).map { node.value64($0) }
      for root in roots { try Btree(tm, .mappings, .dataBlocks(data)).destroy(root) }
    case .passedThrough:
      try runs(node, first, count, value: { $0 }) { start, end throws(PoolError) in
        try tm.spaceMap.decrement(start, end, tm)
      }
    }
  }

  private func runs(
    _ node: NodeBuffer, _ first: Int = 0, _ count: Int? = nil, value: (UInt64) -> UInt64,
    _ body: (UInt64, UInt64) throws(PoolError) -> Void
  ) throws(PoolError) {
    var start: UInt64 = 0
    var end: UInt64 = 0
    for i in first..<(first + (count ?? node.count)) {
      let block = value(node.value64(i))
      if end != start && block == end {
        end &+= 1
        continue
      }
      if end != start { try body(start, end) }
      start = block
      end = block &+ 1
    }
    if end != start { try body(start, end) }
  }

  // MARK: - Update in place, destruction

  /// Changes the value of an existing key, without making room.
  /// - Returns: the new root.
  package func update(root: UInt64, key: UInt64, _ body: (UnsafeMutableRawPointer) -> Void)
    throws(PoolError) -> UInt64
  {
    let newRoot = try shadow(root)
    var block = newRoot
    for _ in 0..<64 {
      let node = try node(block)
      let i = node.floor(key)
      guard i >= 0 else { throw .notFound }
      if node.isLeaf {
        guard node.key(i) == key else { throw .notFound }
        unsafe body(node.value(i))
        return newRoot
      }
      let child = try shadow(node.value64(i))
      try self.node(block).setValue64(i, child)
      block = child
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// Drops one reference to a tree, and destroys the tree with the last one.
  package func destroy(_ root: UInt64) throws(PoolError) { try destroy(root, 1) }

  private func destroy(_ block: UInt64, _ level: Int) throws(PoolError) {
    guard level <= 64 else { throw .inconsistent("a tree of more than 64 levels") }
    if try tm.spaceMap.count(block, tm) > 1 { return try tm.spaceMap.decrement(block, tm) }
    let node = try node(block)
    if node.isLeaf {
      try loseReferences(node, 0, node.count)
    } else {
      // Nothing here points into the cache between children, and callers look up their nodes again,
      // so memory stays bounded however large the tree is.
      for child in (0..<node.count).map({ node.value64($0) }) {
        try destroy(child, level + 1)
        try tm.cache.trim()
      }
    }
    try tm.spaceMap.decrement(block, tm)
  }
}
