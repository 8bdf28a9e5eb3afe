import ThinFormat

// Insertion. Every node on the way is shadowed, and split or balanced if full, before the walk
// continues, so that a split never propagates upwards.
extension Btree {
  /// Sets the value of `key`.
  /// - Parameter write: stores the value's bytes.
  /// - Parameter isEqual: whether the old value's reference is kept; otherwise it is dropped.
  /// - Returns: the new root, and whether the key is new.
  package func insert(
    root: UInt64, key: UInt64,
    isEqual: (UnsafeMutableRawPointer) -> Bool = { _ in false },
    write: (UnsafeMutableRawPointer) -> Void
  ) throws(PoolError) -> (root: UInt64, isNew: Bool) {
    let (newRoot, leaf, index, exists) = try makeWay(root: root, key: key)
    let node = try node(leaf)
    if exists {
      if unsafe !isEqual(node.value(index)) { try loseReferences(node, index, 1) }
      unsafe write(try shadowed(leaf).value(index))
      return (newRoot, false)
    }
    unsafe write(node.insert(index, key: key))
    return (newRoot, true)
  }

  /// Walks to the leaf of `key`, and makes room in it.
  /// - Returns: the new root; the leaf; the index of the key; and whether the key exists.
  package func makeWay(root: UInt64, key: UInt64) throws(PoolError) -> (
    root: UInt64, leaf: UInt64, index: Int, exists: Bool
  ) {
    let newRoot = try shadow(root)
    var parent: (block: UInt64, slot: Int)?
    var block = newRoot
    for _ in 0..<64 {
      var node = try node(block)
      var i = node.floor(key)
      let exists = node.isLeaf && i >= 0 && node.key(i) == key
      if node.isFull && !exists {
        if let parent {
          block = try makeRoom(parent.block, parent.slot, key)
        } else {
          try splitRoot(block)
        }
        node = try self.node(block)
        i = node.floor(key)
      }
      if node.isLeaf {
        return exists ? (newRoot, block, i, true) : (newRoot, block, i + 1, false)
      }
      if i < 0 {
        node.setKey(0, key)
        i = 0
      }
      let child = try shadow(node.value64(i))
      try self.node(block).setValue64(i, child)
      parent = (block, i)
      block = child
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// Moves the entries of the root into two new children; the root keeps its block.
  private func splitRoot(_ block: UInt64) throws(PoolError) {
    let left = try tm.newBlock(.btreeNode)
    let right = try tm.newBlock(.btreeNode)
    let (root, l, r) = (try node(block), try tm.node(left), try tm.node(right))
    l.begin(like: root)
    r.begin(like: root)
    try l.requireLike(root)
    let n = root.count
    l.copy(from: root, at: 0, to: 0, count: n / 2)
    l.count = n / 2
    r.copy(from: root, at: n / 2, to: 0, count: n - n / 2)
    r.count = n - n / 2
    root.begin(isLeaf: false, valueSize: 8)
    root.count = 2
    root.setKey(0, l.key(0))
    root.setValue64(0, left)
    root.setKey(1, r.key(0))
    root.setValue64(1, right)
  }

  /// Makes room in the full child at `slot` of a node that has room itself.
  /// - Returns: the child to which `key` now belongs.
  private func makeRoom(_ parentBlock: UInt64, _ slot: Int, _ key: UInt64) throws(PoolError)
    -> UInt64
  {
    let parent = try node(parentBlock)
    let n = parent.count
    var foundShared = false
    if slot > 0 {
      let sibling = parent.value64(slot - 1)
      if try tm.spaceMap.mayBeShared(sibling, tm) {
        foundShared = true
      } else if try hasSpace(sibling) {
        return try relieve(parentBlock, left: slot - 1, shadowing: slot - 1, key)
      }
    }
    if slot < n - 1 {
      let sibling = parent.value64(slot + 1)
      if try tm.spaceMap.mayBeShared(sibling, tm) {
        foundShared = true
      } else if try hasSpace(sibling) {
        return try relieve(parentBlock, left: slot, shadowing: slot + 1, key)
      }
    }
    if foundShared || n <= 2 || slot == 0 || slot == n - 1 {
      return try splitOneIntoTwo(parentBlock, slot, key)
    }
    return try splitTwoIntoThree(parentBlock, slot, key)
  }

  /// Moving entries to a sibling is worth it from eight unused slots on.
  private func hasSpace(_ block: UInt64) throws(PoolError) -> Bool {
    let node = try node(block)
    return node.max - node.count >= 8
  }

  private func relieve(_ parentBlock: UInt64, left: Int, shadowing slot: Int, _ key: UInt64)
    throws(PoolError) -> UInt64
  {
    let sibling = try shadow(try node(parentBlock).value64(slot))
    let parent = try node(parentBlock)
    parent.setValue64(slot, sibling)
    let (leftBlock, rightBlock) = (parent.value64(left), parent.value64(left + 1))
    let (l, r) = (try node(leftBlock), try node(rightBlock))
    try l.requireLike(r)
    evenOut(l, r)
    parent.setKey(left + 1, r.key(0))
    return key < r.key(0) ? leftBlock : rightBlock
  }

  private func evenOut(_ a: NodeBuffer, _ z: NodeBuffer) {
    let (an, zn) = (a.count, z.count)
    let target = (an + zn) / 2
    if an < target {
      let d = target - an
      a.copy(from: z, at: 0, to: an, count: d)
      z.move(from: d, to: 0, count: zn - d)
    } else if an > target {
      let d = an - target
      z.move(from: 0, to: d, count: zn)
      z.copy(from: a, at: target, to: 0, count: d)
    }
    a.count = target
    z.count = an + zn - target
  }

  private func splitOneIntoTwo(_ parentBlock: UInt64, _ slot: Int, _ key: UInt64)
    throws(PoolError) -> UInt64
  {
    let new = try tm.newBlock(.btreeNode)
    let parent = try node(parentBlock)
    let child = parent.value64(slot)
    let (c, x) = (try node(child), try tm.node(new))
    x.begin(like: c)
    try x.requireLike(c)
    evenOut(c, x)
    unsafe storeChild(parent.insert(slot + 1, key: x.key(0)), new)
    return key < x.key(0) ? child : new
  }

  private func splitTwoIntoThree(_ parentBlock: UInt64, _ slot: Int, _ key: UInt64)
    throws(PoolError) -> UInt64
  {
    let left = try shadow(try node(parentBlock).value64(slot - 1))
    try node(parentBlock).setValue64(slot - 1, left)
    let middle = try tm.newBlock(.btreeNode)
    let parent = try node(parentBlock)
    let child = parent.value64(slot)
    let (l, m, c) = (try node(left), try tm.node(middle), try node(child))
    m.begin(like: c)
    try l.requireLike(c)
    try m.requireLike(c)
    let (ln, cn) = (l.count, c.count)
    let tl = (ln + cn) / 3
    let tm_ = (ln + cn - tl) / 2
    let tc = ln + cn - tl - tm_
    if ln < tl {
      let d = tl - ln
      l.copy(from: c, at: 0, to: ln, count: d)
      m.copy(from: c, at: d, to: 0, count: tm_)
      c.move(from: d + tm_, to: 0, count: tc)
    } else if ln < tl + tm_ {
      let d = ln - tl
      m.copy(from: l, at: tl, to: 0, count: d)
      m.copy(from: c, at: 0, to: d, count: tm_ - d)
      c.move(from: tm_ - d, to: 0, count: tc)
    } else {
      let d = tc - cn
      c.move(from: 0, to: d, count: cn)
      c.copy(from: l, at: ln - d, to: 0, count: d)
      // Copies d more entries than remain, as the kernel does; they are left over in unused slots.
      m.copy(from: l, at: tl, to: 0, count: ln - tl)
    }
    l.count = tl
    m.count = tm_
    c.count = tc
    parent.setKey(slot, c.key(0))
    unsafe storeChild(parent.insert(slot, key: m.key(0)), middle)
    if key < m.key(0) { return left }
    return key < c.key(0) ? middle : child
  }

  private func storeChild(_ value: UnsafeMutableRawPointer, _ block: UInt64) {
    unsafe value.storeBytes(of: block.littleEndian, as: UInt64.self)
  }
}
