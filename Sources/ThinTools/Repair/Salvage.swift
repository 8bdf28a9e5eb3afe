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
      let limit = max(view.dataBlockCount, options.overrides.dataBlockCount ?? 0)
      return Salvager(reader, found, dataBlockCount: limit, progress)
        .source(options.overrides, onLoss)
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
  let limit = max(dataBlockCount ?? Limits.dataBlocksMax, options.overrides.dataBlockCount ?? 0)
  return Salvager(reader, found, dataBlockCount: limit, progress)
    .source(options.overrides, onLoss)
}

/// Whether both trees of devices can at least be entered.
private func isUsable(_ reader: BlockReader, _ superblock: Superblock) -> Bool {
  let devices: Void? = try? reader.withNode(superblock.mappingRoot, of: .devices) { _ in }
  let details: Void? = try? reader.withNode(superblock.detailsRoot, of: .details) { _ in }
  return devices != nil && details != nil
}
