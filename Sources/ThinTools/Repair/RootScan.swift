import BlockIO
import PersistentData
import ThinFormat

/// Looks for the roots of a pool's two trees of devices when the superblock does not tell.
///
/// Every block is read once. A root of the device tree leads to leaves whose every value is the
/// block of a sound node; a root of the details tree to leaves of 24-byte values. Earlier
/// generations of both are on the device too, so roots are taken in pairs that name the same
/// devices, and of those the pair with the latest times.
struct RootScan: ~Copyable {
  /// A pair of roots.
  struct Roots {
    var mappingRoot: UInt64
    var detailsRoot: UInt64
    /// The latest time that the details name.
    var time: UInt32
    /// One more than the latest transaction id that the details name.
    var transactionID: UInt64
    /// How many pairs there were to choose from.
    var candidates: Int
  }

  /// What a candidate root's tree says.
  private struct Candidate {
    var root: UInt64
    var deviceCount = 0
    /// Stands for the device ids, in order, so that a candidate costs no memory for each.
    var idsDigest: UInt64 = 0xCBF2_9CE4_8422_2325
    var mapped: UInt64 = 0
    var time: UInt32 = 0
    var transactionID: UInt64 = 0

    mutating func add(_ id: UInt64) {
      deviceCount += 1
      idsDigest = (idsDigest ^ id) &* 0x100_0000_01B3
    }
  }

  /// Entries read of candidates in all. A sound device has few; one made to have every node lead
  /// to every other would keep us for ever.
  private static let entriesReadMax = 1 << 26
  private let reader: BlockReader
  private let progress: Progress
  private var isMappingNode: Bitset
  private var entriesRead = 0
  private var detailsLeaves: [UInt64] = []
  private var deviceLeaves: [UInt64] = []
  private var internals: [(block: UInt64, firstChild: UInt64)] = []

  init(_ reader: BlockReader, _ progress: Progress) {
    self.reader = reader
    self.progress = progress
    isMappingNode = Bitset(limit: reader.blockCount)
  }

  /// The pair to start from; nil where the device holds none.
  /// - Parameter superblock: its roots are preferred where one of them is usable.
  mutating func bestRoots(preferring superblock: Superblock) -> Roots? {
    scan()
    let kinds = classifyInternals()
    let referenced = referencedNodes(kinds)
    var devices: [Candidate] = []
    for root in deviceLeaves + kinds.devices {
      if let candidate = deviceTree(root) { devices.append(candidate) }
    }
    var byIDs: [UInt64: [Candidate]] = [:]
    for root in detailsLeaves + kinds.details {
      if let candidate = detailsTree(root) {
        byIDs[candidate.idsDigest, default: []].append(candidate)
      }
    }

    var pairs: [(devices: Candidate, details: Candidate, isPreferred: Bool, isTop: Bool)] = []
    for tree in devices {
      for match in byIDs[tree.idsDigest] ?? [] {
        pairs.append(
          (
            tree, match,
            tree.root == superblock.mappingRoot || match.root == superblock.detailsRoot,
            // Only a hint: nodes of earlier generations point at blocks that were used anew.
            !referenced.contains(tree.root) && !referenced.contains(match.root)
          ))
      }
    }
    pairs.sort { a, b in
      if a.isPreferred != b.isPreferred { return a.isPreferred }
      if a.isTop != b.isTop { return a.isTop }
      if a.details.time != b.details.time { return a.details.time > b.details.time }
      if a.details.transactionID != b.details.transactionID {
        return a.details.transactionID > b.details.transactionID
      }
      if a.details.mapped != b.details.mapped { return a.details.mapped > b.details.mapped }
      return (a.devices.root, a.details.root) > (b.devices.root, b.details.root)
    }
    var best: (devices: Candidate, details: Candidate, evidence: Evidence)?
    let trees = MappingTrees(reader)
    trees.walk(Set(pairs.map(\.devices.root)))
    for pair in pairs {
      let evidence = trees.evidence(
        pair.devices.root, pair.details.root, isPreferred: pair.isPreferred)
      if let known = best, !known.evidence.isBeaten(by: evidence) { continue }
      best = (pair.devices, pair.details, evidence)
    }
    if let best {
      return Roots(
        mappingRoot: best.devices.root, detailsRoot: best.details.root, time: best.details.time,
        transactionID: best.details.transactionID &+ 1, candidates: pairs.count)
    }
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
        if failure == nil, BlockHeader.kind(of: bytes) == .btreeNode { take(block, bytes) }
      })
  }

  private mutating func take(_ block: UInt64, _ bytes: RawSpan) {
    if let node = try? BtreeNodeView(
      validating: bytes, number: block, leafValueSize: DeviceDetails.byteCount), node.isLeaf
    {
      detailsLeaves.append(block)
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
    // A mapping of data block 1 or more is larger than any block number, so leaves of mappings
    // fail here but for those that map data block 0 alone; their devices do not fit any details.
    for i in 0..<node.entryCount {
      guard (1..<reader.blockCount).contains(node.value64(i)), node.key(i) <= Limits.deviceIDMax
      else { return }
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

  private func referencedNodes(_ kinds: (devices: [UInt64], details: [UInt64])) -> Set<UInt64> {
    var referenced: Set<UInt64> = []
    for (blocks, kind) in [(kinds.devices, TreeKind.devices), (kinds.details, .details)] {
      for block in blocks {
        try? reader.withNode(block, of: kind) { node in
          guard !node.isLeaf else { return }
          for i in 0..<node.entryCount { referenced.insert(node.value64(i)) }
        }
      }
    }
    return referenced
  }

  // MARK: - Candidates

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

/// What speaks for a pair of roots.
private struct Evidence {
  var isPreferred: Bool
  /// Devices whose mapping tree is damaged or has another number of mappings than the details
  /// say.
  var mismatches = 0
  /// The latest time of any mapping, and how many mappings have it.
  var latest = Latest()

  /// Whole devices first; then whoever has the later mappings, or more of the latest: times only
  /// grow, and mappings of a time get fewer only when they are discarded or overwritten.
  func isBeaten(by other: Evidence) -> Bool {
    if isPreferred != other.isPreferred { return other.isPreferred }
    if mismatches != other.mismatches { return other.mismatches < mismatches }
    return (other.latest.time, other.latest.count) > (latest.time, latest.count)
  }
}

/// A time, and how many mappings have it.
private struct Latest {
  var time: UInt32 = 0
  var count = 0

  mutating func add(_ other: Latest) {
    if other.time > time {
      self = other
    } else if other.time == time {
      count += other.count
    }
  }
}

/// The mapping trees of all candidates, which share most of their nodes: each is read once.
private final class MappingTrees {
  private let reader: BlockReader
  private let forest: TreeForest
  private var leaves: [UInt64: Latest] = [:]
  private var trees: [UInt64: (entries: UInt64, isSound: Bool, latest: Latest)] = [:]

  init(_ reader: BlockReader) {
    self.reader = reader
    forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
  }

  func walk(_ deviceRoots: Set<UInt64>) {
    var roots: Set<UInt64> = []
    for root in deviceRoots {
      try? TreeReader(reader, .devices).forEach(root: root) { node, i in
        roots.insert(node.value64(i))
      }
    }
    forest.walk(.mappings, roots: roots) { block, node in
      var latest = Latest()
      for i in 0..<node.entryCount {
        latest.add(Latest(time: Mapping(rawValue: node.value64(i)).time, count: 1))
      }
      leaves[block] = latest
    }
  }

  private func tree(_ root: UInt64) -> (entries: UInt64, isSound: Bool, latest: Latest) {
    if let known = trees[root] { return known }
    let summary = forest.verify(.mappings, root: root)
    var latest = Latest()
    forest.forEachUsableLeaf(.mappings, root: root) { latest.add(leaves[$0] ?? Latest()) }
    trees[root] = (summary.leafEntries, summary.isSound, latest)
    return (summary.leafEntries, summary.isSound, latest)
  }

  func evidence(_ deviceRoot: UInt64, _ detailsRoot: UInt64, isPreferred: Bool) -> Evidence {
    var evidence = Evidence(isPreferred: isPreferred)
    var roots: [UInt64] = []
    try? TreeReader(reader, .devices).forEach(root: deviceRoot) { node, i in
      roots.append(node.value64(i))
    }
    var i = 0
    try? TreeReader(reader, .details).forEach(root: detailsRoot) { node, entry in
      defer { i += 1 }
      guard i < roots.count else { return }
      let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(entry))
      let tree = tree(roots[i])
      if !tree.isSound || tree.entries != details.mappedBlocks { evidence.mismatches += 1 }
      evidence.latest.add(tree.latest)
    }
    return evidence
  }
}
