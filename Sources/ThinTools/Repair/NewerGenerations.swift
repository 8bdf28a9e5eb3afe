import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// A whole generation of a pool that is newer than the superblock's.
public struct NewerGeneration: Equatable, Sendable {
  /// The metadata index block that names it; `thin_dump --repair --generation` takes it.
  public var block: UInt64
  /// Thin devices.
  public var deviceCount: Int
  /// Mappings of all devices.
  public var mappedBlocks: UInt64
}

/// Whether a superblock is the one that was written last.
///
/// A superblock with a good checksum may be an old one that was written back: by a second host that
/// had the pool open, by a mirror's other half, by a copy of the first block. What was committed
/// after it is then still on the device.
///
/// The allocator takes the next free block behind the one that it took last, so what follows a
/// superblock's generation lies right behind its index block, or from block 0 on after an
/// activation. That is where to look: a few blocks of a pool whose superblock is right.
///
/// One generation behind the superblock's proves nothing: a crash just before the superblock was
/// written leaves that, and so does the kernel's cache. Two in a row do not come to be that way. But
/// where every transaction replaces everything, the oldest generation left on the device can look
/// like the successor of the newest. So one of these has to be the case, too, none of which ever
/// holds of an older one:
///
/// - devices made or snapshotted later, by the pool's time, or in a later transaction;
/// - bitmaps for more blocks: metadata and data only grow;
/// - the allocator has never started again since the pool was formatted: the first free block is
///   then block 1, where the first index block still is.
extension GenerationOrder {
  /// What the superblock's generation and what is behind it say.
  private struct Evidence {
    var time: UInt32 = 0
    var transactionID: UInt64 = 0
    var dataBitmaps: UInt64 = 0

    mutating func add(_ details: DeviceDetails) {
      time = max(time, details.creationTime, details.snapshottedTime)
      transactionID = max(transactionID, details.transactionID)
    }

    func exceeds(_ other: Evidence) -> Bool {
      time > other.time || transactionID > other.transactionID || dataBitmaps > other.dataBitmaps
    }
  }

  /// Blocks read in a row that hold nothing of a pool, after which nothing follows.
  private static let emptyMax = 64

  /// The superblock's own generation; nil where its index block, or one of its bitmaps, has been
  /// lost or overwritten.
  mutating func own(_ superblock: Superblock) -> Index? {
    let map = superblock.metadataSpaceMap
    guard map.bitmapRoot < reader.blockCount, let own = index(map.bitmapRoot),
      UInt64(own.bitmaps.count) == map.bitmapCount
    else { return nil }
    var used: UInt64 = 0
    for block in own.bitmaps {
      guard let bitmap = bitmap(block) else { return nil }
      used += UInt64((0..<Limits.entriesPerBitmap).count { bitmap.isUsed($0) })
    }
    return used == map.allocated ? own : nil
  }

  /// Generations that were committed after the superblock's, the last one first. Empty where there
  /// are none, or where they may be older ones.
  /// - Parameter readsMax: blocks that are read at most.
  mutating func newer(than superblock: Superblock, readsMax: Int) -> [Index] {
    guard let start = own(superblock) else { return [] }
    readsLeft = readsMax
    var chain = [start]
    var evidence = [Evidence()]
    var seen: Set<UInt64> = [start.block]
    var neverRestarted = isAsFormatted(superblock)
    while readsLeft > 0, let last = chain.last {
      guard let (next, found) = next(after: last), seen.insert(next.block).inserted else { break }
      // From block 0 on: it has started again.
      if next.block < last.block { neverRestarted = false }
      chain.append(next)
      evidence.append(found)
    }
    guard chain.count > 2 else { return [] }
    var known = Evidence(
      time: superblock.time, transactionID: superblock.transactionID,
      dataBitmaps: superblock.dataSpaceMap.bitmapCount)
    try? TreeReader(reader, .details).forEach(root: superblock.detailsRoot) { node, i in
      known.add(DeviceDetails(decoding: node.bytes, at: node.valueOffset(i)))
    }
    // Behind the newest an older one may look like its successor: what each says itself counts.
    let last =
      neverRestarted
      ? chain.count - 1
      : chain.indices.last {
        evidence[$0].exceeds(known) || chain[$0].bitmaps.count > start.bitmaps.count
      }
    guard let last, last >= 2 else { return [] }
    return chain[2...last].reversed()
  }

  /// Whether the first index block that there ever was is still at block 1, and free.
  private mutating func isAsFormatted(_ superblock: Superblock) -> Bool {
    guard superblock.metadataSpaceMap.bitmapRoot > 1, let first = index(1) else { return false }
    for (i, block) in first.bitmaps.enumerated() where block != UInt64(3 + i) { return false }
    return true
  }

  /// The generation that follows, if there is one.
  private mutating func next(after last: Index) -> (Index, Evidence)? {
    var found = Evidence()
    if let next = firstIndex(from: last.block + 1, freeIn: last, &found),
      change(last, next, .between) != nil
    {
      return (next, found)
    }
    found = Evidence()
    guard let next = firstIndex(from: 1, freeIn: last, &found), next.block < last.block,
      change(last, next, .fromStart) != nil || change(last, next, .aroundEnd) != nil
    else { return nil }
    return (next, found)
  }

  /// The first index block that lies in a block free in `generation`, from `start` on.
  private mutating func firstIndex(
    from start: UInt64, freeIn generation: Index, _ evidence: inout Evidence
  ) -> Index? {
    let per = UInt64(Limits.entriesPerBitmap)
    var region: (number: UInt64, bitmap: BitmapCopy)?
    var empty = 0
    var block = start
    while block < reader.blockCount, empty < Self.emptyMax, readsLeft > 0 {
      defer { block += 1 }
      let number = block / per
      if region?.number != number {
        let known = number < UInt64(generation.bitmaps.count)
        guard let map = known ? bitmap(generation.bitmaps[Int(number)]) : .empty else { return nil }
        region = (number, map)
      }
      if region?.bitmap.isUsed(Int(block % per)) ?? true { continue }
      readsLeft -= 1
      switch look(at: block, &evidence) {
      case .index: return index(block)
      case nil: empty += 1
      default: empty = 0
      }
    }
    return nil
  }

  /// What kind of block it is, if it is sound, and what it says of devices and sizes.
  private func look(at block: UInt64, _ evidence: inout Evidence) -> BlockKind? {
    var found = evidence
    let kind = try? reader.withBlock(block) { bytes throws(BlockProblem) -> BlockKind? in
      guard let kind = BlockHeader.kind(of: bytes) else { return nil }
      try requireSound(bytes, number: block, kind: kind)
      guard kind == .btreeNode else { return kind }
      let size = DeviceDetails.byteCount
      if let node = try? BtreeNodeView(validating: bytes, number: block, leafValueSize: size),
        node.isLeaf
      {
        for i in 0..<node.entryCount {
          found.add(DeviceDetails(decoding: node.bytes, at: node.valueOffset(i)))
        }
      } else if let node = try? BtreeNodeView(
        validating: bytes, number: block, leafValueSize: TreeKind.spaceMapIndex.valueSize),
        node.isLeaf, node.entryCount > 0
      {
        found.dataBitmaps = max(found.dataBitmaps, node.key(node.entryCount - 1) &+ 1)
      }
      return kind
    }
    evidence = found
    return kind ?? nil
  }
}

/// The newest whole generation that was committed after the superblock's and that conclusively
/// is newer than it; nil where there is none. On a device whose superblock is right, this reads
/// few blocks.
/// - Parameter isDamaged: whether what the superblock leads to is damaged.
func newerGeneration(
  _ reader: BlockReader, than superblock: Superblock, isDamaged: Bool, _ scan: inout RootScan
) -> RootScan.Roots? {
  var order = GenerationOrder(reader)
  let newer = order.newer(than: superblock, readsMax: isDamaged ? 1 << 18 : 1024)
  if !newer.isEmpty, let whole = scan.latestWhole(of: Array(newer.prefix(8))) { return whole }
  guard isDamaged, isOverwritten(superblock.metadataSpaceMap.bitmapRoot, reader) else { return nil }
  // What was the superblock's index block is something else by now: a later generation's.
  order = GenerationOrder(reader)
  guard order.own(superblock) == nil, let latest = scan.latestGeneration() else { return nil }
  return latest.mappingRoot == superblock.mappingRoot
    && latest.detailsRoot == superblock.detailsRoot ? nil : latest
}

/// Whether a block that is not what it should be is sound all the same: written later as something
/// else, where media that fail leave no right checksum.
private func isOverwritten(_ block: UInt64, _ reader: BlockReader) -> Bool {
  let kind = try? reader.withBlock(block) { bytes throws(BlockProblem) -> BlockKind? in
    guard let kind = BlockHeader.kind(of: bytes) else { return nil }
    try requireSound(bytes, number: block, kind: kind)
    return kind
  }
  return (kind ?? nil) != nil
}
