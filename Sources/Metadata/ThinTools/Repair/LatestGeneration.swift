import PersistentData
import ThinFormat

// Where the superblock is lost: which generation was the last, whole or not, and whether that is certain.
extension RootScan {
  /// What is taken for the latest generation.
  struct Latest {
    var roots: Roots
    /// Whether nothing on the device can have followed it.
    var isCertain: Bool
  }

  /// Generations that are looked at.
  private static var candidatesMax: Int { 32 }
  /// Blocks of zeros in a row behind a generation that show that nothing was written after it.
  private static var emptyMin: Int { 16 }
  /// Generations without their index block that are looked for, and free blocks where each is.
  private static var followersMax: Int { 4 }
  private static var freeMax: Int { 4096 }
  /// Generations side by side of which one that is complete is looked for.
  private static var turnTries: Int { 8 }

  /// The latest generation of which something is left, as far as the order of blocks, times and transactions
  /// tell; nil where no generation is left.
  ///
  /// It is certain where nothing of it is lost, where everything else that nothing on the device followed for
  /// certain is older by what it holds, and where no block is damaged in which the index block of a later one
  /// would lie.
  mutating func latest() -> Latest? {
    _ = scannedKinds()
    progress.begin("Looking for the latest generation", total: 0)
    var order = GenerationOrder(reader, indexBlocks: indexBlocks)
    let likely = order.latest(of: indexBlocks)
    let ends = order.ends()
    let turn = lastBeforeOlder(&order).map { [$0] } ?? []
    var candidates: [(index: GenerationOrder.Index, roots: Roots)] = []
    var hasLikely = false
    var seen: Set<UInt64> = []
    for (place, index) in (likely + turn + ends.certain + ends.doubtful).enumerated()
    where candidates.count < Self.candidatesMax && (place >= likely.count || !hasLikely) {
      guard seen.insert(index.block).inserted, let roots = left(of: index) else { continue }
      candidates.append((index, roots))
      if place < likely.count, roots.isComplete || roots.isDamaged { hasLikely = true }
    }
    let isWorthy = candidates.contains { $0.roots.isComplete || $0.roots.isDamaged }
    if isWorthy { candidates.removeAll { !$0.roots.isComplete && !$0.roots.isDamaged } }
    guard var best = candidates.first else { return nil }
    let succession = Succession(reader)
    for other in candidates.dropFirst()
    where !succession.canFollow(best.roots, other.roots)
      && succession.canFollow(other.roots, best.roots)
    {
      best = other
    }
    // One that followed, without its index block.
    for _ in 0..<Self.followersMax {
      guard let (index, roots) = lostFollower(of: best.index, &order) else { break }
      best = (index, roots)
    }
    let lasts = Set((ends.certain + ends.doubtful).map(\.block))
    let isCertain =
      ends.certain.contains { $0.block == best.index.block }
      && best.roots.isComplete && !hasGap()
      && candidates.allSatisfy {
        $0.index.block == best.index.block || !lasts.contains($0.index.block)
          || !succession.canFollow($0.roots, best.roots)
      }
      && !mayHaveLostFollower(best.index, &order)
      && !mayHaveBeenLast(ends.followers, besides: best, succession, &order)
    return Latest(roots: best.roots, isCertain: isCertain)
  }

  /// The last generation before those that lie behind it and are older: there are such where the last of all
  /// is of an earlier time than the first. Nil where it is not, or where too little is left.
  private mutating func lastBeforeOlder(_ order: inout GenerationOrder) -> GenerationOrder.Index? {
    let places = indexBlocks.indices
    guard var best = complete(places, &order), let last = complete(places.reversed(), &order),
      best.age > last.age
    else { return nil }
    let first = best.age
    var end = last.place
    while best.place + 1 < end {
      let middle = best.place + (end - best.place) / 2
      guard
        let found = complete(middle..<end, &order)
          ?? complete((best.place + 1..<middle).reversed(), &order)
      else { break }
      if found.age >= first { best = found } else { end = found.place }
    }
    return best.index
  }

  /// The first complete one of the generations in a few places among the index blocks, and its age: metadata
  /// only grows, and so do times and transactions.
  private mutating func complete(_ places: some Sequence<Int>, _ order: inout GenerationOrder)
    -> (place: Int, index: GenerationOrder.Index, age: (Int, UInt32, UInt64))?
  {
    for place in places.prefix(Self.turnTries) {
      if let index = order.index(indexBlocks[place]), let roots = latestWhole(of: [index]),
        roots.isComplete
      {
        return (place, index, (index.bitmaps.count, roots.time, roots.transactionID))
      }
    }
    return nil
  }

  /// Whether one of the generations that something followed may have been the latest. Where a transaction
  /// replaces everything, the rest of an older generation that lies behind a later one looks as if it
  /// followed.
  private mutating func mayHaveBeenLast(
    _ followers: [(last: UInt64, next: UInt64)],
    besides best: (index: GenerationOrder.Index, roots: Roots), _ succession: Succession,
    _ order: inout GenerationOrder
  ) -> Bool {
    followers.contains { last, next in
      guard order.bothUse(last, next, oneOf: isWideLeaf) != true, last != best.index.block,
        let index = order.index(last), let roots = latestWhole(of: [index])
      else { return false }
      return roots.isComplete && succession.canFollow(roots, best.roots)
    }
  }

  /// Whether a block is not sound that lies before a sound one: whatever was there may have been of a later
  /// generation. What was never written is behind all the others.
  private func hasGap() -> Bool {
    var isAtEnd = true
    for block in stride(from: reader.blockCount, to: 1, by: -1) {
      if isSoundBlock.contains(block - 1) {
        isAtEnd = false
      } else if !isAtEnd {
        return true
      }
    }
    return false
  }

  /// The generation that differs least from what a superblock's data space map counts as used, of those that
  /// lie before its own; nil where that map is lost, or no generation is left. For a superblock whose trees
  /// are lost.
  mutating func nearest(to superblock: Superblock) -> Roots? {
    _ = scannedKinds()
    progress.begin("Looking for the generation before", total: 0)
    let own = superblock.metadataSpaceMap.bitmapRoot
    // The allocator goes round the device.
    func age(_ block: UInt64) -> UInt64 {
      block <= own ? own - block : own + reader.blockCount - block
    }
    let data = DataAllocation(reader, superblock.dataSpaceMap)
    var order = GenerationOrder(reader, indexBlocks: indexBlocks)
    var best: (roots: Roots, difference: UInt64)?
    for block in indexBlocks.sorted(by: { age($0) < age($1) }).prefix(Self.candidatesMax) {
      guard let index = order.index(block), let roots = left(of: index),
        roots.isComplete || roots.isDamaged, roots.time <= superblock.time,
        roots.transactionID <= superblock.transactionID &+ 1,
        let difference = difference(of: roots, from: data, superblock.dataSpaceMap)
      else { continue }
      if difference < best?.difference ?? .max { best = (roots, difference) }
    }
    return best?.roots
  }

  /// Data blocks that are used by one of a generation's mappings and a data space map and not by the other;
  /// nil where the map tells nothing of any.
  private func difference(of roots: Roots, from data: DataAllocation, _ map: SpaceMapRoot)
    -> UInt64?
  {
    let limit = min(map.blockCount, reader.blockCount * UInt64(Limits.entriesPerBitmap))
    var devices: [UInt64] = []
    TreeReader(reader, .devices).forEachReadable(root: roots.mappingRoot, fault: { _ in }) {
      devices.append($0.value64($1))
    }
    var seen = Bitset(limit: limit)
    var (used, free): (UInt64, UInt64) = (0, 0)
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    forest.walk(.mappings, roots: devices.sorted()) { _, node in
      for i in 0..<node.entryCount {
        let block = Mapping(rawValue: node.value64(i)).dataBlock
        guard block < limit, seen.insert(block), let count = data.count(of: block) else { continue }
        if count > 0 { used += 1 } else { free += 1 }
      }
    }
    return used + free > 0 ? free + (map.allocated - min(map.allocated, used)) : nil
  }

  /// What is left of a generation: all of it, or what damage has left; nil where it was written over.
  private mutating func left(of index: GenerationOrder.Index) -> Roots? {
    if let whole = latestWhole(of: [index]), whole.isComplete { return whole }
    return remains(of: index) ?? latestWhole(of: [index])
  }

  /// Whether the index block of a generation that followed may be lost: a block is not sound in which it
  /// would lie. The allocator takes every free block, so that this is before the next index block that is
  /// left.
  private func mayHaveLostFollower(
    _ last: GenerationOrder.Index, _ order: inout GenerationOrder
  ) -> Bool {
    guard last.bitmaps.allSatisfy({ order.bitmap($0) != nil }) else { return true }
    let used = order.blocksInUse(last)
    let indexes = Set(indexBlocks)
    func isLost(in range: Range<UInt64>) -> Bool {
      var empty = 0
      var hasPassed = false
      for block in range where !used.contains(block) {
        if indexes.contains(block) { return false }
        if isSoundBlock.contains(block) {
          hasPassed = true
          continue
        }
        guard isEmptyBlock.contains(block), !hasPassed else { return true }
        empty += 1
        if empty >= Self.emptyMin { return false }
      }
      return false
    }
    return isLost(in: (last.block + 1)..<reader.blockCount) || isLost(in: 1..<last.block)
  }

  // MARK: - Lost index blocks

  /// A generation that followed, whose index block is lost and whose bitmap is not.
  private mutating func lostFollower(
    of last: GenerationOrder.Index, _ order: inout GenerationOrder
  ) -> (index: GenerationOrder.Index, roots: Roots)? {
    for index in order.lostIndexes(after: last, in: freeBlocks(after: last, &order)) {
      if let roots = left(of: index), roots.isComplete || roots.isDamaged { return (index, roots) }
    }
    return nil
  }

  /// The index of a superblock's generation, of which it names the block and that is lost; nil where its
  /// bitmap is not found.
  mutating func lostIndex(at block: UInt64) -> GenerationOrder.Index? {
    _ = scannedKinds()
    guard block < reader.blockCount, !isSoundBlock.contains(block) else { return nil }
    var order = GenerationOrder(reader, indexBlocks: indexBlocks)
    func age(_ other: UInt64) -> UInt64 {
      other <= block ? block - other : block + reader.blockCount - other
    }
    for before in indexBlocks.sorted(by: { age($0) < age($1) }).prefix(Self.candidatesMax) {
      guard let last = order.index(before) else { continue }
      let free = freeBlocks(after: last, &order)
      if let index = order.lostIndexes(after: last, in: free).first(where: { $0.block == block }) {
        return index
      }
    }
    return nil
  }

  /// Blocks that a transaction after a generation took first, as far as the next index block, behind its own
  /// and from the start of the device.
  private func freeBlocks(after last: GenerationOrder.Index, _ order: inout GenerationOrder)
    -> [LostIndexPlace]
  {
    let used = order.blocksInUse(last)
    let indexes = Set(indexBlocks)
    func free(_ range: Range<UInt64>, _ place: GenerationOrder.Place) -> LostIndexPlace {
      var found = LostIndexPlace(place: place)
      for block in range where !used.contains(block) {
        guard !indexes.contains(block), found.count < Self.freeMax else { break }
        if isSoundBlock.contains(block) {
          found.sound.append(block)
        } else {
          found.lost.append(block)
        }
      }
      return found
    }
    return [
      free((last.block + 1)..<reader.blockCount, .between), free(1..<last.block, .fromStart),
    ]
  }

  // MARK: - Damaged generations

  /// The roots of a generation some of whose blocks are lost; nil where none is, or where what is left
  /// contradicts itself, as where blocks were freed and used again.
  private mutating func remains(of index: GenerationOrder.Index) -> Roots? {
    let kinds = scannedKinds()
    var order = GenerationOrder(reader)
    var used = order.blocksInUse(index)
    var isPartial = false
    for (i, block) in index.bitmaps.enumerated() where order.bitmap(block) == nil {
      // Nothing is known of these blocks: each may be in use.
      isPartial = true
      let first = UInt64(i * Limits.entriesPerBitmap)
      let end = min(first + UInt64(Limits.entriesPerBitmap), reader.blockCount)
      for block in first..<max(first, end) { used.insert(block) }
    }
    let lost = lostBlocks(in: used)
    guard isPartial || !lost.isEmpty else { return nil }
    let tops = tops(kinds, used)
    guard tops.devices != nil || tops.details != nil else { return nil }
    var found = Roots(
      mappingRoot: tops.devices ?? 0, detailsRoot: tops.details ?? 0, time: 0,
      transactionID: 0, candidates: indexBlocks.count)
    found.generation = index.block
    found.index = index
    found.isDamaged = true
    return describe(&found, used, isPartial: isPartial) ? found : nil
  }

  /// Blocks in use that are not sound.
  private func lostBlocks(in used: borrowing Bitset) -> [UInt64] {
    var lost: [UInt64] = []
    var block: UInt64 = 1
    while let next = used.first(from: block) {
      if !isSoundBlock.contains(next) { lost.append(next) }
      block = next + 1
    }
    return lost
  }

  /// The roots of both trees, each where there is only one, besides those of metadata snapshots. Where there
  /// are several, it is the one with the most devices: a leaf of mappings can look like a small tree of
  /// devices.
  private mutating func tops(
    _ kinds: (devices: [UInt64], details: [UInt64]), _ used: borrowing Bitset
  ) -> (devices: UInt64?, details: UInt64?) {
    var nodes: (devices: [UInt64], details: [UInt64]) = ([], [])
    for block in kinds.devices where used.contains(block) { nodes.devices.append(block) }
    for block in kinds.details where used.contains(block) { nodes.details.append(block) }
    let referenced = referencedNodes(nodes)
    for block in deviceLeaves where used.contains(block) { nodes.devices.append(block) }
    for block in detailsLeaves where used.contains(block) { nodes.details.append(block) }
    var heldRoots: Set<UInt64> = []
    for held in held where used.contains(held.block) {
      heldRoots.formUnion([held.mappingRoot, held.detailsRoot])
    }
    func tops(_ nodes: [UInt64]) -> [UInt64] {
      let all = nodes.filter { !referenced.contains($0) }
      let own = all.filter { !heldRoots.contains($0) }
      return own.isEmpty ? all : own
    }
    return (
      largest(.devices, of: tops(nodes.devices)), largest(.details, of: tops(nodes.details))
    )
  }

  /// The only one of `roots`, or the one whose tree has more devices than that of any other.
  private mutating func largest(_ kind: TreeKind, of roots: [UInt64]) -> UInt64? {
    guard roots.count > 1 else { return roots.first }
    var found: (root: UInt64, count: Int)?
    var second = 0
    for root in roots.prefix(Self.candidatesMax) {
      let count = deviceCount(kind, root)
      if count > found?.count ?? -1 {
        second = found?.count ?? 0
        found = (root, count)
      } else {
        second = max(second, count)
      }
    }
    return found.flatMap { $0.count > second ? $0.root : nil }
  }

  /// Counts what a damaged generation holds; returns false where it contradicts itself.
  private func describe(_ roots: inout Roots, _ used: borrowing Bitset, isPartial: Bool) -> Bool {
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    var (faults, unusable): ([TreeFault], Int) = ([], 0)
    forest.onFault = { if $0.isFatal { faults.append($0) } }
    let facts = DeviceFacts()
    forest.walk(.devices, roots: [roots.mappingRoot]) { facts.addRoots($0, $1) }
    _ = forest.verify(.devices, root: roots.mappingRoot)
    forest.walk(.details, roots: [roots.detailsRoot]) { facts.addDetails($0, $1) }
    _ = forest.verify(.details, root: roots.detailsRoot)
    let devices = facts.usableRoots(forest, root: roots.mappingRoot)
    let details = facts.usableDetails(forest, root: roots.detailsRoot)
    var reached = Bitset(limit: reader.blockCount)
    forest.walk(.mappings, roots: devices.values.sorted()) { block, _ in reached.insert(block) }
    for (id, root) in devices {
      let summary = forest.verify(.mappings, root: root)
      guard let expected = details[id]?.mappedBlocks, summary.isSound else { continue }
      if expected != summary.leafEntries { return false }
    }
    for fault in faults {
      // A child beyond the device is no lost block: it was never this generation's.
      guard case .unusable = fault.problem, fault.block < reader.blockCount,
        !isSoundBlock.contains(fault.block)
      else { return false }
      unusable += 1
    }
    for details in details.values {
      roots.time = max(roots.time, details.creationTime, details.snapshottedTime)
      roots.transactionID = max(roots.transactionID, details.transactionID &+ 1)
      roots.mapped &+= details.mappedBlocks
    }
    roots.deviceCount = details.isEmpty ? devices.count : details.count
    var block: UInt64 = 0
    while let leaf = reached.first(from: block) {
      guard used.contains(leaf) else { return false }
      block = leaf + 1
    }
    guard !isPartial, unusable == 0, held.isEmpty else { return true }
    block = 0
    while let leaf = isWideLeaf.first(from: block) {
      block = leaf + 1
      // Leaves of devices are wide, too.
      if used.contains(leaf), !reached.contains(leaf), !forest.knows(leaf) { return false }
    }
    return true
  }
}

/// Where an index block may have been that is lost.
struct LostIndexPlace {
  var place: GenerationOrder.Place
  /// Blocks that were free before, ascending: sound ones, and those that are not.
  var sound: [UInt64] = []
  var lost: [UInt64] = []
  var count: Int { sound.count + lost.count }
}

extension GenerationOrder {
  /// Blocks that are not sound which are looked at: of a device that was never full, most hold nothing.
  private static var lostMax: Int { 16 }

  /// Indexes that a generation which followed may have had: each is the one before, with another bitmap for
  /// the blocks around its own block.
  mutating func lostIndexes(after last: Index, in places: [LostIndexPlace]) -> [Index] {
    var found: [Index] = []
    for place in places {
      let bitmaps = place.sound.filter { soundKind(of: $0, reader) == .bitmap }
      for block in place.lost.prefix(Self.lostMax) {
        let region = Int(block) / Limits.entriesPerBitmap
        guard region < last.bitmaps.count else { continue }
        for bitmap in bitmaps {
          var index = Index(block: block, bitmaps: last.bitmaps)
          index.bitmaps[region] = bitmap
          guard let map = self.bitmap(bitmap), map.isUsed(Int(block) % Limits.entriesPerBitmap),
            change(last, index, place.place, passes: true) != nil
          else { continue }
          found.append(index)
        }
      }
    }
    return found
  }
}
