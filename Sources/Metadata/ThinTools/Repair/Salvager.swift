import PersistentData
import ThinFormat
import ThinMetadata

/// Salvages what hangs on one pair of roots.
///
/// Everything that it makes up is chosen so that no later write of the kernel can hurt:
///
/// - The kernel writes into a data block in place when the mapping's time is not below the device's
///   snapshot time. Details that are made up get a snapshot time above every mapping's, and the
///   others are raised where a block has two references (`LeafFacts.protectSharedBlocks`).
/// - The pool's time is no earlier than any time that is saved, so that what is mapped from then on
///   is a device's own, and the next snapshot later than all.
/// - The transaction id is above that of every device: those were made before it.
/// - The pool has room for every mapping and no more than is known of: the kernel takes in what the
///   data device has beyond, and refuses a device that is smaller.
/// - A device that a sound part of the details tree does not list has been deleted, and its data
///   blocks may be other devices' now: it stays away.
struct Salvager {
  /// What is known of a generation from outside of it.
  struct Known {
    /// Whether it may not be the latest.
    var isDoubtful = false
    /// The trees that devices had before the last commit, or some time before, where that is known.
    var earlier: EarlierTrees?
    /// Roots that devices had, where the tree of devices is damaged.
    var history: DeviceHistory?
    /// Whether there may be a metadata snapshot that is not read.
    var mayLackSnapshot = false
    /// Whether the metadata index is lost, and what is in use is known from a bitmap that looks like one of
    /// its.
    var isAllocationGuessed = false
  }

  let reader: BlockReader
  let superblock: Superblock
  /// Mappings to this data block and above are impossible.
  let dataBlockCount: UInt64
  let progress: Progress
  let forest: TreeForest
  let leaves: LeafFacts
  /// Damage, as far as it is kept.
  private(set) var faults: [TreeFault] = []
  /// How much of it speaks for a generation that was committed later.
  private(set) var damage = GenerationDamage()
  let facts = DeviceFacts()
  var roots: [UInt64: UInt64] = [:]
  var details: [UInt64: DeviceDetails] = [:]
  /// Whether the tree of devices is sound, and that of their details.
  var hasAllDevices = true
  private(set) var hasAllDetails = true
  /// What was put in the place of lost nodes of mapping trees.
  var adopted: [UInt64: [OrphanAdoption.Child]] = [:]
  /// Devices whose mapping tree is a guess.
  var doubtful: Set<UInt64> = []
  /// What the rest of the device tells.
  var known = Known()
  /// Leaves that were lost and are made of what earlier generations had in their place.
  var rebuilt: [EarlierMappings.Leaf] = []
  /// The metadata snapshot, where it is whole.
  var snapshot: HeldSnapshot?
  /// Ids of which the details tree may have told before it was damaged.
  private var detailsLost: [Range<UInt64>] = []
  /// What is damaged, missing, or contradicts itself.
  private(set) var isSound = true

  /// Reads everything that `superblock`'s roots lead to.
  init(
    _ reader: BlockReader, _ superblock: Superblock, dataBlockCount: UInt64, _ progress: Progress
  ) {
    self.reader = reader
    self.superblock = superblock
    // There is a bitmap for every 16,320 data blocks: what is claimed beyond is not worth memory.
    self.dataBlockCount = min(
      dataBlockCount, reader.blockCount * UInt64(Limits.entriesPerBitmap))
    self.progress = progress
    forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    leaves = LeafFacts(dataBlockCount: self.dataBlockCount)
    let forest = self.forest
    var found: [TreeFault] = []
    var damage = GenerationDamage()
    forest.onFault = {
      damage.add($0)
      if $0.isFatal && found.count < CheckReport.findingsMax { found.append($0) }
    }
    forest.onNode = { progress.advance() }
    progress.begin("Reading mappings", total: superblock.metadataSpaceMap.allocated)
    readDevices()
    walkMappings(roots.values.sorted())
    isSound = isSound && judgeDevices()
    faults = found
    self.damage = damage
    self.damage.isDamaged = !agreesWithSuperblock
    forest.onFault = { _ in }
  }

  /// Whether mappings lead beyond the data blocks that the pool is taken to have.
  var hasMappingsBeyond: Bool { leaves.hasLost }
  /// The latest time of mappings and devices.
  var latestTime: UInt32 {
    details.values.reduce(leaves.latestTime) { max($0, $1.creationTime, $1.snapshottedTime) }
  }
  /// The latest transaction id that any device was made in; nil without devices.
  var latestTransaction: UInt64? {
    roots.keys.compactMap { details[$0]?.transactionID }.max()
  }
  /// Whether the superblock says what its trees say: nothing is damaged, of another time, or beyond.
  private var agreesWithSuperblock: Bool {
    isSound && latestTime <= superblock.time
      && (latestTransaction ?? 0) <= superblock.transactionID
      && leaves.dataBlocksSeen <= superblock.dataSpaceMap.blockCount
  }

  /// Device id to root, and to details, of what is usable of the two trees.
  private mutating func readDevices() {
    let facts = self.facts
    forest.walk(.devices, roots: [superblock.mappingRoot]) { facts.addRoots($0, $1) }
    isSound = forest.verify(.devices, root: superblock.mappingRoot).isSound
    hasAllDevices = isSound
    roots = facts.usableRoots(forest, root: superblock.mappingRoot)
    forest.walk(.details, roots: [superblock.detailsRoot]) { facts.addDetails($0, $1) }
    hasAllDetails = forest.verify(.details, root: superblock.detailsRoot).isSound
    isSound = isSound && hasAllDetails
    readDetails()
  }

  mutating func readDetails() {
    details = facts.usableDetails(forest, root: superblock.detailsRoot)
    var lost: [Range<UInt64>] = []
    forest.forEachLostRange(.details, root: superblock.detailsRoot) { _, range in
      lost.append(range)
      return true
    }
    detailsLost = lost
  }

  /// Whether every device is whole, and has as many mappings as its details say.
  private func judgeDevices() -> Bool {
    var areSound = roots.count == details.count
    for (id, root) in roots {
      let summary = forest.verify(.mappings, root: root)
      if !summary.isSound || details[id]?.mappedBlocks != summary.leafEntries { areSound = false }
    }
    return areSound
  }

  /// What is saved. Each loss and each guess is told to `log`.
  /// - Parameters:
  ///   - options: what the user knows better than the superblock, and wants.
  ///   - mayMix: whether the two trees may be of different generations, however well they fit.
  func source(
    _ options: SalvageOptions, mayMix: Bool, _ log: SalvageLog
  ) -> DumpSource {
    let overrides = options.overrides
    var madeUp: [Int] = []
    var devices = self.devices(&madeUp, options, log)
    for id in details.keys.sorted() where roots[id] == nil {
      log.say("thin device \(id): its mapping tree is lost; it is left out")
      log.report.leftOut.append(RepairReport.LeftOut(id: ThinID(id), root: nil, mapped: 0))
    }
    for fault in faults { log.say("\(fault)") }

    // Damaged details may say any time; one above the largest tells as much as a larger one.
    var time = devices.reduce(max(superblock.time, leaves.latestTime)) {
      max($0, $1.details.creationTime, $1.details.snapshottedTime)
    }
    time = min(time, Limits.timeMax + 1)
    if !madeUp.isEmpty {
      time += 1
      for i in madeUp {
        devices[i].details.creationTime = time
        devices[i].details.snapshottedTime = time
      }
    }
    if mayMix || !isSound || !rebuilt.isEmpty {
      for (id, before) in leaves.protectSharedBlocks(&devices, forest, reader) {
        let now = devices.first { $0.id == id }?.details.snapshottedTime ?? 0
        time = max(time, now)
        log.say(
          "thin device \(id): its snapshot time is raised from \(before) to \(now), so that data "
            + "blocks with another reference are copied before they are written")
      }
    }
    var mended = superblock
    mended.time = min(time, Limits.timeMax)
    if time > Limits.timeMax { Self.lower(&devices) }
    if let made = latestTransaction, made > superblock.transactionID,
      made >= overrides.transactionID ?? 0
    {
      mended.transactionID = made == .max ? made : made + 1
      log.say(
        "The superblock says transaction id \(superblock.transactionID), but a device was made in "
          + "transaction \(made): \(mended.transactionID) is used. --transaction-id raises it; to lower it "
          + "afterwards, use dmthin pool set-transaction-id.")
    }
    let blockCount =
      superblock.dataSpaceMap.blockCount > dataBlockCount
      ? dataBlockCount : max(superblock.dataSpaceMap.blockCount, leaves.dataBlocksSeen)
    return DumpSource(
      salvaged: forest, reader, DumpHeader(mended, dataBlockCount: blockCount, overrides), devices,
      mappingTimeMax: time > Limits.timeMax ? Limits.timeMax - 1 : Limits.timeMax)
  }

  /// The time that would be needed does not fit: mappings of the last time are made one older,
  /// which only has the kernel copy more.
  private static func lower(_ devices: inout [ThinDevice]) {
    for i in devices.indices {
      devices[i].details.creationTime = min(devices[i].details.creationTime, Limits.timeMax)
      devices[i].details.snapshottedTime = min(devices[i].details.snapshottedTime, Limits.timeMax)
    }
  }

  // MARK: - Devices

  /// Devices that are saved; indices of those whose details are made up go to `madeUp`.
  private func devices(_ madeUp: inout [Int], _ options: SalvageOptions, _ log: SalvageLog)
    -> [ThinDevice]
  {
    var devices: [ThinDevice] = []
    for (id, root) in roots.sorted(by: { $0.key < $1.key }) {
      let summary = forest.verify(.mappings, root: root)
      let usable = self.usable(root)
      func leaveOut(_ why: String) {
        log.say("thin device \(id): \(why)")
        log.report.leftOut.append(
          RepairReport.LeftOut(id: ThinID(id), root: MetadataBlock(root), mapped: usable))
      }
      guard Limits.isDeviceID(id) || options.keepsLargeIDs else {
        leaveOut(
          "no device can have an id above \(Limits.deviceIDMax); its \(usable) mappings are left out "
            + "(dmthin extract copies its content)")
        continue
      }
      let isDeleted = details[id] == nil && !detailsLost.contains { $0.contains(id) }
      if isDeleted {
        let what =
          "it has a mapping tree of \(usable) mappings, but the details tree is "
          + "sound where it would stand and does not list it, as of a deleted device"
        guard options.includesDeleted else {
          leaveOut("\(what); it is left out")
          continue
        }
        log.say(
          "thin device \(id): \(what); it is included, and what it maps may be other devices' by now"
        )
      }
      var report = RepairReport.Device(id: ThinID(id), saved: usable)
      report.rangesMax = options.rangesMax
      report.expected = details[id]?.mappedBlocks
      if known.isDoubtful || doubtful.contains(id) {
        report.add(.doubtful, Range(0..<UInt64.max), block: MetadataBlock(root))
      }
      if !summary.isSound { reportLoss(id, root, &report, log) }
      if !rebuilt.isEmpty { reportRebuilt(id, root, &report, log) }
      if details[id] == nil {
        log.say(
          "thin device \(id): its details are lost; taken to be as recent as can be, "
            + "and its mappings to be shared")
        madeUp.append(devices.count)
        report.hasNewDetails = true
        if isDeleted { report.add(.doubtful, Range(0..<UInt64.max), block: MetadataBlock(root)) }
      }
      var device =
        details[id]
        ?? DeviceDetails(
          mappedBlocks: usable, transactionID: superblock.transactionID, creationTime: 0,
          snapshottedTime: 0)
      if device.mappedBlocks != usable {
        log.say("thin device \(id): \(usable) of \(device.mappedBlocks) mappings are saved")
        device.mappedBlocks = usable
      }
      log.report.devices.append(report)
      devices.append(ThinDevice(id: ThinID(id), root: MetadataBlock(root), details: device))
    }
    return devices
  }

  private func reportLoss(
    _ id: UInt64, _ root: UInt64, _ report: inout RepairReport.Device, _ log: SalvageLog
  ) {
    var left = 1000
    forest.forEachHole(.mappings, root: root) { hole in
      if hole.isAdopted {
        reportAdopted(id, hole, &report, log)
        return true
      }
      let (block, range) = (hole.block, hole.range)
      report.add(.lost, Range(range), block: MetadataBlock(block))
      left -= 1
      guard left >= 0 else { return report.unsaidRanges < 1_000_000 }
      let end = range.upperBound == .max ? "end" : "\(range.upperBound - 1)"
      if leaves.lost(block) > 0 {
        log.say(
          "thin device \(id): \(leaves.lost(block)) mappings of virtual blocks "
            + "\(range.lowerBound)..\(end) lead beyond the data device, which is taken to have "
            + "\(dataBlockCount) blocks (block \(block)); if it has more, add --nr-data-blocks")
      } else {
        log.say(
          "thin device \(id): what was mapped of virtual blocks \(range.lowerBound)..\(end) "
            + "is lost (block \(block))")
      }
      return true
    }
  }

  /// Says which leaves are made of what earlier generations had in their place.
  private func reportRebuilt(
    _ id: UInt64, _ root: UInt64, _ report: inout RepairReport.Device, _ log: SalvageLog
  ) {
    let made = Dictionary(rebuilt.map { ($0.block, $0) }, uniquingKeysWith: { first, _ in first })
    forest.forEachUsableLeaf(.mappings, root: root) { block in
      guard let leaf = made[block] else { return }
      report.add(.doubtful, Range(leaf.range), block: MetadataBlock(block))
      let end = leaf.range.upperBound == .max ? "end" : "\(leaf.range.upperBound - 1)"
      log.say(
        "thin device \(id): what was mapped of virtual blocks \(leaf.range.lowerBound)..\(end) is lost "
          + "(block \(block)); \(leaf.entries.count) mappings that an earlier generation had there are "
          + "taken: their data blocks are in use still, and nothing else leads to them")
    }
    report.ranges.sort { $0.begin < $1.begin }
  }

  /// Says what was put in the place of a lost node, and what may be missing beside it.
  private func reportAdopted(
    _ id: UInt64, _ hole: TreeForest.Hole, _ report: inout RepairReport.Device, _ log: SalvageLog
  ) {
    let children = adopted[hole.block] ?? []
    var from = hole.range.lowerBound
    func lose(_ range: Range<UInt64>) {
      if report.saved != report.expected, !range.isEmpty {
        report.add(.lost, Range(range), block: MetadataBlock(hole.block))
      }
    }
    for child in children {
      lose(from..<max(from, child.firstKey))
      report.add(
        child.isDoubtful ? .doubtful : .adopted, Range(child.firstKey..<(child.lastKey + 1)),
        block: MetadataBlock(child.block))
      from = child.lastKey + 1
    }
    lose(from..<max(from, hole.range.upperBound))
    let mapped = children.reduce(0) { $0 &+ (forest.extent(of: $1.block)?.leafEntries ?? 0) }
    log.say(
      "thin device \(id): the node at block \(hole.block) is lost; \(children.count) nodes with "
        + "\(mapped) mappings to which it led are found again"
        + (report.saved == report.expected ? ", which are all" : ""))
  }
}
