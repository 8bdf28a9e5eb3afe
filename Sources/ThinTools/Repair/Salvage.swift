import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// Finds everything of a pool that is still usable, device by device: a damaged node costs what
/// was below it and nothing else.
///
/// Starts from the superblock; where that or one of the two trees of devices is lost, from the
/// most recent compatible roots that a scan of the device finds (`RootScan`). Never writes.
/// - Parameter onLoss: gets a line for everything that could not be saved, and for every guess.
/// - Throws: `ToolError(.damaged)` when nothing can be found.
func salvage(
  _ device: any BlockDevice, options: DumpOptions, progress: Progress, onLoss: (String) -> Void
) throws(ToolError) -> DumpSource {
  var found: Superblock
  let reader = BlockReader(device)
  var dataBlockCount: UInt64?
  do throws(MetadataError) {
    let view = try MetadataView(device, source: .current)
    found = view.superblock
    dataBlockCount = view.dataBlockCount
    guard !isUsable(reader, found) else {
      let salvager = Salvager(reader, found, dataBlockCount: view.dataBlockCount, progress)
      return salvager.run(options, onLoss)
    }
    onLoss("The root of a tree of devices is lost; looking for the trees on the whole device.")
  } catch {
    onLoss("\(error)")
    guard let sectors = options.overrides.dataBlockSectors else {
      throw ToolError(
        .damaged,
        "data block size needs to be provided due to corruption in the superblock: "
          + "add --data-block-size SECTORS, which LVM's metadata backup or the pool's old table "
          + "line says")
    }
    found = Superblock()
    found.dataBlockSectors = sectors
    onLoss("The superblock is lost; looking for the trees on the whole device.")
  }

  var scan = RootScan(reader, progress)
  guard let roots = scan.bestRoots(preferring: found) else {
    throw ToolError(.damaged, "no compatible roots found: nothing on the device looks like a pool")
  }
  onLoss(
    "Using the device tree at block \(roots.mappingRoot) and the details tree at block "
      + "\(roots.detailsRoot), the most recent of \(roots.candidates) that fit together. What was "
      + "committed later than these is lost.")
  found.mappingRoot = roots.mappingRoot
  found.detailsRoot = roots.detailsRoot
  found.time = max(found.time, roots.time)
  if dataBlockCount == nil {
    found.transactionID = roots.transactionID
  }
  let limit = dataBlockCount ?? options.overrides.dataBlockCount ?? Limits.dataBlocksMax
  return Salvager(reader, found, dataBlockCount: limit, progress).run(options, onLoss)
}

/// Whether both trees of devices can at least be entered.
private func isUsable(_ reader: BlockReader, _ superblock: Superblock) -> Bool {
  let devices: Void? = try? reader.withNode(superblock.mappingRoot, of: .devices) { _ in }
  let details: Void? = try? reader.withNode(superblock.detailsRoot, of: .details) { _ in }
  return devices != nil && details != nil
}

/// Salvages what hangs on one pair of roots.
struct Salvager {
  private let reader: BlockReader
  private let superblock: Superblock
  private let dataBlockCount: UInt64
  private let progress: Progress

  init(
    _ reader: BlockReader, _ superblock: Superblock, dataBlockCount: UInt64, _ progress: Progress
  ) {
    self.reader = reader
    self.superblock = superblock
    self.dataBlockCount = dataBlockCount
    self.progress = progress
  }

  /// Device id to root, and to details, of what is usable of the two trees.
  private func readDevices(_ forest: TreeForest) -> (
    roots: [UInt64: UInt64], details: [UInt64: DeviceDetails]
  ) {
    var roots: [UInt64: UInt64] = [:]
    forest.walk(.devices, roots: [superblock.mappingRoot]) { _, node in
      for i in 0..<node.entryCount where node.key(i) <= Limits.deviceIDMax {
        roots[node.key(i)] = node.value64(i)
      }
    }
    var details: [UInt64: DeviceDetails] = [:]
    forest.walk(.details, roots: [superblock.detailsRoot]) { _, node in
      for i in 0..<node.entryCount {
        details[node.key(i)] = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
      }
    }
    return (roots, details)
  }

  func run(_ options: DumpOptions, _ onLoss: (String) -> Void) -> DumpSource {
    let forest = TreeForest(reader, counts: ReferenceCounts(blockCount: reader.blockCount))
    var faults: [TreeFault] = []
    forest.onFault = {
      if $0.isFatal && faults.count < CheckReport.findingsMax { faults.append($0) }
    }
    let progress = self.progress
    forest.onNode = { progress.advance() }
    progress.begin("Reading mappings", total: superblock.metadataSpaceMap.allocated)
    let (roots, details) = readDevices(forest)
    let leaves = LeafFacts()
    forest.walk(.mappings, roots: roots.values.sorted()) { block, node in
      leaves.add(block, node, dataBlockCount: dataBlockCount)
      if leaves.lost[block] != nil { forest.markFaulty(leaf: block) }
    }

    var devices: [ThinDevice] = []
    var latest = superblock.time
    for (id, root) in roots.sorted(by: { $0.key < $1.key }) {
      let summary = forest.verify(.mappings, root: root)
      var usable: UInt64 = 0
      forest.forEachUsableLeaf(.mappings, root: root) { usable += leaves.usable($0) }
      if !summary.isSound { reportLoss(forest, id, root, leaves, onLoss) }
      latest = max(latest, leaves.latestTime)
      var known = details[id]
      if known == nil {
        onLoss(
          "thin device \(id): its details are lost; taken to be as recent as can be, "
            + "and its mappings to be shared")
        known = DeviceDetails(
          mappedBlocks: usable, transactionID: superblock.transactionID,
          creationTime: latest, snapshottedTime: latest)
      }
      guard var device = known else { continue }
      if device.mappedBlocks != usable {
        onLoss(
          "thin device \(id): \(usable) of \(device.mappedBlocks) mappings are saved")
        device.mappedBlocks = usable
      }
      latest = max(latest, device.creationTime, device.snapshottedTime)
      devices.append(ThinDevice(id: id, root: root, details: device))
    }
    for id in details.keys.sorted() where roots[id] == nil {
      onLoss("thin device \(id): its mapping tree is lost; it is left out")
    }
    for fault in faults { onLoss("\(fault)") }

    var mended = superblock
    mended.time = min(latest, Limits.timeMax)
    let blockCount =
      dataBlockCount == Limits.dataBlocksMax ? leaves.dataBlocksSeen : dataBlockCount
    return DumpSource(
      salvaged: forest, reader,
      DumpHeader(mended, dataBlockCount: blockCount, options.overrides), devices)
  }

  private func reportLoss(
    _ forest: TreeForest, _ id: UInt64, _ root: UInt64, _ leaves: LeafFacts,
    _ onLoss: (String) -> Void
  ) {
    var left = 1000
    forest.forEachLostRange(.mappings, root: root) { block, range in
      let end = range.upperBound == .max ? "end" : "\(range.upperBound - 1)"
      if let lost = leaves.lost[block] {
        onLoss(
          "thin device \(id): \(lost) mappings of virtual blocks \(range.lowerBound)..\(end) "
            + "lead beyond the data device (block \(block))")
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

/// What salvage remembers of leaves of mappings.
final class LeafFacts {
  /// Entries with impossible data blocks, of leaves that have some.
  private(set) var lost: [UInt64: UInt64] = [:]
  /// The latest time of any mapping.
  private(set) var latestTime: UInt32 = 0
  /// One more than the largest data block mapped.
  private(set) var dataBlocksSeen: UInt64 = 0
  private var entries: [UInt64: UInt16] = [:]

  func add(_ block: UInt64, _ node: borrowing BtreeNodeView, dataBlockCount: UInt64) {
    var bad: UInt64 = 0
    for i in 0..<node.entryCount {
      let mapping = Mapping(rawValue: node.value64(i))
      if mapping.dataBlock >= dataBlockCount {
        bad += 1
        continue
      }
      latestTime = max(latestTime, mapping.time)
      dataBlocksSeen = max(dataBlocksSeen, mapping.dataBlock + 1)
    }
    if bad > 0 { lost[block] = bad }
    entries[block] = UInt16(node.entryCount)
  }

  /// Entries of a leaf that can be used.
  func usable(_ block: UInt64) -> UInt64 { UInt64(entries[block] ?? 0) - (lost[block] ?? 0) }
}
