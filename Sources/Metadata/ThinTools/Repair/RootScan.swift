import BlockIO
import PersistentData
import ThinFormat

/// Looks for the roots of a pool's two trees of devices when the superblock does not tell.
///
/// Every block is read once. A root of the device tree leads to leaves whose every value is the
/// block of a sound node; a root of the details tree to leaves of 24-byte values. Earlier
/// generations of both are on the device too, so roots are taken in pairs that name the same
/// devices and are of the latest generation that `GenerationOrder` finds whole. Only where it finds
/// none, as after damage to the space map, times and numbers of mappings have to tell.
struct RootScan: ~Copyable {
  /// A pair of roots.
  struct Roots {
    var mappingRoot: UInt64
    var detailsRoot: UInt64
    /// The latest time that the details name.
    var time: UInt32
    /// One more than the latest transaction id that the details name.
    var transactionID: UInt64
    /// How many generations, or pairs, there were to choose from.
    var candidates: Int
    /// The metadata index block of the generation that they are of, where they are of one that is
    /// whole.
    var generation: UInt64?
    /// That index.
    var index: GenerationOrder.Index?
    /// Whether the blocks that it uses hold all of its leaves of mappings and no other's. Of a pool
    /// that has leaked metadata blocks, no generation may be.
    var isComplete = false
    /// Whether some of its blocks are lost, and what is left of it is as it was.
    var isDamaged = false
    var deviceCount = 0
    /// Mappings of all devices.
    var mapped: UInt64 = 0
  }

  private typealias Pair = (devices: Candidate, details: Candidate)

  /// What a candidate root's tree says.
  private struct Candidate {
    var root: UInt64
    var deviceCount = 0
    /// Stands for the device ids, in order, so that a candidate costs no memory for each.
    var ids = Digest()
    var idsDigest: UInt64 { ids.value }
    var mapped: UInt64 = 0
    var time: UInt32 = 0
    var transactionID: UInt64 = 0

    mutating func add(_ id: UInt64) {
      deviceCount += 1
      ids.add(id)
    }
  }

  /// Entries read of candidates in all. A sound device has few; one made to have every node lead
  /// to every other would keep us for ever.
  private static let entriesReadMax = 1 << 26
  /// Pairs looked at of one generation, and of all where generations cannot be distinguished.
  private static let pairsMax = 4096
  /// Generations that nothing follows which are looked at.
  private static let endsMax = 16
  let reader: BlockReader
  let progress: Progress
  private var isMappingNode: Bitset
  /// Leaves of mappings and of devices, and what looks like one.
  var isWideLeaf: Bitset
  /// Blocks that are what they say they are, and blocks of zeros.
  var isSoundBlock: Bitset
  var isEmptyBlock: Bitset
  private var ends: [Roots]?
  private var entriesRead = 0
  private(set) var detailsLeaves: [UInt64] = []
  private(set) var deviceLeaves: [UInt64] = []
  private var internals: [(block: UInt64, firstChild: UInt64)] = []
  private(set) var indexBlocks: [UInt64] = []
  /// Leaves of index trees of data space maps.
  private var dataIndexLeaves: [UInt64] = []
  private var kinds: (devices: [UInt64], details: [UInt64])?
  /// What metadata snapshots refer to, also earlier ones.
  private(set) var held: [(block: UInt64, mappingRoot: UInt64, detailsRoot: UInt64)] = []

  init(_ reader: BlockReader, _ progress: Progress) {
    self.reader = reader
    self.progress = progress
    isMappingNode = Bitset(limit: reader.blockCount)
    isWideLeaf = Bitset(limit: reader.blockCount)
    isSoundBlock = Bitset(limit: reader.blockCount)
    isEmptyBlock = Bitset(limit: reader.blockCount)
  }

  /// The pair to start from where no generation is whole; nil where the device holds none.
  /// - Parameter superblock: its roots are preferred where one of them is usable.
  mutating func likeliestRoots(preferring superblock: Superblock) -> Roots? {
    likeliestPair(scannedKinds(), superblock)
  }

  /// Whether one of the roots that a superblock names is a root of its kind.
  mutating func hasRoot(of superblock: Superblock) -> Bool {
    let kinds = scannedKinds()
    return (deviceLeaves + kinds.devices).contains(superblock.mappingRoot)
      || (detailsLeaves + kinds.details).contains(superblock.detailsRoot)
  }

  // MARK: - The latest generation

  /// The latest generation that is whole, as far as the order of blocks tells.
  /// - Parameter damaged: the index block of one that is known not to be.
  mutating func latestGeneration(besides damaged: UInt64? = nil) -> Roots? {
    _ = scannedKinds()
    progress.begin("Looking for the latest generation", total: 0)
    var order = GenerationOrder(reader)
    return latestWhole(of: order.latest(of: indexBlocks).filter { $0.block != damaged })
  }

  /// The first of `generations` that is complete, or else whole: every device's mappings are there, as
  /// many as its details say.
  mutating func latestWhole(of generations: [GenerationOrder.Index]) -> Roots? {
    let kinds = scannedKinds()
    var order = GenerationOrder(reader)
    var first: Roots?
    for index in generations {
      let used = order.blocksInUse(index)
      // In the order in which they were made, which is that of their blocks behind the index.
      func age(_ root: UInt64) -> UInt64 {
        root <= index.block ? index.block - root : index.block + reader.blockCount - root
      }
      var pairs = pairs(kinds, used)
      pairs.sort {
        (age($0.devices.root), age($0.details.root)) < (age($1.devices.root), age($1.details.root))
      }
      // A metadata snapshot's trees are in use too.
      let held = held.filter { used.contains($0.block) }
      func isHeld(_ pair: Pair) -> Bool {
        held.contains { $0.mappingRoot == pair.devices.root && $0.detailsRoot == pair.details.root }
      }
      // Each on its own: what is out of place in one may be sound in another.
      let trees = MappingTrees(reader)
      trees.walk(Set(pairs.map(\.devices.root)))
      let own = pairs.filter { !isHeld($0) }
      // Held and current are the same until something changes.
      for pair in own.isEmpty ? pairs : own where entriesRead < Self.entriesReadMax {
        entriesRead += 2 * pair.devices.deviceCount
        let evidence = trees.evidence(pair.devices.root, pair.details.root, isPreferred: false)
        guard evidence.mismatches == 0 else { continue }
        var found = roots(pair, of: indexBlocks.count)
        found.generation = index.block
        found.index = index
        found.isComplete = isComplete(pair, held.map(\.mappingRoot), used, trees)
        if found.isComplete { return found }
        if first == nil { first = found }
      }
    }
    return first
  }

  /// Whether a generation that uses these blocks has every leaf of mappings in them, and no other than
  /// metadata snapshots have: where one was freed and used again, the rest may still fit together.
  private func isComplete(
    _ pair: Pair, _ heldRoots: [UInt64], _ used: borrowing Bitset, _ trees: MappingTrees
  ) -> Bool {
    var reached = Bitset(limit: reader.blockCount)
    guard trees.forEachLeaf(pair.devices.root, { reached.insert($0) }) else { return false }
    var block: UInt64 = 0
    while let leaf = reached.first(from: block) {
      guard used.contains(leaf) else { return false }
      block = leaf + 1
    }
    trees.walk(Set(heldRoots))
    for root in heldRoots where !trees.forEachLeaf(root, { reached.insert($0) }) { return true }
    block = 0
    while let leaf = isWideLeaf.first(from: block) {
      guard !used.contains(leaf) || reached.contains(leaf) else { return false }
      block = leaf + 1
    }
    return true
  }

  // MARK: - All generations

  /// Metadata index blocks, ascending.
  mutating func allIndexBlocks() -> [UInt64] {
    _ = scannedKinds()
    return indexBlocks
  }

  /// Leaves of trees of devices, of all generations and of other trees that look like one; ascending.
  mutating func allDeviceLeaves() -> [UInt64] {
    _ = scannedKinds()
    return deviceLeaves
  }

  /// The blocks of a generation's metadata snapshots: one, or none, unless more were left.
  /// - Parameter index: its metadata index.
  mutating func snapshots(of index: GenerationOrder.Index) -> [UInt64] {
    _ = scannedKinds()
    var order = GenerationOrder(reader)
    let used = order.blocksInUse(index)
    return held.map(\.block).filter { used.contains($0) }
  }

  /// Leaves of the index tree of a generation's data space map.
  /// - Parameter index: its metadata index; nil where that is not known.
  mutating func dataIndexLeaves(of index: GenerationOrder.Index?) -> [UInt64] {
    _ = scannedKinds()
    guard let index else { return [] }
    var order = GenerationOrder(reader)
    let used = order.blocksInUse(index)
    return dataIndexLeaves.filter { used.contains($0) }
  }

  /// Complete generations that nothing on the device followed, or perhaps nothing; the likeliest to be
  /// the newest is first.
  mutating func completeEnds() -> [Roots] {
    if let ends { return ends }
    _ = scannedKinds()
    progress.begin("Looking for the latest generation", total: 0)
    var order = GenerationOrder(reader, indexBlocks: indexBlocks)
    let ends = order.ends()
    var found: (certain: [Roots], doubtful: [Roots]) = ([], [])
    for end in ends.certain.prefix(Self.endsMax) {
      if let whole = latestWhole(of: [end]), whole.isComplete { found.certain.append(whole) }
    }
    for end in ends.doubtful.prefix(Self.endsMax)
    where !found.certain.contains(where: { $0.generation == end.block }) {
      if let whole = latestWhole(of: [end]), whole.isComplete { found.doubtful.append(whole) }
    }
    found.certain.sort { ($0.time, $0.transactionID) > ($1.time, $1.transactionID) }
    self.ends = found.certain + found.doubtful
    return found.certain + found.doubtful
  }

  /// Whether two generations have a leaf in common, or a mapping in the first leaves: where a pool was
  /// made over an older one, the two need not have anything.
  func haveCommonContent(_ a: UInt64, _ b: UInt64) -> Bool {
    let trees = MappingTrees(reader)
    trees.walk([a, b])
    var (leaves, others): (Set<UInt64>, Set<UInt64>) = ([], [])
    guard trees.forEachMappingLeaf(a, { leaves.insert($0) }),
      trees.forEachMappingLeaf(b, { others.insert($0) })
    else { return false }
    if !leaves.isDisjoint(with: others) { return true }
    func mappings(_ blocks: Set<UInt64>) -> Set<[UInt64]> {
      var found: Set<[UInt64]> = []
      for block in blocks.sorted().prefix(16) {
        try? reader.withNode(block, of: .mappings) { node in
          for i in 0..<node.entryCount { found.insert([node.key(i), node.value64(i)]) }
        }
      }
      return found
    }
    return !mappings(leaves).isDisjoint(with: mappings(others))
  }

  /// One more than the largest data block that a data space map on the device counts as used, of
  /// whatever generation; 0 where there is none.
  mutating func dataBlocksCounted() -> UInt64 {
    _ = scannedKinds()
    var largest: UInt64 = 0
    var seen: Set<UInt64> = []
    for leaf in dataIndexLeaves {
      var entries: [(region: UInt64, bitmap: UInt64)] = []
      try? reader.withNode(leaf, of: .spaceMapIndex) { node in
        for i in 0..<node.entryCount {
          let entry = IndexEntry(decoding: node.bytes, at: node.valueOffset(i))
          entries.append((node.key(i), entry.bitmapBlock))
        }
      }
      let per = UInt64(Limits.entriesPerBitmap)
      for (region, bitmap) in entries
      where region < reader.blockCount && seen.insert(bitmap).inserted {
        try? reader.withBlock(bitmap, of: .bitmap) { bytes in
          let last = (0..<Limits.entriesPerBitmap).last { Bitmap.count(bytes, $0) > 0 }
          if let last { largest = max(largest, region * per + UInt64(last) + 1) }
        }
      }
    }
    return largest
  }

  mutating func scannedKinds() -> (devices: [UInt64], details: [UInt64]) {
    if let kinds { return kinds }
    scan()
    let found = classifyInternals()
    kinds = found
    return found
  }

  /// Pairs of a generation that uses these blocks.
  private mutating func pairs(
    _ kinds: (devices: [UInt64], details: [UInt64]), _ used: borrowing Bitset
  ) -> [Pair] {
    var inUse: (devices: [UInt64], details: [UInt64]) = ([], [])
    for block in kinds.devices where used.contains(block) { inUse.devices.append(block) }
    for block in kinds.details where used.contains(block) { inUse.details.append(block) }
    let referenced = referencedNodes(inUse)
    for block in deviceLeaves where used.contains(block) { inUse.devices.append(block) }
    for block in detailsLeaves where used.contains(block) { inUse.details.append(block) }
    let byIDs = detailsTrees(inUse.details.filter { !referenced.contains($0) })
    var pairs: [Pair] = []
    for root in inUse.devices where !referenced.contains(root) {
      guard pairs.count < Self.pairsMax, let tree = deviceTree(root) else { continue }
      for match in byIDs[tree.idsDigest] ?? [] where pairs.count < Self.pairsMax {
        pairs.append((tree, match))
      }
    }
    return pairs
  }

  private func roots(_ pair: Pair, of candidates: Int) -> Roots {
    Roots(
      mappingRoot: pair.devices.root, detailsRoot: pair.details.root, time: pair.details.time,
      transactionID: pair.details.transactionID &+ 1, candidates: candidates,
      deviceCount: pair.details.deviceCount, mapped: pair.details.mapped)
  }

  // MARK: - Without generations

  /// The pair that most speaks for: first one of the superblock's roots, then the latest times.
  private mutating func likeliestPair(
    _ kinds: (devices: [UInt64], details: [UInt64]), _ superblock: Superblock
  ) -> Roots? {
    let referenced = referencedNodes(kinds)
    var devices: [Candidate] = []
    for root in deviceLeaves + kinds.devices {
      if let candidate = deviceTree(root) { devices.append(candidate) }
    }
    let byIDs = detailsTrees(detailsLeaves + kinds.details)
    func isPreferred(_ pair: Pair) -> Bool {
      pair.devices.root == superblock.mappingRoot || pair.details.root == superblock.detailsRoot
    }
    var found = pairs(devices, byIDs, superblock)
    // Only a hint: nodes of earlier generations point at blocks that were used again.
    func isTop(_ pair: Pair) -> Bool {
      !referenced.contains(pair.devices.root) && !referenced.contains(pair.details.root)
    }
    found.sort { a, b in
      if isPreferred(a) != isPreferred(b) { return isPreferred(a) }
      if isTop(a) != isTop(b) { return isTop(a) }
      if a.details.time != b.details.time { return a.details.time > b.details.time }
      if a.details.transactionID != b.details.transactionID {
        return a.details.transactionID > b.details.transactionID
      }
      if a.details.mapped != b.details.mapped { return a.details.mapped > b.details.mapped }
      return (a.devices.root, a.details.root) > (b.devices.root, b.details.root)
    }
    var best: (pair: Pair, evidence: Evidence)?
    let trees = MappingTrees(reader)
    trees.walk(Set(found.map(\.devices.root)))
    for pair in found where best == nil || entriesRead < Self.entriesReadMax {
      entriesRead += 2 * pair.devices.deviceCount
      let evidence = trees.evidence(
        pair.devices.root, pair.details.root, isPreferred: isPreferred(pair))
      if let known = best, !known.evidence.isBeaten(by: evidence) { continue }
      best = (pair, evidence)
    }
    if let best { return roots(best.pair, of: found.count) }
    // Without details there are still the mappings.
    guard
      let tree = devices.first(where: { $0.root == superblock.mappingRoot })
        ?? devices.max(by: { ($0.deviceCount, $0.root) < ($1.deviceCount, $1.root) }),
      tree.deviceCount > 0
    else { return nil }
    return Roots(
      mappingRoot: tree.root, detailsRoot: superblock.detailsRoot, time: 0, transactionID: 0,
      candidates: devices.count)
  }

  /// Pairs with one of the superblock's roots, or all where there are none: nothing else is as good.
  private func pairs(
    _ devices: [Candidate], _ byIDs: [UInt64: [Candidate]], _ superblock: Superblock
  ) -> [Pair] {
    var found: [Pair] = []
    let known = byIDs.values.joined().first { $0.root == superblock.detailsRoot }
    for tree in devices where found.count < Self.pairsMax {
      if tree.root == superblock.mappingRoot {
        for match in (byIDs[tree.idsDigest] ?? []).prefix(Self.pairsMax) {
          found.append((tree, match))
        }
      } else if let known, known.idsDigest == tree.idsDigest {
        found.append((tree, known))
      }
    }
    if found.isEmpty {
      for tree in devices where found.count < Self.pairsMax {
        for match in (byIDs[tree.idsDigest] ?? []).prefix(Self.pairsMax) {
          found.append((tree, match))
        }
      }
    }
    return found
  }

  // MARK: - Reading everything

  private mutating func scan() {
    progress.begin("Looking for trees", total: reader.blockCount)
    let count = reader.blockCount
    var next: UInt64 = 0
    BlockStream(reader.device).read(
      next: { () -> UInt64? in
        guard next < count else { return nil }
        next += 1
        return next - 1
      },
      body: { block, bytes, failure in
        progress.advance()
        guard failure == nil else { return }
        let kind = BlockHeader.kind(of: bytes)
        if let kind, (try? requireSound(bytes, number: block, kind: kind)) != nil {
          isSoundBlock.insert(block)
        } else if kind == nil, bytes.isAllZero {
          isEmptyBlock.insert(block)
        }
        switch kind {
        case .btreeNode: take(block, bytes)
        case .index: indexBlocks.append(block)
        case .superblock where block > 0 && held.count < Self.pairsMax:
          let copy = Superblock(decoding: bytes)
          held.append((block, copy.mappingRoot, copy.detailsRoot))
        default: break
        }
      })
  }

  private mutating func take(_ block: UInt64, _ bytes: RawSpan) {
    if let node = try? BtreeNodeView(
      validating: bytes, number: block, leafValueSize: DeviceDetails.byteCount), node.isLeaf
    {
      detailsLeaves.append(block)
      return
    }
    if let node = try? BtreeNodeView(
      validating: bytes, number: block, leafValueSize: TreeKind.spaceMapIndex.valueSize),
      node.isLeaf
    {
      dataIndexLeaves.append(block)
      return
    }
    guard let node = try? BtreeNodeView(validating: bytes, number: block, leafValueSize: 8) else {
      return
    }
    isMappingNode.insert(block)
    guard node.isLeaf else {
      if node.entryCount > 0 { internals.append((block, node.value64(0))) }
      return
    }
    if node.entryCount > 0 { isWideLeaf.insert(block) }
    // Leaves of mappings fail here but for those that map data block 0 alone; their devices do not
    // fit any details.
    for i in 0..<node.entryCount {
      guard node.canNameDevice(i, blockCount: reader.blockCount) else { return }
    }
    deviceLeaves.append(block)
  }

  /// Internal nodes by what their first leaf is.
  private func classifyInternals() -> (devices: [UInt64], details: [UInt64]) {
    let firstChildren = Dictionary(
      internals.map { ($0.block, $0.firstChild) }, uniquingKeysWith: { first, _ in first })
    let deviceLeaves = Set(self.deviceLeaves)
    let detailsLeaves = Set(self.detailsLeaves)
    var result: (devices: [UInt64], details: [UInt64]) = ([], [])
    for (block, _) in internals {
      var at = block
      for _ in 0..<Limits.treeLevelsMax {
        guard let child = firstChildren[at] else { break }
        at = child
      }
      if deviceLeaves.contains(at) { result.devices.append(block) }
      if detailsLeaves.contains(at) { result.details.append(block) }
    }
    return result
  }

  mutating func referencedNodes(_ kinds: (devices: [UInt64], details: [UInt64]))
    -> Set<UInt64>
  {
    var referenced: Set<UInt64> = []
    for (blocks, kind) in [(kinds.devices, TreeKind.devices), (kinds.details, .details)] {
      for block in blocks where entriesRead < Self.entriesReadMax {
        try? reader.withNode(block, of: kind) { node in
          guard !node.isLeaf else { return }
          for i in 0..<node.entryCount where node.value64(i) < reader.blockCount {
            referenced.insert(node.value64(i))
          }
          entriesRead += node.entryCount
        }
      }
    }
    return referenced
  }

  // MARK: - Candidates

  /// Devices that what is left of a tree of devices or of details names.
  mutating func deviceCount(_ kind: TreeKind, _ root: UInt64) -> Int {
    guard entriesRead < Self.entriesReadMax else { return 0 }
    var count = 0
    TreeReader(reader, kind).forEachReadable(root: root, fault: { _ in }) { node, i in
      if Limits.isDeviceID(node.key(i)) { count += 1 }
    }
    entriesRead += count
    return count
  }

  private mutating func deviceTree(_ root: UInt64) -> Candidate? {
    guard entriesRead < Self.entriesReadMax else { return nil }
    var candidate = Candidate(root: root)
    var isSound = true
    let read: Void? = try? TreeReader(reader, .devices).forEach(root: root) { node, i in
      let device = node.value64(i)
      if device >= reader.blockCount || !isMappingNode.contains(device) { isSound = false }
      candidate.add(node.key(i))
    }
    entriesRead += candidate.deviceCount
    return read != nil && isSound ? candidate : nil
  }

  /// What can be read of them, by the devices that they name.
  private mutating func detailsTrees(_ roots: [UInt64]) -> [UInt64: [Candidate]] {
    var byIDs: [UInt64: [Candidate]] = [:]
    for root in roots {
      if let candidate = detailsTree(root) {
        byIDs[candidate.idsDigest, default: []].append(candidate)
      }
    }
    return byIDs
  }

  private mutating func detailsTree(_ root: UInt64) -> Candidate? {
    guard entriesRead < Self.entriesReadMax else { return nil }
    var candidate = Candidate(root: root)
    let read: Void? = try? TreeReader(reader, .details).forEach(root: root) { node, i in
      let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
      candidate.add(node.key(i))
      candidate.mapped &+= details.mappedBlocks
      candidate.time = max(candidate.time, details.creationTime, details.snapshottedTime)
      candidate.transactionID = max(candidate.transactionID, details.transactionID)
    }
    entriesRead += candidate.deviceCount
    return read != nil ? candidate : nil
  }
}
