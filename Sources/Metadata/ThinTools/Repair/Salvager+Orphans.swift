import PersistentData
import ThinFormat
import ThinMetadata

// What lost nodes led to, and the metadata snapshot, which leads to much of the same.
extension Salvager {
  /// Reads the leaves below `roots` that have not been read yet.
  func walkMappings(_ roots: some Sequence<UInt64>) {
    let (leaves, forest) = (leaves, forest)
    forest.walk(.mappings, roots: roots) { block, node in
      leaves.add(block, node)
      if leaves.lost(block) > 0 { forest.markFaulty(leaf: block) }
    }
  }

  /// Reads the metadata snapshot, and keeps it if it is whole.
  mutating func readSnapshot(_ log: SalvageLog) {
    guard superblock.metadataSnapshot != 0 else { return }
    log.report.snapshot = .dropped
    do throws(MetadataError) {
      let view = try MetadataView(reader.device, source: .metadataSnapshot)
      walk(view)
      let devices = try view.devices()
      let made = Set(rebuilt.map(\.block))
      let isWhole = devices.allSatisfy { device in
        var isOwn = true
        forest.forEachUsableLeaf(.mappings, root: device.root.rawValue) {
          if made.contains($0) { isOwn = false }
        }
        return isOwn && isSound(device)
      }
      guard isWhole else { return log.say("The metadata snapshot is not whole; it is dropped.") }
      log.report.snapshot = .kept
      snapshot = HeldSnapshot(superblock: view.superblock, devices: devices)
    } catch {
      log.say("The metadata snapshot is not whole; it is dropped. \(error)")
    }
  }

  /// Reads the metadata snapshot at a block, so that what it leads to does not pass for what lost nodes led
  /// to.
  /// - Returns: whether it is whole.
  func account(forSnapshotAt block: UInt64) -> Bool {
    guard
      let view = try? MetadataView(reader.device, source: .metadataSnapshotAt(MetadataBlock(block)))
    else {
      return false
    }
    walk(view)
    return (try? view.devices())?.allSatisfy { isSound($0) } ?? false
  }

  /// Reads the trees of a metadata snapshot.
  private func walk(_ view: MetadataView) {
    let facts = self.facts
    // Leaves that it shares with the pool's trees have been met, and so have their devices' roots.
    var roots: [UInt64] = []
    forest.walk(.devices, roots: [view.superblock.mappingRoot]) { block, node in
      facts.addRoots(block, node)
      for i in 0..<node.entryCount { roots.append(node.value64(i)) }
    }
    _ = forest.verify(.devices, root: view.superblock.mappingRoot)
    forest.walk(.details, roots: [view.superblock.detailsRoot]) { facts.addDetails($0, $1) }
    _ = forest.verify(.details, root: view.superblock.detailsRoot)
    walkMappings(roots.sorted())
    for root in roots { _ = forest.verify(.mappings, root: root) }
  }

  /// Whether all mappings of a device are there.
  private func isSound(_ device: ThinDevice) -> Bool {
    let summary = forest.verify(.mappings, root: device.root.rawValue)
    return summary.isSound && summary.leafEntries == device.details.mappedBlocks
  }

  /// Puts back what lost nodes led to, as far as a space map tells.
  /// - Parameters:
  ///   - allocation: that of the generation.
  ///   - timeMax: no mapping is later.
  mutating func putBack(
    _ allocation: MetadataAllocation, timeMax: UInt32, _ options: SalvageOptions, _ log: SalvageLog
  ) {
    guard !isSound else { return }
    let search = OrphanSearch(
      reader, forest, allocation, dataBlockCount: dataBlockCount, timeMax: timeMax, progress)
    putBackDevices(search)
    let (leaves, forest) = (leaves, forest)
    search.walk(.mappings) { block, node in leaves.add(block, node) }
    if !hasAllDevices { matchRoots(search, log) }
    var adoption = OrphanAdoption(
      .mappings, forest, roots: roots.sorted { $0.key < $1.key }.map { ($0.key, $0.value) },
      lacking: lacking())
    adoption.isDoubtful = mayBeOfSnapshot(log) || mayLackRoots()
    adoption.earlier = known.history.map { EarlierNodes(reader, $0) }
    adoption.run(search.found(.mappings), choice: options.choice)
    adopted = adoption.adopted
    takeEarlierTrees(log)
    for unclear in adoption.unclear { say(unclear, log) }
  }

  /// Whether something that is found may be of a metadata snapshot that is not whole, and fit as well.
  private func mayBeOfSnapshot(_ log: SalvageLog) -> Bool {
    log.report.snapshot == .dropped || known.mayLackSnapshot || known.isAllocationGuessed
  }

  /// Whether there may be a device whose root is not known for certain: what is found may be that.
  private func mayLackRoots() -> Bool {
    !hasAllDevices
      && (!hasAllDetails || !doubtful.isEmpty || details.keys.contains { roots[$0] == nil })
  }

  /// How many mappings each device has less than its details say, where those are left.
  func lacking() -> [UInt64: UInt64] {
    var lacking: [UInt64: UInt64] = [:]
    for (id, root) in roots {
      guard let expected = details[id]?.mappedBlocks else { continue }
      let usable = self.usable(root)
      lacking[id] = expected > usable ? expected - usable : 0
    }
    return lacking
  }

  /// Leaves that are lost and in whose place nothing was put, by block.
  func lostLeaves() -> [EarlierMappings.Hole] {
    let ofLeaf = UInt64(BtreeNodeRecord.entriesMax(valueSize: TreeKind.mappings.valueSize))
    var holes: [UInt64: EarlierMappings.Hole] = [:]
    for (id, root) in roots.sorted(by: { $0.key < $1.key }) {
      forest.forEachHole(.mappings, root: root) { found in
        // A root of which nothing is known is a leaf where the device has no more than one holds.
        let isLeaf = found.height.map { $0 == 1 } ?? (mappedOnce(id) <= ofLeaf)
        guard found.isUnusable, !found.isAdopted, isLeaf else { return true }
        var hole =
          holes[found.block]
          ?? EarlierMappings.Hole(block: found.block, range: found.range, owners: [])
        hole.range = hole.range.clamped(to: found.range)
        if hole.owners.last != id { hole.owners.append(id) }
        holes[found.block] = hole
        return holes.count < EarlierMappings.leavesMax
      }
    }
    return holes.values.sorted { $0.block < $1.block }
  }

  /// Mappings that a device has by its details; where those are lost, that the latest tree that is left of
  /// it had; the largest number where nothing is known.
  private func mappedOnce(_ id: UInt64) -> UInt64 {
    if let details = details[id] { return details.mappedBlocks }
    for root in known.history?.roots(of: id) ?? [] {
      var mapped: UInt64?
      try? reader.withNode(root, of: .mappings) { node in
        mapped = node.isLeaf ? UInt64(node.entryCount) : .max
      }
      if let mapped { return mapped }
    }
    return .max
  }

  /// Whether nothing of a tree but its place is known.
  private func isLost(_ root: UInt64) -> Bool {
    var isLost = false
    forest.forEachHole(.mappings, root: root) { hole in
      isLost = hole.block == root && hole.isUnusable && !hole.isAdopted
      return false
    }
    return isLost
  }

  /// Entries of a device's leaves that can be used.
  func usable(_ root: UInt64) -> UInt64 {
    var usable: UInt64 = 0
    forest.forEachUsableLeaf(.mappings, root: root) { usable += leaves.usable($0) }
    return usable
  }

  /// Leaves of the two trees of devices.
  private mutating func putBackDevices(_ search: OrphanSearch) {
    let facts = self.facts
    search.walk(.details) { facts.addDetails($0, $1) }
    search.walk(.devices) { facts.addRoots($0, $1) }
    for (kind, root) in [
      (TreeKind.details, superblock.detailsRoot), (.devices, superblock.mappingRoot),
    ] {
      var adoption = OrphanAdoption(kind, forest, roots: [(0, root)], lacking: [:])
      adoption.run(search.found(kind), choice: .none)
    }
    readDetails()
    let before = Set(roots.values)
    roots = facts.usableRoots(forest, root: superblock.mappingRoot)
    let new = roots.values.filter { !before.contains($0) }.sorted()
    walkMappings(new)
    for root in new { _ = forest.verify(.mappings, root: root) }
  }

  /// Finds the roots of devices that no leaf of the tree of devices names any more.
  private mutating func matchRoots(_ search: OrphanSearch, _ log: SalvageLog) {
    let lost = details.filter { roots[$0.key] == nil }.sorted { $0.key < $1.key }
    guard !lost.isEmpty else { return }
    let trees = search.found(.mappings)
    let isOnlyLoss =
      !mayBeOfSnapshot(log) && hasAllDetails
      && roots.values.allSatisfy { forest.verify(.mappings, root: $0).isSound }
      && trees.reduce(0) { $0 + Int($1.missing) } <= lost.count
    let matching = RootMatching(
      lost.map { ($0.key, $0.value) }, trees, emptyRoots: search.emptyRoots(),
      rebuilt: rebuilt(trees), earlier: known.earlier, history: known.history,
      isOnlyLoss: isOnlyLoss)
    for (id, root) in matching.roots.sorted(by: { $0.key < $1.key }) {
      roots[id] = root
      let how =
        matching.doubtful.contains(id)
        ? "others would fit as well, so that it may be another device's"
        : "it has as many mappings as the details say, and no other fits"
      log.say("thin device \(id): the tree of devices is lost; block \(root) is its root: \(how)")
    }
    doubtful = matching.doubtful
    walkMappings(matching.roots.values.sorted())
  }

  /// Those of the trees that have leaves which were lost and are made up.
  private func rebuilt(_ trees: [Orphan]) -> Set<UInt64> {
    if rebuilt.isEmpty { return [] }
    let made = Set(rebuilt.map(\.block))
    var found: Set<UInt64> = []
    for tree in trees {
      forest.forEachUsableLeaf(.mappings, root: tree.block) {
        if made.contains($0) { found.insert(tree.block) }
      }
    }
    return found
  }

  /// Gives devices whose tree is not found, or lost but for its place, the latest one that is left of those
  /// that they had. One that was a leaf is made of what several generations had in its place instead.
  private mutating func takeEarlierTrees(_ log: SalvageLog) {
    guard let history = known.history else { return }
    let ofLeaf = UInt64(BtreeNodeRecord.entriesMax(valueSize: TreeKind.mappings.valueSize))
    for id in Set(details.keys).union(roots.keys).sorted() where details[id]?.mappedBlocks != 0 {
      if let root = roots[id], !isLost(root) || mappedOnce(id) <= ofLeaf { continue }
      for root in history.roots(of: id) where root != roots[id] {
        walkMappings([root])
        let summary = forest.verify(.mappings, root: root)
        guard summary.isSound, summary.leafEntries > 0 else { continue }
        roots[id] = root
        doubtful.insert(id)
        let expected = details[id].map { " of \($0.mappedBlocks)" } ?? ""
        log.say(
          "thin device \(id): its mapping tree is not found; one that it had earlier is taken, with "
            + "\(summary.leafEntries)\(expected) mappings (block \(root))")
        break
      }
    }
  }

  private func say(_ unclear: OrphanAdoption.Unclear, _ log: SalvageLog) {
    let extent = unclear.orphan.extent
    log.report.unclear.append(
      RepairReport.Unclear(
        block: MetadataBlock(unclear.orphan.block), begin: VirtualBlock(extent.firstKey),
        end: VirtualBlock(extent.lastKey) &+ 1, mapped: extent.leafEntries,
        ids: unclear.owners.map { ThinID($0) }))
    guard log.report.unclear.count <= 100 else { return }
    let devices = unclear.owners.prefix(8).map { "\($0)" }.joined(separator: ", ")
    log.say(
      "block \(unclear.orphan.block) has \(extent.leafEntries) mappings of virtual blocks "
        + "\(extent.firstKey)..\(extent.lastKey), to which a lost node led; it fits into thin device "
        + "\(devices), but not for certain, and is left out. --prefer newest or oldest takes it.")
  }
}
