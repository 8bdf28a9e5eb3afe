import BlockIO
import Glibc
public import ThinFormat

/// Reference counts of a device's blocks, in memory.
///
/// The layout is that of the disk, so that memory and disk can be compared directly: a region per
/// space-map bitmap (16,320 blocks), two bits per block in the disk's order, 3 standing for three
/// or more. The exact counts of those are in a hash table, as they are in the overflow tree on
/// disk. A region is allocated at its first count.
///
/// Memory: a quarter of a byte per block of a touched region, and 12 to 36 bytes per block with a
/// count of three or more.
///
/// Invariants: a block's entry is 3 exactly if it is in the table, with a count of at least 3;
/// entries past `blockCount` are zero.
@safe public final class ReferenceCounts {
  /// The number of blocks counted.
  public let blockCount: UInt64
  /// The number of regions, which is that of the space map's bitmaps.
  public let regionCount: Int
  private let regions: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>
  private var overflow = OverflowTable()

  /// Zero counts for `blockCount` blocks.
  public init(blockCount: UInt64) {
    self.blockCount = blockCount
    let per = UInt64(Limits.entriesPerBitmap)
    regionCount = Int(blockCount / per + (blockCount % per == 0 ? 0 : 1))
    unsafe regions = .allocate(capacity: max(1, regionCount))
    unsafe regions.initialize(repeating: nil, count: regionCount)
  }

  deinit {
    for i in 0..<regionCount { unsafe free(regions[i]) }
    unsafe regions.deallocate()
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
    guard let base = unsafe regions[region] else { return 0 }
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
    guard let base = unsafe regions[region] else { return incrementFirst(block, region, entry) }
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

  @inline(never)
  private func incrementFirst(_ block: UInt64, _ region: Int, _ entry: Int) -> UInt32 {
    guard let memory = unsafe calloc(1, Bitmap.entriesBytes) else { fatalError("out of memory") }
    unsafe regions[region] = memory.bindMemory(to: UInt8.self, capacity: Bitmap.entriesBytes)
    return increment(block, region, entry)
  }

  /// Subtracts one from the count of `block`.
  /// - Precondition: the count is above zero.
  public func decrement(_ block: UInt64) {
    let old = count(of: block)
    precondition(old > 0)
    let (region, entry) = Self.split(block)
    if old > 3 { return overflow.insert(block, count: old - 1) }
    if old == 3 { overflow.remove(block) }
    guard let base = unsafe regions[region] else { return }
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
    var fromFuture: Int?
    var region = 0
    var regionStart: UInt64 = 0
    for i in 0..<node.entryCount {
      let mapping = Mapping(rawValue: node.value64(i))
      let block = mapping.dataBlock
      if mapping.time > timeMax && fromFuture == nil { fromFuture = i }
      if block >= blockCount {
        if beyondEnd == nil { beyondEnd = i }
        continue
      }
      // Neighbouring mappings are mostly in one region: divide only if they are not.
      if block &- regionStart >= UInt64(Limits.entriesPerBitmap) {
        region = Int(truncatingIfNeeded: block / UInt64(Limits.entriesPerBitmap))
        regionStart = UInt64(region) &* UInt64(Limits.entriesPerBitmap)
      }
      _ = increment(block, region, Int(truncatingIfNeeded: block &- regionStart))
    }
    return (beyondEnd, fromFuture)
  }

  /// Whether a region's counts are exactly `entries` as two-bit entries (4,080 bytes of a bitmap).
  /// Counts of three and more are equal here.
  public func region(_ region: Int, matches entries: RawSpan) -> Bool {
    unsafe entries.withUnsafeBytes { disk in
      guard let diskBase = disk.baseAddress, disk.count == Bitmap.entriesBytes else {
        return false
      }
      guard let base = unsafe regions[region] else { return unsafe disk.isAllZero }
      return unsafe memcmp(base, diskBase, Bitmap.entriesBytes) == 0
    }
  }

  /// Writes a region's counts as the entries of a bitmap block.
  public func encode(region: Int, into block: UnsafeMutableRawBufferPointer) {
    for at in 0..<Bitmap.entriesBytes {
      unsafe block[Bitmap.entriesOffset + at] = regions[region]?[at] ?? 0
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
    guard let base = unsafe regions[region] else {
      result.firstFree = 0
      return result
    }
    let words = UnsafeRawPointer(base)
    let ones: UInt64 = 0x5555_5555_5555_5555
    for word in 0..<(Bitmap.entriesBytes / 8) {
      let bits = unsafe UInt64(
        littleEndian: words.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self))
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
