import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

extension Checker {
  /// Makes the repairs that the options select, unless a finding is fatal.
  func mend() throws(ToolError) {
    guard options.mayWrite, !report.isDamaged else { return }
    // A newer generation lies in blocks that are free according to this superblock.
    guard report.newerGeneration?.age.isNewer != true else { return }
    if report.mendableCount > 0 { try rebuildSpaceMaps() }
    guard report.leakCount == 0 || options.ignoreNonFatal, report.needsCheck else { return }
    var superblock = view.superblock
    superblock.needsCheck = false
    try commit(superblock)
    report.needsCheck = false
    report.clearedNeedsCheck = true
  }

  /// Writes block 0 after everything else is durable. One sector has all that changes, so after a
  /// power cut there is the old state or the new one.
  private func commit(_ superblock: Superblock) throws(ToolError) {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    do throws(BlockIOError) {
      try device.flush()
      try unsafe device.read(into: buffer.bytes, at: 0)
      unsafe superblock.encode(into: buffer.bytes)
      unsafe BlockHeader.seal(buffer.bytes, number: 0, kind: .superblock)
      try unsafe device.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
      try device.flush()
    } catch {
      throw ToolError(error)
    }
    view = view.replacing(superblock)
  }

  /// Rebuilds both space maps from the computed counts, in blocks that the committed state does not
  /// use, so that it stays valid until the superblock is written.
  private func rebuildSpaceMaps() throws(ToolError) {
    progress.begin("Writing the space maps", total: 0)
    let counts = countWithoutSpaceMaps()
    let inUse = metadataCounts
    let end = min(view.reader.blockCount, counts.blockCount)
    var next: UInt64 = 1
    let writer = SequentialBlockWriter(device) {
      while next < end {
        next += 1
        if inUse.count(of: next - 1) == 0 { return next - 1 }
      }
      return nil
    }
    var superblock = view.superblock
    do throws(BlockWriteError) {
      let maps = SpaceMapWriter(writer: writer, metadataCounts: counts)
      superblock.dataSpaceMap = try maps.writeDataMap(dataCounts)
      superblock.metadataSpaceMap = try maps.writeMetadataMap()
      try writer.flush()
    } catch {
      switch error {
      case .device(let error): throw ToolError(error)
      case .full:
        // The blocks written so far are free. The findings remain, and are harmless.
        report.noRoomToMend = true
        return
      }
    }
    try commit(superblock)
    report.metadataFreeBlocks =
      superblock.metadataSpaceMap.blockCount - superblock.metadataSpaceMap.allocated
    report.repairedSpaceMaps = true
    report.forgetMended()
  }

  /// References to metadata blocks, except those from the space maps.
  private func countWithoutSpaceMaps() -> ReferenceCounts {
    let counts = ReferenceCounts(blockCount: view.superblock.metadataSpaceMap.blockCount)
    let forest = TreeForest(view.reader, counts: counts)
    counts.increment(0)
    var states = [view.superblock]
    let held = MetadataBlock(view.superblock.metadataSnapshot)
    if held != 0, let snapshot = try? MetadataView(device, source: .metadataSnapshotAt(held)) {
      counts.increment(held.rawValue)
      states.append(snapshot.superblock)
    }
    forest.walk(.details, roots: states.map(\.detailsRoot)) { _, _ in }
    var roots: [UInt64] = []
    forest.walk(.devices, roots: states.map(\.mappingRoot)) { _, node in
      for i in 0..<node.entryCount { roots.append(node.value64(i)) }
    }
    forest.walk(.mappings, roots: roots) { _, _ in }
    return counts
  }
}
