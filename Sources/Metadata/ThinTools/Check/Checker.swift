public import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// `thin_check`.
public enum ThinCheck {
  /// Checks a pool's metadata against all rules of the format that do not need the data device, and
  /// against its redundancy: reference counts are computed from the trees and compared with both
  /// space maps.
  ///
  /// Nothing read is trusted. Memory: that of `NodeTable`, that of `ReferenceCounts` for both
  /// devices, and 24 bytes per thin device.
  ///
  /// - Parameter device: opened for writing when `options.mayWrite`.
  /// - Throws: `ToolError` if the superblock is unusable, a requested metadata snapshot does not
  ///   exist, or writing fails. Damage is reported, not thrown.
  public static func run(
    _ device: any BlockDevice, options: CheckOptions, progress: Progress
  ) throws(ToolError) -> CheckReport {
    let checker = try Checker(device, options, progress)
    try checker.run()
    return checker.report
  }
}

/// One run of the check.
final class Checker {
  let device: any BlockDevice
  let options: CheckOptions
  let progress: Progress
  var view: MetadataView
  let forest: TreeForest
  let metadataCounts: ReferenceCounts
  let dataCounts: ReferenceCounts
  var report = CheckReport()
  /// Damage that makes computed reference counts meaningless.
  var treesAreSound = true
  private var damage = GenerationDamage()

  init(_ device: any BlockDevice, _ options: CheckOptions, _ progress: Progress)
    throws(ToolError)
  {
    self.device = device
    self.options = options
    self.progress = progress
    do throws(MetadataError) {
      view = try MetadataView(device, source: options.source)
    } catch {
      throw ToolError(error)
    }
    let reader = view.reader
    // A space map needs a bitmap block for every 16,320 blocks, so a larger number in a damaged
    // superblock is not worth memory.
    let dataBlocksMax = reader.blockCount * UInt64(Limits.entriesPerBitmap)
    dataCounts = ReferenceCounts(blockCount: min(view.dataBlockCount, dataBlocksMax))
    metadataCounts = ReferenceCounts(
      blockCount: max(
        reader.blockCount,
        min(view.superblock.metadataSpaceMap.blockCount, Limits.metadataBlocksMax)))
    forest = TreeForest(reader, counts: metadataCounts)
    forest.onNode = { progress.advance() }
    forest.onFault = { [unowned self] in self.add($0) }
  }

  func run() throws(ToolError) {
    report.transactionID = view.live.transactionID
    let space = view.live.metadataSpaceMap
    report.metadataFreeBlocks = space.blockCount &- min(space.allocated, space.blockCount)
    report.needsCheck = view.live.needsCheck
    checkSuperblock()
    if !options.superblockOnly {
      progress.begin("Checking thin metadata", total: space.allocated)
      checkTrees()
      lookForNewer()
    }
    try mend()
  }

  /// Looks for a generation newer than the superblock's. For a sound pool, this reads a few blocks.
  private func lookForNewer() {
    guard !options.metadataSnapshot, options.mappingRoot == nil, options.detailsRoot == nil else {
      return
    }
    var scan = RootScan(view.reader, progress)
    var search = NewerGenerations(view.reader, view.superblock)
    damage.isDamaged = report.isDamaged
    report.newerGeneration = search.find(damage, &scan).map(NewerGeneration.init)
  }

  func add(_ finding: Finding) { report.add(finding) }

  private func add(_ fault: TreeFault) {
    if fault.isFatal { treesAreSound = false }
    damage.add(fault)
    add(Finding(.tree(fault)))
  }

  // MARK: - Superblock

  private func checkSuperblock() {
    let superblock = view.superblock
    let reader = view.reader
    let block = view.superblockNumber
    if superblock.time > Limits.timeMax {
      add(Finding(.superblockTime(found: superblock.time, block: block)))
    }
    guard !options.metadataSnapshot else { return }
    let metadata = superblock.metadataSpaceMap
    // The file may hold only the superblock, so its length is no limit.
    let blocksMax = options.superblockOnly ? Limits.metadataBlocksMax : reader.blockCount
    if metadata.blockCount > blocksMax {
      let isFormatLimit = metadata.blockCount > Limits.metadataBlocksMax
      add(
        Finding(
          .metadataSpaceMapSize(
            found: metadata.blockCount,
            max: isFormatLimit ? Limits.metadataBlocksMax : reader.blockCount,
            isFormatLimit: isFormatLimit, block: block)))
    }
    if !options.superblockOnly, view.dataBlockCount > dataCounts.blockCount {
      add(
        Finding(
          .dataSpaceMapSize(
            found: view.dataBlockCount, max: dataCounts.blockCount, block: block)))
    }
  }

  // MARK: - Trees

  private struct Trees {
    var superblock: Superblock
    var number: MetadataBlock
    var isSnapshot: Bool
  }

  private func checkTrees() {
    metadataCounts.increment(0)
    var main = view.superblock
    if let root = options.mappingRoot { main.mappingRoot = root.rawValue }
    if let root = options.detailsRoot { main.detailsRoot = root.rawValue }
    var states = [Trees(superblock: main, number: view.superblockNumber, isSnapshot: false)]
    if !options.metadataSnapshot, let snapshot = heldSnapshot() { states.append(snapshot) }

    forest.walk(.details, roots: states.map(\.superblock.detailsRoot)) { _, _ in }
    var roots: [UInt64] = []
    forest.walk(.devices, roots: states.map(\.superblock.mappingRoot)) { _, node in
      for i in 0..<node.entryCount { roots.append(node.value64(i)) }
    }
    let poolTime = max(view.superblock.time, states.map(\.superblock.time).max() ?? 0)
    if !options.skipMappings { walkMappings(roots, poolTime: poolTime) }
    for state in states { checkDevices(state) }
    if !options.skipMappings && !options.metadataSnapshot { checkSpaceMaps() }
  }

  /// The trees of the metadata snapshot, which belong to the pool's metadata.
  private func heldSnapshot() -> Trees? {
    let block = MetadataBlock(view.superblock.metadataSnapshot)
    guard block != 0 else { return nil }
    do throws(MetadataError) {
      let snapshot = try MetadataView(device, source: .metadataSnapshotAt(block))
      metadataCounts.increment(block.rawValue)
      return Trees(superblock: snapshot.superblock, number: block, isSnapshot: true)
    } catch {
      treesAreSound = false
      add(Finding(.metadataSnapshot(error, block: block)))
      return nil
    }
  }

  private func walkMappings(_ roots: [UInt64], poolTime: UInt32) {
    let counts = dataCounts
    let forest = self.forest
    forest.walk(.mappings, roots: roots) { block, node in
      let (beyondEnd, fromFuture) = counts.increment(mappingsOf: node, timeMax: poolTime)
      guard beyondEnd != nil || fromFuture != nil else { return }
      forest.markFaulty(leaf: block)
      if let i = beyondEnd {
        add(
          TreeFault(
            .mappings, block: block,
            .dataBlockBeyondEnd(
              virtualBlock: node.key(i), dataBlock: Mapping(rawValue: node.value64(i)).dataBlock,
              blockCount: counts.blockCount)))
      }
      if let i = fromFuture {
        add(
          TreeFault(
            .mappings, block: block,
            .mappingFromFuture(
              virtualBlock: node.key(i), time: Mapping(rawValue: node.value64(i)).time,
              poolTime: poolTime)))
      }
    }
  }

  // MARK: - Devices

  private func checkDevices(_ state: Trees) {
    let details = forest.verify(.details, root: state.superblock.detailsRoot)
    let devices = forest.verify(.devices, root: state.superblock.mappingRoot)
    let listing = MetadataView(
      reader: view.reader, superblock: state.superblock, number: state.number,
      dataBlockCount: view.dataBlockCount)
    let roots = (try? listing.deviceRoots()) ?? []
    let known = (try? listing.deviceDetails()) ?? []
    // If a tree is damaged, that was reported, and comparing would only report every device.
    if details.isSound && devices.isSound {
      compare(roots.map(\.id), known.map(\.id), state)
    }
    if !state.isSnapshot { report.deviceCount = max(roots.count, known.count) }
    var next = 0
    for device in roots {
      if device.id > .max {
        add(Finding(.deviceID(device: device.id), inMetadataSnapshot: state.isSnapshot))
      }
      while next < known.count && known[next].id < device.id { next += 1 }
      let details = next < known.count && known[next].id == device.id ? known[next].details : nil
      if let details { check(details, of: device.id, state) }
      if !options.skipMappings { checkMappings(device.id, device.root, details, state) }
    }
  }

  /// Requires that the device tree and the details tree have the same devices.
  private func compare(_ roots: [ThinID], _ details: [ThinID], _ state: Trees) {
    var r = 0
    var d = 0
    while r < roots.count || d < details.count {
      if r < roots.count && d < details.count && roots[r] == details[d] {
        r += 1
        d += 1
        continue
      }
      let onlyRoot = d == details.count || (r < roots.count && roots[r] < details[d])
      let id = onlyRoot ? roots[r] : details[d]
      treesAreSound = false
      add(
        Finding(
          .deviceMismatch(device: id, inDetails: !onlyRoot), inMetadataSnapshot: state.isSnapshot))
      if onlyRoot { r += 1 } else { d += 1 }
    }
  }

  private func check(_ details: DeviceDetails, of id: ThinID, _ state: Trees) {
    let poolTime = state.superblock.time
    for (isCreation, time) in [(true, details.creationTime), (false, details.snapshottedTime)]
    where time > poolTime {
      add(
        Finding(
          .deviceTime(device: id, isCreation: isCreation, found: time, poolTime: poolTime),
          inMetadataSnapshot: state.isSnapshot))
    }
  }

  private func checkMappings(
    _ id: ThinID, _ root: MetadataBlock, _ details: DeviceDetails?, _ state: Trees
  ) {
    let summary = forest.verify(.mappings, root: root.rawValue)
    if !summary.isSound {
      var left = 100
      forest.forEachLostRange(.mappings, root: root.rawValue) { block, range in
        add(
          Finding(
            .mappingsLost(device: id, Range(range), block: MetadataBlock(block)),
            inMetadataSnapshot: state.isSnapshot))
        left -= 1
        return left > 0
      }
    } else if let details, details.mappedBlocks != summary.leafEntries {
      treesAreSound = false
      add(
        Finding(
          .mappingCount(
            device: id, expected: details.mappedBlocks, found: summary.leafEntries),
          inMetadataSnapshot: state.isSnapshot))
    }
  }
}
