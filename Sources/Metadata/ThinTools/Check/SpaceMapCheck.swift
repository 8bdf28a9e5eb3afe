import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// Compares a space map on disk with the counts computed from the trees.
///
/// The overflow tree is compared entry by entry while its leaves are read, before the bitmaps.
/// `mismatches` keeps the entries that differ until the bitmaps show their meaning.
struct SpaceMapComparison {
  let name: SpaceMapName
  let counts: ReferenceCounts
  /// Overflow entries whose value is not the computed count.
  var mismatches: [UInt64: UInt32] = [:]
  /// The number of overflow entries for a computed count of three or more.
  var overflowFound = 0
  var overflowExpected = 0
  var used: UInt64 = 0
  var leaked = Finding.CountDifferences()
  var wrong = Finding.CountDifferences()
  /// The number of overflow entries that fit no bitmap entry.
  var stray = 0

  /// The most mismatches kept; a map with more errors needs no details.
  private static let mismatchesMax = 1 << 20

  init(_ name: SpaceMapName, _ counts: ReferenceCounts) {
    self.name = name
    self.counts = counts
  }

  mutating func take(overflowLeaf node: borrowing BtreeNodeView) {
    for i in 0..<node.entryCount {
      let block = node.key(i)
      let value = node.value32(i)
      let expected = counts.count(of: block)
      if expected >= 3 { overflowFound += 1 }
      guard expected != value || value < 3 else { continue }
      if mismatches.count < Self.mismatchesMax {
        mismatches[block] = value
      } else {
        wrong.blockCount += 1
      }
    }
  }

  /// Compares one bitmap and returns the correct values of its index entry.
  mutating func take(bitmap: RawSpan, region: Int) -> ReferenceCounts.Summary {
    let entries = bitmap.extracting(
      Bitmap.entriesOffset..<(Bitmap.entriesOffset + Bitmap.entriesBytes))
    overflowExpected += counts.summary(ofRegion: region).overflowing
    if counts.region(region, matches: entries) {
      let summary = counts.summary(ofRegion: region)
      used += UInt64(summary.used)
      return summary
    }
    var summary = ReferenceCounts.Summary()
    for entry in 0..<Limits.entriesPerBitmap {
      let bits = Bitmap.count(bitmap, entry)
      if bits == 0 {
        summary.firstFree = min(summary.firstFree, entry)
      } else {
        summary.used += 1
      }
      let expected = counts.count(region: region, entry: entry)
      if UInt32(bits) == min(expected, 3) { continue }
      let block = UInt64(region * Limits.entriesPerBitmap + entry)
      var onDisk = UInt32(bits)
      if bits == 3, let value = mismatches.removeValue(forKey: block) { onDisk = value }
      difference(block, onDisk: onDisk, expected: expected)
    }
    used += UInt64(summary.used)
    return summary
  }

  private mutating func difference(_ block: UInt64, onDisk: UInt32, expected: UInt32) {
    if onDisk > expected {
      leaked.add(block, onDisk: onDisk, expected: expected)
    } else {
      wrong.add(block, onDisk: onDisk, expected: expected)
    }
  }

  /// Judges the remaining overflow entries after all bitmaps.
  mutating func finish() {
    for (block, value) in mismatches.sorted(by: { $0.key < $1.key }) {
      let expected = counts.count(of: block)
      if expected >= 3 && value >= 3 {
        difference(block, onDisk: value, expected: expected)
      } else {
        stray += 1
      }
    }
  }
}

extension Checker {
  func checkSpaceMaps() {
    let superblock = view.superblock
    let data = superblock.dataSpaceMap
    let metadata = superblock.metadataSpaceMap
    var dataIndex: [(region: UInt64, entry: IndexEntry)] = []
    forest.walk(.spaceMapIndex, roots: [data.bitmapRoot]) { _, node in
      for i in 0..<node.entryCount {
        dataIndex.append(
          (node.key(i), IndexEntry(decoding: node.bytes, at: node.valueOffset(i))))
      }
    }
    dataIndex.sort { $0.region < $1.region }
    var dataComparison = SpaceMapComparison(.data, dataCounts)
    forest.walk(.spaceMapOverflow, roots: [data.overflowRoot]) { _, node in
      dataComparison.take(overflowLeaf: node)
    }
    let dataIndexIsSound = forest.verify(.spaceMapIndex, root: data.bitmapRoot).isSound
    let metadataIndex = readMetadataIndex(metadata)

    // Every bitmap is a reference, and all references must be counted before counts are compared.
    for (_, entry) in dataIndex + metadataIndex { reference(bitmap: entry.bitmapBlock) }
    var metadataComparison = SpaceMapComparison(.metadata, metadataCounts)
    forest.walk(.spaceMapOverflow, roots: [metadata.overflowRoot]) { _, node in
      metadataComparison.take(overflowLeaf: node)
    }
    _ = forest.verify(.spaceMapOverflow, root: data.overflowRoot)
    _ = forest.verify(.spaceMapOverflow, root: metadata.overflowRoot)

    if !treesAreSound {
      add(Finding(.countsNotCompared))
    }
    if dataIndexIsSound { compare(&dataComparison, data, dataIndex) }
    compare(&metadataComparison, metadata, metadataIndex)
    if treesAreSound { checkBeyondEnd(of: metadata) }
  }

  /// The metadata device may be larger than the pool knows, but nothing may use the rest.
  private func checkBeyondEnd(of root: SpaceMapRoot) {
    var block = root.blockCount
    while block < metadataCounts.blockCount {
      if metadataCounts.count(of: block) > 0 {
        return fatal(
          .beyondSpaceMap(block: MetadataBlock(block), blockCount: root.blockCount))
      }
      block += 1
    }
  }

  private func reference(bitmap block: UInt64) {
    if block < metadataCounts.blockCount { metadataCounts.increment(block) }
  }

  private func readMetadataIndex(_ root: SpaceMapRoot) -> [(region: UInt64, entry: IndexEntry)] {
    guard root.bitmapRoot < view.reader.blockCount else {
      fatal(
        .indexBeyondEnd(
          block: MetadataBlock(root.bitmapRoot), blockCount: view.reader.blockCount))
      return []
    }
    metadataCounts.increment(root.bitmapRoot)
    var entries: [(region: UInt64, entry: IndexEntry)] = []
    do throws(BlockProblem) {
      try view.reader.withBlock(root.bitmapRoot, of: .index) { bytes throws(BlockProblem) in
        let count = min(root.bitmapCount, UInt64(Limits.metadataBitmapsMax))
        for i in 0..<Int(count) {
          entries.append(
            (UInt64(i), IndexEntry(decoding: bytes, at: IndexBlock.offset(ofEntry: i))))
        }
      }
    } catch {
      fatal(.index(error, block: MetadataBlock(root.bitmapRoot)))
    }
    return entries
  }

  private func fatal(_ problem: Finding.Problem) {
    treesAreSound = false
    add(Finding(problem))
  }

  /// Reads all bitmaps of a map. If trees are damaged, computed counts are meaningless, and only
  /// the bitmaps themselves are checked.
  private func compare(
    _ comparison: inout SpaceMapComparison, _ root: SpaceMapRoot,
    _ index: [(region: UInt64, entry: IndexEntry)]
  ) {
    let name = comparison.name
    guard isComplete(index, root, name) else { return }
    var at = 0
    var delivered = 0
    forest.stream.read(
      next: { () -> UInt64? in
        guard at < index.count else { return nil }
        at += 1
        // Reading a block beyond the end reports an error, as it should.
        return index[at - 1].entry.bitmapBlock
      },
      body: { block, bytes, failure in
        let (region, entry) = index[delivered]
        delivered += 1
        do throws(BlockProblem) {
          if let failure { throw .io(failure) }
          try requireSound(bytes, number: block, kind: .bitmap)
        } catch {
          fatal(.bitmap(name, number: region, error, block: MetadataBlock(block)))
          return
        }
        guard treesAreSound else { return }
        check(entry, region, comparison.take(bitmap: bytes, region: Int(region)), name)
      })
    guard treesAreSound else { return }
    comparison.finish()
    if comparison.used != root.allocated {
      add(
        Finding(
          .allocatedBlocks(name, superblock: root.allocated, bitmaps: comparison.used)))
    }
    report(comparison)
  }

  /// Whether every bitmap of the map has an index entry, and there are no others.
  private func isComplete(
    _ index: [(region: UInt64, entry: IndexEntry)], _ root: SpaceMapRoot, _ name: SpaceMapName
  ) -> Bool {
    for (i, item) in index.enumerated() where item.region != UInt64(i) {
      fatal(.indexEntry(name, expected: UInt64(i), found: item.region))
      return false
    }
    guard UInt64(index.count) == root.bitmapCount else {
      fatal(
        .indexEntryCount(
          name, expected: root.bitmapCount, blockCount: root.blockCount,
          found: UInt64(index.count)))
      return false
    }
    return true
  }

  private func check(
    _ entry: IndexEntry, _ region: UInt64, _ actual: ReferenceCounts.Summary, _ name: SpaceMapName
  ) {
    let free = Limits.entriesPerBitmap - actual.used
    if entry.freeCount != UInt32(free) {
      add(
        Finding(
          .freeEntries(
            name, bitmap: region, entry: UInt64(entry.freeCount), actual: UInt64(free),
            block: MetadataBlock(entry.bitmapBlock))))
    }
    if Int(entry.noneFreeBefore) > actual.firstFree {
      add(
        Finding(
          .firstFreeEntry(
            name, bitmap: region, entry: UInt64(entry.noneFreeBefore),
            actual: UInt64(actual.firstFree), block: MetadataBlock(entry.bitmapBlock))))
    }
  }

  private func report(_ comparison: SpaceMapComparison) {
    let name = comparison.name
    if comparison.leaked.blockCount > 0 {
      add(Finding(.referenceCounts(name, areTooHigh: true, comparison.leaked)))
    }
    if comparison.wrong.blockCount > 0 {
      add(Finding(.referenceCounts(name, areTooHigh: false, comparison.wrong)))
    }
    if comparison.stray > 0 {
      add(Finding(.strayOverflow(name, count: UInt64(comparison.stray))))
    }
    let missing = comparison.overflowExpected - comparison.overflowFound
    if missing > 0 && comparison.wrong.blockCount == 0 {
      add(Finding(.missingOverflow(name, count: UInt64(missing))))
    }
  }
}
