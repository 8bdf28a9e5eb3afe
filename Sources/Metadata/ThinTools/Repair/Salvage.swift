import BlockIO
import PersistentData
public import ThinFormat
import ThinMetadata

/// Which of a pool's states is salvaged.
public enum Generation: Equatable, Sendable {
  /// The superblock's.
  case superblock
  /// The newest whole one on the device, wherever the superblock leads.
  case newest
  /// The one whose metadata index, or metadata snapshot, is at this block.
  case block(MetadataBlock)
}

/// Finds everything of a pool that is still usable, device by device: a damaged node costs what
/// was below it and nothing else.
///
/// A superblock with a good checksum is evidence, not truth. Where a whole generation is on the
/// device that is conclusively newer, that is taken; where the superblock or one of the two trees
/// of devices is lost, the most recent compatible roots that a scan of the device finds
/// (`RootScan`). Never writes.
/// - Parameter log: gets a line for everything that could not be saved, and for every guess.
/// - Throws: `ToolError(.damaged)` when nothing can be found.
func salvage(
  _ device: any BlockDevice, options: SalvageOptions, progress: Progress, log: SalvageLog
) throws(ToolError) -> DumpSource {
  let reader = BlockReader(device)
  var salvage = try Salvage(reader, options, progress, log)
  switch options.generation {
  case nil: return try salvage.best(log)
  case .superblock: return try salvage.ofSuperblock(log)
  case .newest: return try salvage.newest(log)
  case .block(let block): return try salvage.generation(at: block.rawValue, log)
  }
}

/// One run of `salvage`.
private struct Salvage: ~Copyable {
  private let reader: BlockReader
  private let options: SalvageOptions
  private let progress: Progress
  /// As far as it is known.
  private var superblock: Superblock
  private let isLost: Bool
  private var scan: RootScan
  /// What is left of the latest generation is preferred to an earlier one that has up to one mapping more for
  /// so many: that is what the difference between two generations may be.
  private static let worthOfLatest: UInt64 = 8

  init(
    _ reader: BlockReader, _ options: SalvageOptions, _ progress: Progress,
    _ log: SalvageLog
  ) throws(ToolError) {
    self.reader = reader
    self.options = options
    self.progress = progress
    scan = RootScan(reader, progress)
    do throws(MetadataError) {
      superblock = try MetadataView(reader.device, source: .current).superblock
      isLost = false
    } catch {
      log.say("\(error)")
      guard options.generation != .superblock else {
        throw ToolError(.damaged, "the superblock is lost, so that its generation is not known")
      }
      guard let sectors = options.overrides.dataBlockSectors else {
        throw ToolError(
          .damaged,
          "data block size needs to be provided due to corruption in the superblock: "
            + "add --data-block-size SECTORS, which LVM's metadata backup or the pool's old table "
            + "line says")
      }
      superblock = Superblock()
      superblock.dataBlockSectors = sectors
      isLost = true
    }
  }

  // MARK: - Which generation

  /// The superblock's generation, unless it is lost or a whole one is newer.
  mutating func best(_ log: SalvageLog) throws(ToolError) -> DumpSource {
    guard !isLost else {
      log.say("The superblock is lost; looking for the trees on the whole device.")
      return try likeliest(log)
    }
    let own = isUsable ? ofSuperblock() : nil
    var search = NewerGenerations(reader, superblock)
    let other = search.find(own?.damage ?? .rootsLost, &scan)
    if let other, other.age.isNewer {
      if other.age == .newer { log.say(NewerGeneration(other).sentence) }
      return use(other.roots, log)
    }
    guard let own else {
      if hasDetails, let found = withoutDeviceTree(log) { return found }
      log.say("The root of a tree of devices is lost; looking for the trees on the whole device.")
      return try likeliest(log)
    }
    let saved = finish(own, log)
    if let other {
      tell(other, log)
    } else if !own.isSound {
      tellOfOther(log)
    }
    return saved
  }

  /// The superblock's generation, where nothing of its tree of devices is left but the details tell which
  /// mapping tree is which device's; nil where not one can be told.
  private mutating func withoutDeviceTree(_ log: SalvageLog) -> DumpSource? {
    let tried = SalvageLog()
    var salvager = ofSuperblock()
    salvager.known.earlier = earlierTrees(
      of: salvager.details, besides: superblock.metadataSpaceMap.bitmapRoot)
    let saved = finish(salvager, tried)
    guard !saved.devices.isEmpty else { return nil }
    log.say(
      "The root of the tree of devices is lost; the details tell which mapping tree is whose.")
    log.take(tried)
    return saved
  }

  /// The trees of the latest generation that is whole.
  /// - Parameter index: the metadata index of one that is not.
  private mutating func earlierTrees(of devices: [UInt64: DeviceDetails], besides index: UInt64?)
    -> EarlierTrees?
  {
    guard let earlier = scan.latestGeneration(besides: index) else { return nil }
    return EarlierTrees(reader, earlier, devices)
  }

  /// Names a generation that is not taken since it may not be newer.
  private func tell(_ other: NewerGenerations.Found, _ log: SalvageLog) {
    let other = NewerGeneration(other)
    log.say(
      "\(other.sentence) The superblock's is used; --generation \(other.block) saves the other one."
    )
  }

  /// Names the latest whole generation where something of the superblock's is lost.
  private mutating func tellOfOther(_ log: SalvageLog) {
    let damaged = superblock.metadataSpaceMap.bitmapRoot
    guard let other = scan.latestGeneration(besides: damaged), let block = other.generation,
      other.mappingRoot != superblock.mappingRoot || other.detailsRoot != superblock.detailsRoot
    else { return }
    log.say(
      "A whole generation is on the device too, probably an earlier one: \(other.deviceCount) "
        + "devices, \(other.mapped) mappings. It can be had with --generation \(block); it may lead "
        + "to data blocks that were given to other devices since.")
  }

  /// The superblock's own, whatever else there is.
  mutating func ofSuperblock(_ log: SalvageLog) throws(ToolError) -> DumpSource {
    finish(ofSuperblock(), log)
  }

  /// The newest whole one, as far as the order of blocks tells.
  mutating func newest(_ log: SalvageLog) throws(ToolError) -> DumpSource {
    var search = NewerGenerations(reader, superblock)
    if !isLost, let newer = search.find(.rootsLost, &scan) { return use(newer.roots, log) }
    guard let latest = scan.latestGeneration() else {
      throw ToolError(
        .damaged,
        "no generation is whole; without --generation, what is left of the latest is saved")
    }
    return use(latest, log)
  }

  /// The one that is asked for.
  mutating func generation(at block: UInt64, _ log: SalvageLog) throws(ToolError)
    -> DumpSource
  {
    if let held = try? MetadataView(
      reader.device, source: .metadataSnapshotAt(MetadataBlock(block))
    ).superblock {
      var base = held
      base.dataSpaceMap.blockCount = superblock.dataSpaceMap.blockCount
      base.metadataSnapshot = 0
      return finish(salvager(base, limit: Limits.dataBlocksMax), ofOther: true, log)
    }
    var order = GenerationOrder(reader)
    guard block < reader.blockCount, let index = order.index(block) else {
      throw ToolError(
        .refused,
        "no generation is named by block \(block): it holds no metadata index and no metadata "
          + "snapshot; --generation newest finds the newest")
    }
    guard let roots = scan.latestWhole(of: [index]) else {
      throw ToolError(
        .damaged, "the generation of block \(block) is not whole; --generation newest finds one")
    }
    return use(roots, log)
  }

  /// The latest generation that is left; or where none is, the most recent roots that fit together.
  private mutating func likeliest(_ log: SalvageLog) throws(ToolError) -> DumpSource {
    if !scan.hasRoot(of: superblock) {
      if !isLost, let nearest = scan.nearest(to: superblock) {
        return rest(of: RootScan.Latest(roots: nearest, isCertain: false), log)
      }
      if let latest = scan.latest() { return rest(of: latest, log) }
    }
    let roots = scan.likeliestRoots(preferring: superblock)
    if !isLost, hasDeviceTree, roots?.mappingRoot != superblock.mappingRoot {
      log.say("No details of these devices are left; they are made up.")
      return finish(ofSuperblock(), log)
    }
    guard let roots else {
      throw ToolError(
        .damaged, "no compatible roots found: nothing on the device looks like a pool")
    }
    return use(roots, isCertain: false, log)
  }

  /// What is left of the latest generation; or an earlier one, where that has far more.
  private mutating func rest(of latest: RootScan.Latest, _ log: SalvageLog) -> DumpSource {
    let tried = SalvageLog()
    // A superblock that is not lost names a later one.
    let source = use(latest.roots, isCertain: isLost && latest.isCertain, tried)
    var best = (source: source, log: tried, saved: tried.report.savedCount)
    if latest.roots.isDamaged {
      let latestSaved = best.saved
      let least = latestSaved + latestSaved / Self.worthOfLatest
      let others = [
        scan.latestGeneration(besides: latest.roots.generation),
        scan.likeliestRoots(preferring: superblock),
      ]
      var last = latest.roots
      for case let other? in others
      where (other.mappingRoot, other.detailsRoot) != (last.mappingRoot, last.detailsRoot) {
        last = other
        let tried = SalvageLog()
        let source = use(other, isCertain: false, tried)
        let saved = tried.report.savedCount
        guard saved > max(best.saved, least) else { continue }
        tried.say(
          "Of a later generation only \(latestSaved) mappings are left, so that this one is taken.")
        best = (source, tried, saved)
      }
    }
    log.take(best.log)
    return best.source
  }

  /// What hangs on roots that are not the superblock's, or not for certain.
  /// - Parameter isCertain: whether they are the latest; nil to find out.
  private mutating func use(
    _ roots: RootScan.Roots, isCertain: Bool? = nil, _ log: SalvageLog
  ) -> DumpSource {
    say(roots, log)
    var found = superblock
    found.mappingRoot = roots.mappingRoot
    found.detailsRoot = roots.detailsRoot
    found.time = max(found.time, roots.time)
    // LVM makes a device, then counts the transaction.
    if isLost || roots.generation != nil {
      found.transactionID = max(found.transactionID, roots.transactionID)
    }
    let limit =
      isLost || roots.generation != nil ? Limits.dataBlocksMax : superblock.dataSpaceMap.blockCount
    var salvager = salvager(found, limit: limit)
    // Both roots are 0 where neither is known.
    let isOther = isLost || roots.mappingRoot != superblock.mappingRoot
    salvager.known.isDoubtful = isOther && !(isCertain ?? self.isCertain(roots))
    for block in roots.index.map({ scan.snapshots(of: $0) }) ?? []
    where !salvager.account(forSnapshotAt: block) {
      salvager.known.mayLackSnapshot = true
    }
    if roots.isDamaged {
      salvager.known.earlier = earlierTrees(of: salvager.details, besides: roots.generation)
    }
    return finish(salvager, ofOther: true, index: roots.index, log)
  }

  /// Whether roots that are not the superblock's are the latest: they are those of the only complete
  /// generation that nothing followed.
  private mutating func isCertain(_ roots: RootScan.Roots) -> Bool {
    guard roots.isComplete, let generation = roots.generation else { return false }
    let ends = scan.completeEnds()
    return ends.count == 1 && ends[0].generation == generation
  }

  /// Says what is used.
  private func say(_ roots: RootScan.Roots, _ log: SalvageLog) {
    let devices =
      "\(roots.deviceCount) devices, \(roots.mapped) mappings"
      + (roots.isDamaged ? ", of which some are lost" : "")
    guard let block = roots.generation, !isLost else {
      let place = roots.generation.map { ", of the generation at block \($0)" } ?? ""
      log.say(
        "Using the device tree at block \(roots.mappingRoot) and the details tree at block "
          + "\(roots.detailsRoot)\(place): \(devices), the most recent of \(roots.candidates) that fit "
          + "together. What was committed later than these is lost.")
      return
    }
    if roots.mappingRoot == superblock.mappingRoot, roots.detailsRoot == superblock.detailsRoot {
      log.say("Using the generation at block \(block), which is the superblock's: \(devices).")
    } else if !hasDeviceTree, !hasDetails {
      log.say(
        "Using the generation at block \(block): \(devices). That of the superblock is lost, and so is "
          + "what was committed between the two.")
    } else {
      log.say(
        "Using the generation at block \(block): \(devices). The superblock leads to another, of "
          + "transaction id \(superblock.transactionID); it may be an old one that was written back. "
          + "Others can be had: --generation superblock, or --generation BLOCK.")
    }
  }

  // MARK: - Salvaging it

  /// Whether both trees of devices can at least be entered.
  private var isUsable: Bool { hasDeviceTree && hasDetails }

  private var hasDeviceTree: Bool {
    let devices: Void? = try? reader.withNode(superblock.mappingRoot, of: .devices) { _ in }
    return devices != nil
  }

  private var hasDetails: Bool {
    let details: Void? = try? reader.withNode(superblock.detailsRoot, of: .details) { _ in }
    return details != nil
  }

  private func salvager(_ base: Superblock, limit: UInt64) -> Salvager {
    Salvager(
      reader, base, dataBlockCount: max(limit, options.overrides.dataBlockCount ?? 0), progress)
  }

  /// The superblock's generation. Mappings beyond its data size are believed where data space maps
  /// count that far: the pool has grown since.
  private mutating func ofSuperblock() -> Salvager {
    let own = salvager(superblock, limit: superblock.dataSpaceMap.blockCount)
    guard own.hasMappingsBeyond else { return own }
    let counted = scan.dataBlocksCounted()
    guard counted > superblock.dataSpaceMap.blockCount else { return own }
    return salvager(superblock, limit: counted)
  }

  /// What is saved of a generation.
  /// - Parameters:
  ///   - index: its metadata index, where that is known; nil for the superblock's.
  ///   - ofOther: whether it is not the superblock's, or not for certain.
  private mutating func finish(
    _ salvager: Salvager, ofOther: Bool = false, index: GenerationOrder.Index? = nil,
    _ log: SalvageLog
  ) -> DumpSource {
    var salvager = salvager
    let tried = SalvageLog()
    var index = index
    if index == nil, !ofOther, !salvager.isSound {
      index = ownIndex()
      if index == nil {
        index = scan.lostIndex(at: superblock.metadataSpaceMap.bitmapRoot)
        salvager.known.isAllocationGuessed = true
      }
    }
    if !salvager.isSound {
      salvager.known.history = history(
        of: Set(salvager.details.keys).union(salvager.roots.keys), index)
    }
    complete(&salvager, ofOther: ofOther, index: index, tried)
    let leaves = salvager.isSound ? [] : earlierLeaves(salvager, ofOther: ofOther, index: index)
    if leaves.isEmpty {
      log.take(tried)
    } else {
      let before = salvager
      let patched = BlockReader(PatchedDevice(reader.device, leaves))
      salvager = Salvager(
        patched, before.superblock, dataBlockCount: before.dataBlockCount, progress)
      salvager.known = before.known
      salvager.rebuilt = leaves
      complete(&salvager, ofOther: ofOther, index: index, log)
    }
    var source = salvager.source(options, mayMix: ofOther || !leaves.isEmpty, log)
    source.snapshot = salvager.snapshot
    log.report.dataBlockSectors = source.header.dataBlockSectors
    return source
  }

  /// The metadata index of the superblock's generation; nil where it is lost.
  private func ownIndex() -> GenerationOrder.Index? {
    let block = superblock.metadataSpaceMap.bitmapRoot
    var order = GenerationOrder(reader)
    return block < reader.blockCount ? order.index(block) : nil
  }

  /// Adds the metadata snapshot, and what lost nodes led to.
  private func complete(
    _ salvager: inout Salvager, ofOther: Bool, index: GenerationOrder.Index?, _ log: SalvageLog
  ) {
    if ofOther {
      if superblock.metadataSnapshot != 0 { log.report.snapshot = .dropped }
    } else {
      salvager.readSnapshot(log)
    }
    guard let index else { return }
    let overflow = ofOther ? nil : superblock.metadataSpaceMap.overflowRoot
    salvager.putBack(
      MetadataAllocation(reader, index, overflowRoot: overflow),
      timeMax: ofOther ? Limits.timeMax : superblock.time, options, log)
  }

  /// The roots that devices had in generations before.
  private mutating func history(of ids: Set<UInt64>, _ index: GenerationOrder.Index?)
    -> DeviceHistory
  {
    DeviceHistory(
      reader, leaves: scan.allDeviceLeaves(),
      before: index?.block ?? superblock.metadataSpaceMap.bitmapRoot, of: ids)
  }

  /// Lost leaves, made of what earlier generations had in their place.
  private mutating func earlierLeaves(
    _ salvager: Salvager, ofOther: Bool, index: GenerationOrder.Index?
  )
    -> [EarlierMappings.Leaf]
  {
    let holes = salvager.lostLeaves()
    guard !holes.isEmpty else { return [] }
    let data =
      ofOther
      ? DataAllocation(reader, leaves: scan.dataIndexLeaves(of: index))
      : DataAllocation(reader, superblock.dataSpaceMap)
    // Devices of which only a leaf tells that was found again are not in the first history.
    let owners = Set(holes.flatMap(\.owners))
    let history =
      salvager.known.history.flatMap { $0.ids.isSuperset(of: owners) ? $0 : nil }
      ?? history(of: owners, index)
    var earlier = EarlierMappings(
      reader, history, data, dataBlockCount: salvager.dataBlockCount,
      named: salvager.leaves.references(salvager.forest.stream), lacking: salvager.lacking())
    return holes.compactMap { earlier.leaf($0) }
  }
}
