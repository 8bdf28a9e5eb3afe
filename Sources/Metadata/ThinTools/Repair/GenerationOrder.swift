import PersistentData
import ThinFormat

/// Finds the latest generation of a pool by where its blocks lie, when the superblock is lost.
///
/// Every commit writes a new index block of the metadata space map, so the index blocks that are
/// left on the device stand for generations. The allocator (Linux: `sm_metadata_new_block`, and
/// `MetadataSpaceMap.allocate` here) takes the next free block behind the one that it took last,
/// commit after commit, starts again at block 0 when it comes to the end and at every activation,
/// and never takes what the last commit refers to. So from block 0 up to where it stands
/// generations follow each other in time, and behind that comes something older: the latest is
/// the first generation whose neighbour cannot be its successor. A successor
///
/// - took only blocks between the two index blocks, or after an activation from block 0 on, among
///   them a new bitmap for the blocks around its own index block;
/// - gave back the index block and the bitmaps that it replaced.
///
/// A generation with fewer bitmaps than another is from before the pool's metadata grew.
///
/// Where transactions replace everything and are all of a size, that may hold of an older
/// neighbour too. If it also holds from the last neighbour to the first, the latest is the one
/// whose mappings are least like its neighbour's.
///
/// Memory: an entry for each index block, and the mappings of two generations' changed leaves.
struct GenerationOrder: ~Copyable {
  /// A metadata index block, and the bitmaps that it names.
  struct Index {
    var block: UInt64
    var bitmaps: [UInt64]
  }

  /// Where a transaction may have found free blocks.
  enum Place {
    /// Between the two index blocks.
    case between
    /// From block 0 on, after an activation.
    case fromStart
    /// Behind the older index block to the end of the device, and from block 0 on.
    case aroundEnd
  }

  /// What a transaction changed, as bitmaps tell.
  struct Change {
    let last: UInt64
    let next: UInt64
    let place: Place
    /// Blocks taken into use and given back; so many of each as are looked at.
    var taken: [UInt64] = []
    var freed: [UInt64] = []
    var takenCount = 0
    /// Blocks that were free and left so, where the allocator passed.
    var passedOver = 0

    init(last: UInt64, next: UInt64, _ place: Place) {
      (self.last, self.next, self.place) = (last, next, place)
    }

    func mayTake(_ block: UInt64) -> Bool {
      switch place {
      case .between: last < block && block <= next
      case .fromStart: block <= next
      case .aroundEnd: last < block || block <= next
      }
    }

    /// Adds what differs between two versions of a bitmap; returns false where that cannot be.
    mutating func add(from old: BitmapCopy, to new: BitmapCopy, bitmap: Int, blockCount: UInt64)
      -> Bool
    {
      for byte in 0..<Bitmap.entriesBytes {
        let first = UInt64(bitmap * Limits.entriesPerBitmap + 4 * byte)
        if old.bytes[byte] == new.bytes[byte] && place == .between
          && (first + 3 <= last || first > next)
        {
          continue
        }
        for entry in (4 * byte)..<(4 * byte + 4) {
          let block = UInt64(bitmap * Limits.entriesPerBitmap + entry)
          guard block < blockCount else { return true }
          switch (old.isUsed(entry), new.isUsed(entry)) {
          case (false, true):
            guard mayTake(block) else { return false }
            takenCount += 1
            if taken.count < GenerationOrder.changesMax { taken.append(block) }
          case (true, false):
            if freed.count < GenerationOrder.changesMax { freed.append(block) }
          case (false, false): if mayTake(block) { passedOver += 1 }
          case (true, true): break
          }
        }
      }
      return true
    }
  }

  /// Blocks read in all. A device of 16 GiB, full of small transactions, takes a third of it.
  private static let readsMax = 1 << 22
  /// Changed blocks of a transaction that are looked at.
  private static let changesMax = 4096
  /// Runs of generations that are looked for, and generations of each that are offered: the last of
  /// a run may be what is left of one that the run's own successor was written over.
  private static let runsMax = 8
  private static let ofRunMax = 4
  let reader: BlockReader
  private let bitmapCount: Int
  /// All that the device has, ascending, where it has been scanned.
  let indexBlocks: [UInt64]?
  var readsLeft = GenerationOrder.readsMax

  init(_ reader: BlockReader, indexBlocks: [UInt64]? = nil) {
    self.reader = reader
    self.indexBlocks = indexBlocks
    let per = UInt64(Limits.entriesPerBitmap)
    bitmapCount = Int((reader.blockCount + per - 1) / per)
  }

  /// Generations that may be the latest, the likeliest first: the last ones of each run of
  /// neighbours that follow each other. Empty where there are too many to look at.
  /// - Parameter indexBlocks: all that the device has, ascending.
  mutating func latest(of indexBlocks: [UInt64]) -> [Index] {
    var runs: [[UInt64]] = [[]]
    var last: Index?
    var bitmapsMax = 0
    for block in indexBlocks {
      guard let next = index(block), next.bitmaps.count >= bitmapsMax else { continue }
      if next.bitmaps.count > bitmapsMax {
        // A pool only ever grows, and what it gained is used first.
        (bitmapsMax, runs, last) = (next.bitmaps.count, [[]], nil)
      }
      if let last, !isSuccessor(next, of: last) {
        // What follows is older, save for more bitmaps.
        guard runs.count < Self.runsMax else { continue }
        runs.append([])
      }
      runs[runs.count - 1].append(block)
      last = next
    }
    if let hidden = leastAlike(in: runs[0]) {
      runs.insert(Array(runs[0].prefix { $0 <= hidden }), at: 0)
    }
    guard readsLeft > 0 else { return [] }
    var found: [Index] = []
    for block in runs.flatMap({ $0.suffix(Self.ofRunMax).reversed() }) {
      if let index = index(block) { found.append(index) }
    }
    return found
  }

  /// Blocks that a generation uses, as far as its bitmaps can be read.
  mutating func blocksInUse(_ index: Index) -> Bitset {
    var used = Bitset(limit: reader.blockCount)
    for i in 0..<index.bitmaps.count {
      guard let bitmap = bitmap(index.bitmaps[i]) else { continue }
      let first = UInt64(i * Limits.entriesPerBitmap)
      for entry in 0..<Limits.entriesPerBitmap where bitmap.isUsed(entry) {
        if first + UInt64(entry) < reader.blockCount { used.insert(first + UInt64(entry)) }
      }
    }
    return used
  }

  // MARK: - Reading

  struct BitmapCopy {
    static let empty = BitmapCopy(bytes: Array(repeating: 0, count: Bitmap.entriesBytes))
    var bytes: [UInt8]

    /// Whether the count of an entry is above zero.
    func isUsed(_ entry: Int) -> Bool { pair(entry) != 0 }
    /// The count of an entry; 3 stands for three and more.
    func count(_ entry: Int) -> UInt32 { UInt32(Bitmap.swapped(pair(entry))) }
    private func pair(_ entry: Int) -> UInt8 { bytes[entry / 4] >> UInt8(entry % 4 * 2) & 3 }
  }

  mutating func index(_ block: UInt64) -> Index? {
    guard readsLeft > 0 else { return nil }
    readsLeft -= 1
    var result: Index? = Index(block: block, bitmaps: [])
    let read: Void? = try? reader.withBlock(block, of: .index) { bytes throws(BlockProblem) in
      for i in 0..<bitmapCount {
        let bitmap = IndexEntry(decoding: bytes, at: IndexBlock.offset(ofEntry: i)).bitmapBlock
        // The device may be larger than what the pool has taken in.
        guard bitmap != 0 else { break }
        guard bitmap < reader.blockCount else {
          result = nil
          break
        }
        result?.bitmaps.append(bitmap)
      }
    }
    return read != nil && result?.bitmaps.isEmpty == false ? result : nil
  }

  mutating func bitmap(_ block: UInt64) -> BitmapCopy? {
    guard readsLeft > 0 else { return nil }
    readsLeft -= 1
    return try? reader.withBlock(block, of: .bitmap) { bytes throws(BlockProblem) in
      unsafe BitmapCopy(
        bytes: bytes.withUnsafeBytes {
          unsafe Array($0[Bitmap.entriesOffset..<(Bitmap.entriesOffset + Bitmap.entriesBytes)])
        })
    }
  }

  // MARK: - Successors

  private mutating func isSuccessor(_ next: Index, of last: Index) -> Bool {
    change(last, next, .between) != nil || change(last, next, .fromStart) != nil
  }

  /// What `next` changed, if it may come right after `last`.
  /// - Parameter passes: whether a transaction may have passed over many free blocks, as one does that makes
  ///   and deletes much.
  mutating func change(_ last: Index, _ next: Index, _ place: Place, passes: Bool = false)
    -> Change?
  {
    let own = Int(next.block) / Limits.entriesPerBitmap
    guard next.bitmaps.count >= last.bitmaps.count, own < next.bitmaps.count,
      own >= last.bitmaps.count || next.bitmaps[own] != last.bitmaps[own]
    else { return nil }
    var change = Change(last: last.block, next: next.block, place)
    change.freed = [last.block]
    var changed: [Int] = []
    for i in 0..<next.bitmaps.count
    where i >= last.bitmaps.count || next.bitmaps[i] != last.bitmaps[i] {
      guard change.mayTake(next.bitmaps[i]) else { return nil }
      if i < last.bitmaps.count { change.freed.append(last.bitmaps[i]) }
      changed.append(i)
    }
    let replaced = change.freed
    for i in changed {
      let new = bitmap(next.bitmaps[i])
      let old = i < last.bitmaps.count ? bitmap(last.bitmaps[i]) : BitmapCopy.empty
      guard let old, let new else {
        // Damaged: the index blocks have to do, where they say enough.
        if place == .between { continue }
        return nil
      }
      for block in replaced where Int(block) / Limits.entriesPerBitmap == i {
        if new.isUsed(Int(block) % Limits.entriesPerBitmap) { return nil }
      }
      guard change.add(from: old, to: new, bitmap: i, blockCount: reader.blockCount) else {
        return nil
      }
    }
    // Free blocks are taken one after the other: few are passed over, which the same transaction
    // gave back.
    return passes || change.passedOver * 2 <= change.takenCount ? change : nil
  }

  // MARK: - Likeness

  /// The generation of a run that is less like what follows it than the last is like the first,
  /// and than any other, if the last one may be followed by the first.
  private mutating func leastAlike(in run: [UInt64]) -> UInt64? {
    guard run.count > 2, let first = index(run[0]), let end = index(run[run.count - 1]),
      let closing = change(end, first, .aroundEnd) ?? change(end, first, .fromStart)
    else { return nil }
    var most = difference(closing)
    var result: UInt64?
    var last = first
    for block in run.dropFirst() {
      guard let next = index(block) else { continue }
      if let change = change(last, next, .between) ?? change(last, next, .fromStart) {
        let difference = difference(change)
        if difference > most { (most, result) = (difference, last.block) }
      }
      last = next
    }
    return result
  }

  /// How many mappings and devices a transaction changed.
  mutating func difference(_ change: Change) -> Int {
    let before = mappings(change.freed)
    let after = mappings(change.taken)
    return before.symmetricDifference(after).count
  }

  private struct Entry: Hashable {
    var key: UInt64
    var value: UInt64
  }

  private mutating func mappings(_ blocks: [UInt64]) -> Set<Entry> {
    var found: Set<Entry> = []
    for block in blocks where readsLeft > 0 {
      readsLeft -= 1
      try? reader.withBlock(block) { bytes in
        if let node = try? BtreeNodeView(
          validating: bytes, number: block, leafValueSize: TreeKind.mappings.valueSize)
        {
          guard node.isLeaf else { return }
          for i in 0..<node.entryCount {
            found.insert(Entry(key: node.key(i), value: node.value64(i)))
          }
        } else if let node = try? BtreeNodeView(
          validating: bytes, number: block, leafValueSize: DeviceDetails.byteCount), node.isLeaf
        {
          for i in 0..<node.entryCount {
            let details = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
            found.insert(Entry(key: ~node.key(i), value: details.transactionID))
          }
        }
      }
    }
    return found
  }
}
