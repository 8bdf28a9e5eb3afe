import BlockIO
import Glibc
public import ThinFormat

/// Reference counts of a device's blocks, in memory.
///
/// A region per space-map bitmap (16,320 blocks), allocated at its first count. While no count of it is above
/// one it is narrow: a bit per block. Then it is wide, in the layout of the disk, so that memory and disk can
/// be compared directly: two bits per block in the disk's order, 3 standing for three or more. The exact
/// counts of those are in a hash table, as they are in the overflow tree on disk.
///
/// Memory: an eighth of a byte per block of a narrow region, a quarter per block of a wide one, and 12 to 36
/// bytes per block with a count of three or more.
///
/// Invariants: a region is narrow, or wide, or neither; a block's entry is 3 exactly if it is in the table,
/// with a count of at least 3; entries past `blockCount` are zero.
@safe public final class ReferenceCounts {
  /// The number of blocks counted.
  public let blockCount: UInt64
  /// The number of regions, which is that of the space map's bitmaps.
  public let regionCount: Int
  private let narrow: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>
  private let wide: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>
  @safe @exclusivity(unchecked) private var overflow = OverflowTable()

  /// Zero counts for `blockCount` blocks.
  public init(blockCount: UInt64) {
    self.blockCount = blockCount
    let per = UInt64(Limits.entriesPerBitmap)
    regionCount = Int(blockCount / per + (blockCount % per == 0 ? 0 : 1))
    unsafe narrow = .allocate(capacity: max(1, regionCount))
    unsafe narrow.initialize(repeating: nil, count: regionCount)
    unsafe wide = .allocate(capacity: max(1, regionCount))
    unsafe wide.initialize(repeating: nil, count: regionCount)
  }

  deinit {
    for i in 0..<regionCount {
      unsafe free(narrow[i])
      unsafe free(wide[i])
    }
    unsafe narrow.deallocate()
    unsafe wide.deallocate()
  }

  @inline(__always)
  private static func split(_ block: UInt64) -> (region: Int, entry: Int) {
    let region = block / UInt64(Limits.entriesPerBitmap)
    return (
      Int(truncatingIfNeeded: region),
      Int(truncatingIfNeeded: block &- region &* UInt64(Limits.entriesPerBitmap))
    )
  }

  /// The count of `block`; 0 beyond the end.
  public func count(of block: UInt64) -> UInt32 {
    guard block < blockCount else { return 0 }
    let (region, entry) = Self.split(block)
    guard let base = unsafe wide[region] else {
      return unsafe narrow[region].map { unsafe UInt32($0[entry >> 3] >> UInt8(entry & 7) & 1) }
        ?? 0
    }
    let pair = unsafe Bitmap.swapped(base[entry >> 2] >> UInt8((entry & 3) << 1) & 3)
    return pair < 3 ? UInt32(pair) : overflow.count(of: block)
  }

  /// The count of one entry of a region.
  /// - Precondition: `region` is below `regionCount`, `entry` below 16,320.
  public func count(region: Int, entry: Int) -> UInt32 {
    count(of: UInt64(region * Limits.entriesPerBitmap + entry))
  }

  /// Adds one to the count of `block`. Returns the count before. A count stays at the largest
  /// 32-bit value.
  /// - Precondition: `block` is below `blockCount`.
  @discardableResult
  public func increment(_ block: UInt64) -> UInt32 {
    precondition(block < blockCount)
    let (region, entry) = Self.split(block)
    return increment(block, region, entry)
  }

  @inline(__always)
  private func increment(_ block: UInt64, _ region: Int, _ entry: Int) -> UInt32 {
    guard let base = unsafe wide[region] else { return incrementNarrow(block, region, entry) }
    let shift = UInt8(truncatingIfNeeded: (entry & 3) << 1)
    let byte = unsafe base[entry >> 2]
    let pair = byte >> shift & 3
    // Counts 0, 1, 2, 3 are pairs 00, 10, 01, 11: the step from 10 changes both bits, the others
    // only the upper one.
    if pair != 3 {
      unsafe base[entry >> 2] = byte ^ ((pair == 2 ? 3 : 2) &<< shift)
      if pair == 1 { overflow.insert(block, count: 3) }
      return UInt32(Bitmap.swapped(pair))
    }
    return overflow.increment(block)
  }

  @inline(__always)
  private func incrementNarrow(_ block: UInt64, _ region: Int, _ entry: Int) -> UInt32 {
    let base = unsafe narrow[region] ?? makeNarrow(region)
    let bit: UInt8 = 1 &<< UInt8(truncatingIfNeeded: entry & 7)
    let byte = unsafe base[entry >> 3]
    unsafe base[entry >> 3] = byte | bit
    return byte & bit == 0 ? 0 : incrementToTwo(block, region, entry)
  }

  @inline(never)
  private func incrementToTwo(_ block: UInt64, _ region: Int, _ entry: Int) -> UInt32 {
    widen(region)
    return increment(block, region, entry)
  }

  @inline(never)
  private func makeNarrow(_ region: Int) -> UnsafeMutablePointer<UInt8> {
    let base = unsafe Self.zeroed(Self.narrowBytes)
    unsafe narrow[region] = base
    return unsafe base
  }

  private static let narrowBytes = Limits.entriesPerBitmap / 8

  private static func zeroed(_ byteCount: Int) -> UnsafeMutablePointer<UInt8> {
    guard let memory = unsafe calloc(1, byteCount) else { fatalError("out of memory") }
    return unsafe memory.bindMemory(to: UInt8.self, capacity: byteCount)
  }

  private func widen(_ region: Int) {
    let base = unsafe Self.zeroed(Bitmap.entriesBytes)
    for i in 0..<Self.wordsPerRegion {
      unsafe UnsafeMutableRawPointer(base).storeBytes(
        of: word(region, i).littleEndian, toByteOffset: i * 8, as: UInt64.self)
    }
    unsafe wide[region] = base
    unsafe free(narrow[region])
    unsafe narrow[region] = nil
  }

  private static let wordsPerRegion = Bitmap.entriesBytes / 8

  /// The entries `32 * i` to `32 * i + 31` of a region, as the disk has them.
  @inline(__always)
  private func word(_ region: Int, _ i: Int) -> UInt64 {
    if let base = unsafe wide[region] {
      return unsafe UInt64(
        littleEndian: UnsafeRawPointer(base).loadUnaligned(fromByteOffset: i &* 8, as: UInt64.self))
    }
    guard let base = unsafe narrow[region] else { return 0 }
    let bits = unsafe UInt32(
      littleEndian: UnsafeRawPointer(base).loadUnaligned(fromByteOffset: i &* 4, as: UInt32.self))
    // Each bit becomes the upper one of a pair, which is a count of one.
    var word = UInt64(bits)
    word = (word | word << 16) & 0x0000_ffff_0000_ffff
    word = (word | word << 8) & 0x00ff_00ff_00ff_00ff
    word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f
    word = (word | word << 2) & 0x3333_3333_3333_3333
    word = (word | word << 1) & 0x5555_5555_5555_5555
    return word << 1
  }

  /// Subtracts one from the count of `block`.
  /// - Precondition: the count is above zero.
  public func decrement(_ block: UInt64) {
    let old = count(of: block)
    precondition(old > 0)
    let (region, entry) = Self.split(block)
    if old > 3 { return overflow.insert(block, count: old - 1) }
    if old == 3 { overflow.remove(block) }
    guard let base = unsafe wide[region] else {
      unsafe narrow[region]?[entry >> 3] &= ~(1 << UInt8(entry & 7))
      return
    }
    let shift = UInt8((entry & 3) << 1)
    unsafe base[entry >> 2] =
      unsafe base[entry >> 2] & ~(3 << shift) | Bitmap.swapped(UInt8(old - 1)) << shift
  }

  /// Adds one for every data block in a leaf of mappings.
  /// - Parameter timeMax: the pool's time; a mapping with a later time is counted, and reported.
  /// - Returns: the index of the first entry whose data block is beyond the end (not counted), and
  ///   of the first entry whose time is above `timeMax`.
  public func increment(mappingsOf node: borrowing BtreeNodeView, timeMax: UInt32)
    -> (beyondEnd: Int?, fromFuture: Int?)
  {
    var beyondEnd: Int?
    var region = 0
    var regionStart: UInt64 = 0
    var i = 0
    while i < node.entryCount {
      let block = Mapping(rawValue: node.value64(i)).dataBlock
      // Most mappings are in runs.
      var end = i &+ 1
      while end < node.entryCount,
        Mapping(rawValue: node.value64(end)).dataBlock == block &+ UInt64(end &- i)
      { end &+= 1 }
      if end &- i == 1, block < blockCount {
        // Neighbouring mappings are mostly in one region: divide only if they are not.
        if block &- regionStart >= UInt64(Limits.entriesPerBitmap) {
          region = Int(truncatingIfNeeded: block / UInt64(Limits.entriesPerBitmap))
          regionStart = UInt64(region) &* UInt64(Limits.entriesPerBitmap)
        }
        _ = increment(block, region, Int(truncatingIfNeeded: block &- regionStart))
        i = end
        continue
      }
      let there = block < blockCount ? min(end - i, Int(clamping: blockCount - block)) : 0
      increment(run: block, there)
      if there < end - i && beyondEnd == nil { beyondEnd = i + there }
      i = end
    }
    return (beyondEnd, Self.fromFuture(node, timeMax))
  }

  /// The first entry of a leaf of mappings with a time above `timeMax`.
  private static func fromFuture(_ node: borrowing BtreeNodeView, _ timeMax: UInt32) -> Int? {
    var isAny: UInt8 = 0
    for i in 0..<node.entryCount {
      isAny |= Mapping(rawValue: node.value64(i)).time > timeMax ? 1 : 0
    }
    guard isAny != 0 else { return nil }
    return (0..<node.entryCount).first { Mapping(rawValue: node.value64($0)).time > timeMax }
  }

  /// Adds one to the counts of `length` blocks from `block` on, which are all below `blockCount`.
  private func increment(run block: UInt64, _ length: Int) {
    var (region, entry) = Self.split(block)
    var left = length
    while left > 0 {
      let count = min(left, Limits.entriesPerBitmap &- entry)
      let first = UInt64(region &* Limits.entriesPerBitmap)
      var at = unsafe wide[region] == nil ? setNarrow(region, entry, count) : entry
      let end = entry &+ count
      while at < end {
        _ = increment(first &+ UInt64(at), region, at)
        at &+= 1
      }
      left &-= count
      region &+= 1
      entry = 0
    }
  }

  /// Sets entries of a region that is not wide to one, 64 at a time, up to those of which one is set already.
  /// Returns the first that is left to be counted one by one, or the end of the run.
  @inline(__always)
  private func setNarrow(_ region: Int, _ entry: Int, _ count: Int) -> Int {
    let base = unsafe narrow[region] ?? makeNarrow(region)
    var at = entry
    let end = entry &+ count
    while at < end {
      let bit = at & 63
      let taken = min(64 &- bit, end &- at)
      let unused = UInt64(truncatingIfNeeded: 64 &- taken)
      let mask = (UInt64.max &>> unused) &<< UInt64(truncatingIfNeeded: bit)
      let place = unsafe UnsafeMutableRawPointer(base) + (at >> 6) &* 8
      let word = unsafe UInt64(littleEndian: place.loadUnaligned(as: UInt64.self))
      guard word & mask == 0 else { return at }
      unsafe place.storeBytes(of: (word | mask).littleEndian, as: UInt64.self)
      at &+= taken
    }
    return end
  }

  /// Whether a region's counts are exactly `entries` as two-bit entries (4,080 bytes of a bitmap).
  /// Counts of three and more are equal here.
  public func region(_ region: Int, matches entries: RawSpan) -> Bool {
    unsafe entries.withUnsafeBytes { disk in
      guard let diskBase = disk.baseAddress, disk.count == Bitmap.entriesBytes else {
        return false
      }
      if let base = unsafe wide[region] {
        return unsafe memcmp(base, diskBase, Bitmap.entriesBytes) == 0
      }
      for i in 0..<Self.wordsPerRegion {
        let onDisk = unsafe diskBase.loadUnaligned(fromByteOffset: i &* 8, as: UInt64.self)
        if UInt64(littleEndian: onDisk) != word(region, i) { return false }
      }
      return true
    }
  }

  /// Writes a region's counts as the entries of a bitmap block.
  public func encode(region: Int, into block: UnsafeMutableRawBufferPointer) {
    for i in 0..<Self.wordsPerRegion {
      unsafe block.storeBytes(
        of: word(region, i).littleEndian, toByteOffset: Bitmap.entriesOffset + i * 8,
        as: UInt64.self)
    }
  }

  /// The totals of a region.
  public struct Summary: Equatable, Sendable {
    /// Entries with a count above zero.
    public var used = 0
    /// Entries with a count of three and more.
    public var overflowing = 0
    /// The first entry with count zero; 16,320 if there is none.
    public var firstFree = Limits.entriesPerBitmap

    /// The summary of no entries.
    public init() {}
  }

  /// The summary of one region.
  public func summary(ofRegion region: Int) -> Summary {
    var result = Summary()
    let ones: UInt64 = 0x5555_5555_5555_5555
    for word in 0..<Self.wordsPerRegion {
      let bits = self.word(region, word)
      let low = bits & ones
      let high = bits >> 1 & ones
      result.used += (low | high).nonzeroBitCount
      result.overflowing += (low & high).nonzeroBitCount
      let free = ~(low | high) & ones
      if free != 0 && result.firstFree == Limits.entriesPerBitmap {
        result.firstFree = word * 32 + free.trailingZeroBitCount / 2
      }
    }
    return result
  }

  /// Calls `body` for every block with a count of three or more, ascending.
  public func forEachOverflow<E: Error>(
    _ body: (_ block: UInt64, _ count: UInt32) throws(E) -> Void
  ) throws(E) {
    for region in 0..<regionCount where summary(ofRegion: region).overflowing > 0 {
      for entry in 0..<Limits.entriesPerBitmap {
        let value = count(region: region, entry: entry)
        if value >= 3 { try body(UInt64(region * Limits.entriesPerBitmap + entry), value) }
      }
    }
  }
}
