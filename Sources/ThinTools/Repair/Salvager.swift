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
  private let reader: BlockReader
  private let superblock: Superblock
  /// Mappings to this data block and above are impossible.
  private let dataBlockCount: UInt64
  private let progress: Progress
  private let forest: TreeForest
  private let leaves: LeafFacts
  /// Damage, as far as it is kept.
  private(set) var faults: [TreeFault] = []
  /// How much of it speaks for a generation that was committed later.
  private(set) var damage = GenerationDamage()
  private var roots: [UInt64: UInt64] = [:]
  private var details: [UInt64: DeviceDetails] = [:]
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
    let leaves = self.leaves
    forest.walk(.mappings, roots: roots.values.sorted()) { block, node in
      leaves.add(block, node)
      if leaves.lost(block) > 0 { forest.markFaulty(leaf: block) }
    }
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
    var entries: [UInt64: [(id: UInt64, root: UInt64)]] = [:]
    forest.walk(.devices, roots: [superblock.mappingRoot]) { block, node in
      for i in 0..<node.entryCount where node.key(i) <= Limits.deviceIDMax {
        entries[block, default: []].append((node.key(i), node.value64(i)))
      }
    }
    isSound = forest.verify(.devices, root: superblock.mappingRoot).isSound
    forest.forEachUsableLeaf(.devices, root: superblock.mappingRoot) {
      for entry in entries[$0] ?? [] { roots[entry.id] = entry.root }
    }
    var known: [UInt64: [(id: UInt64, details: DeviceDetails)]] = [:]
    forest.walk(.details, roots: [superblock.detailsRoot]) { block, node in
      for i in 0..<node.entryCount {
        let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
        known[block, default: []].append((node.key(i), details))
      }
    }
    guard !forest.verify(.details, root: superblock.detailsRoot).isSound else {
      forest.forEachUsableLeaf(.details, root: superblock.detailsRoot) {
        for entry in known[$0] ?? [] { details[entry.id] = entry.details }
      }
      return
    }
    isSound = false
    forest.forEachUsableLeaf(.details, root: superblock.detailsRoot) {
      for entry in known[$0] ?? [] { details[entry.id] = entry.details }
    }
    forest.forEachLostRange(.details, root: superblock.detailsRoot) { _, range in
      detailsLost.append(range)
      return true
    }
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

  /// What is saved. Each loss and each guess is told to `onLoss`.
  /// - Parameters:
  ///   - overrides: what the user knows better than the superblock.
  ///   - mayMix: whether the two trees may be of different generations, however well they fit.
  func source(
    _ overrides: SuperblockOverrides, mayMix: Bool, _ onLoss: (String) -> Void
  ) -> DumpSource {
    var madeUp: [Int] = []
    var devices = self.devices(&madeUp, onLoss)
    for id in details.keys.sorted() where roots[id] == nil {
      onLoss("thin device \(id): its mapping tree is lost; it is left out")
    }
    for fault in faults { onLoss("\(fault)") }

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
    if mayMix || !isSound {
      for (id, before) in leaves.protectSharedBlocks(&devices, forest, reader) {
        let now = devices.first { $0.id == id }?.details.snapshottedTime ?? 0
        time = max(time, now)
        onLoss(
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
      onLoss(
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
  private func devices(_ madeUp: inout [Int], _ onLoss: (String) -> Void) -> [ThinDevice] {
    var devices: [ThinDevice] = []
    for (id, root) in roots.sorted(by: { $0.key < $1.key }) {
      let summary = forest.verify(.mappings, root: root)
      var usable: UInt64 = 0
      forest.forEachUsableLeaf(.mappings, root: root) { usable += leaves.usable($0) }
      guard details[id] != nil || detailsLost.contains(where: { $0.contains(id) }) else {
        onLoss(
          "thin device \(id): it has a mapping tree of \(usable) mappings, but the details tree is "
            + "sound where it would stand and does not list it, as of a deleted device; it is left "
            + "out")
        continue
      }
      if !summary.isSound { reportLoss(id, root, onLoss) }
      if details[id] == nil {
        onLoss(
          "thin device \(id): its details are lost; taken to be as recent as can be, "
            + "and its mappings to be shared")
        madeUp.append(devices.count)
      }
      var device =
        details[id]
        ?? DeviceDetails(
          mappedBlocks: usable, transactionID: superblock.transactionID, creationTime: 0,
          snapshottedTime: 0)
      if device.mappedBlocks != usable {
        onLoss(
          "thin device \(id): \(usable) of \(device.mappedBlocks) mappings are saved")
        device.mappedBlocks = usable
      }
      devices.append(ThinDevice(id: id, root: root, details: device))
    }
    return devices
  }

  private func reportLoss(_ id: UInt64, _ root: UInt64, _ onLoss: (String) -> Void) {
    var left = 1000
    forest.forEachLostRange(.mappings, root: root) { block, range in
      let end = range.upperBound == .max ? "end" : "\(range.upperBound - 1)"
      if leaves.lost(block) > 0 {
        onLoss(
          "thin device \(id): \(leaves.lost(block)) mappings of virtual blocks "
            + "\(range.lowerBound)..\(end) lead beyond the data device, which is taken to have "
            + "\(dataBlockCount) blocks (block \(block)); if it has more, add --nr-data-blocks")
      } else {
        onLoss(
          "thin device \(id): what was mapped of virtual blocks \(range.lowerBound)..\(end) "
            + "is lost (block \(block))")
      }
      left -= 1
      return left > 0
    }
  }
}
