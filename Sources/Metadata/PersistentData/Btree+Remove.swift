import ThinFormat

// Removal. Children beside the way are merged or balanced before the walk enters one of them.
extension Btree {
  /// Removes `key` and drops its value's reference.
  /// - Returns: the new root.
  /// - Throws: `.notFound`; the nodes on the way are shadowed even then.
  package func remove(root: UInt64, key: UInt64) throws(PoolError) -> UInt64 {
    let (newRoot, leaf) = try makeWayForRemoval(root: root, key: key)
    let node = try node(leaf)
    let i = node.floor(key)
    guard i >= 0, node.key(i) == key else { throw .notFound }
    try loseReferences(node, i, 1)
    try shadowed(leaf).remove(i)
    return newRoot
  }

  /// Removes consecutive keys from `first` on, up to the first gap or `end`.
  /// - Returns: the new root and the number removed.
  package func removeRun(root: UInt64, first: UInt64, end: UInt64) throws(PoolError) -> (
    root: UInt64, removed: UInt64
  ) {
    var (root, key, removed) = (root, first, UInt64(0))
    while true {
      let (newRoot, leaf) = try makeWayForRemoval(root: root, key: key)
      root = newRoot
      let node = try node(leaf)
      let i = Swift.max(node.floor(key), 0)
      guard node.count > 0, node.key(i) >= key, node.key(i) < end else {
        return (root, removed)
      }
      key = node.key(i) + 1
      try loseReferences(node, i, 1)
      try shadowed(leaf).remove(i)
      removed += 1
      // The range may cover a whole device.
      try tm.cache.trim()
    }
  }

  private func makeWayForRemoval(root: UInt64, key: UInt64) throws(PoolError) -> (
    root: UInt64, leaf: UInt64
  ) {
    let newRoot = try shadow(root)
    var block = newRoot
    for _ in 0..<64 {
      if try node(block).isLeaf { return (newRoot, block) }
      if try node(block).count == 1 {
        try swallowOnlyChild(block)
        if try node(block).isLeaf { return (newRoot, block) }
      } else {
        try rebalance(block, key)
      }
      let node = try node(block)
      let i = node.floor(key)
      guard i >= 0 else { throw .notFound }
      let child = try shadow(node.value64(i))
      try self.node(block).setValue64(i, child)
      block = child
    }
    throw .inconsistent("a tree of more than 64 levels at block \(root)")
  }

  /// Replaces a node that has one child by the child's content.
  private func swallowOnlyChild(_ block: UInt64) throws(PoolError) {
    let child = try node(block).value64(0)
    let shared = try tm.spaceMap.mayBeShared(child, tm)
    let (target, source) = (try node(block), try node(child))
    unsafe target.bytes.copyMemory(from: UnsafeRawBufferPointer(source.bytes))
    if shared { try gainReferences(try node(block)) }
    try tm.spaceMap.decrement(child, tm)
  }

  private func rebalance(_ block: UInt64, _ key: UInt64) throws(PoolError) {
    let parent = try node(block)
    let n = parent.count
    let i = parent.floor(key)
    guard i >= 0 else { throw .notFound }
    if i == 0 {
      try shadowChildren(block, 0...1)
      try rebalancePair(block, 0)
    } else if i == n - 1 {
      try shadowChildren(block, (n - 2)...(n - 1))
      try rebalancePair(block, n - 2)
    } else {
      try shadowChildren(block, (i - 1)...(i + 1))
      try rebalanceTriple(block, i - 1)
    }
  }

  private func shadowChildren(_ block: UInt64, _ slots: ClosedRange<Int>) throws(PoolError) {
    for slot in slots {
      let child = try shadow(try node(block).value64(slot))
      try node(block).setValue64(slot, child)
    }
  }

  private func rebalancePair(_ block: UInt64, _ first: Int) throws(PoolError) {
    let parent = try node(block)
    let z = parent.value64(first + 1)
    let (a, zNode) = (try node(parent.value64(first)), try node(z))
    try a.requireLike(zNode)
    let (an, zn) = (a.count, zNode.count)
    if an + zn < 2 * (a.max / 3 + 1) {
      a.copy(from: zNode, at: 0, to: an, count: zn)
      a.count = an + zn
      parent.remove(first + 1)
      return try tm.spaceMap.decrement(z, tm)
    }
    shift(a, zNode, an - (an + zn) / 2)
    parent.setKey(first + 1, zNode.key(0))
  }

  private func rebalanceTriple(_ block: UInt64, _ first: Int) throws(PoolError) {
    let parent = try node(block)
    let middle = parent.value64(first + 1)
    let (a, c, z) = (
      try node(parent.value64(first)), try node(middle), try node(parent.value64(first + 2))
    )
    try a.requireLike(c)
    try a.requireLike(z)
    if a.count + c.count + z.count < 4 * (a.max / 3) + 1 {
      let s = min(a.max - a.count, c.count)
      a.copy(from: c, at: 0, to: a.count, count: s)
      a.count += s
      let rest = c.count - s
      if rest > 0 {
        z.move(from: 0, to: rest, count: z.count)
        z.copy(from: c, at: s, to: 0, count: rest)
        z.count += rest
      }
      parent.setKey(first + 2, z.key(0))
      parent.remove(first + 1)
      try tm.spaceMap.decrement(middle, tm)
      return try rebalancePair(block, first)
    }
    redistribute(a, c, z)
    parent.setKey(first + 1, c.key(0))
    parent.setKey(first + 2, z.key(0))
  }

  private func redistribute(_ a: NodeBuffer, _ c: NodeBuffer, _ z: NodeBuffer) {
    let total = a.count + c.count + z.count
    let tz = total / 3
    let ta = tz + (total % 3 != 0 ? 1 : 0)
    if a.count < z.count {
      var s = a.count - ta
      if s < 0 && c.count < -s {
        // The middle node is too small to fill the left one: all of it goes there, and the rest
        // comes from the right.
        let moved = c.count
        shift(a, c, -moved)
        s += moved
        shift(a, z, s)
      } else {
        shift(a, c, s)
      }
      shift(c, z, tz - z.count)
    } else {
      var s = tz - z.count
      if s > 0 && c.count < s {
        let moved = c.count
        shift(c, z, moved)
        s -= moved
        shift(a, z, s)
      } else {
        shift(c, z, s)
      }
      shift(a, c, a.count - ta)
    }
  }

  /// Moves entries between neighbours: from the left's end to the right's start if `count` is
  /// positive, the other way if it is negative.
  private func shift(_ left: NodeBuffer, _ right: NodeBuffer, _ count: Int) {
    if count > 0 {
      right.move(from: 0, to: count, count: right.count)
      right.copy(from: left, at: left.count - count, to: 0, count: count)
      left.count -= count
      right.count += count
    } else if count < 0 {
      left.copy(from: right, at: 0, to: left.count, count: -count)
      right.move(from: -count, to: 0, count: right.count + count)
      left.count -= count
      right.count += count
    }
  }
}
