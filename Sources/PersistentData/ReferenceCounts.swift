import Glibc
public import ThinFormat

/// Reference counts of a device's blocks, in memory.
///
/// One region per space-map bitmap (16,320 blocks), allocated at its first count. A region starts
/// as the bitmap itself, two bits per block in the order of the disk, so that comparing with what
/// the disk says is comparing memory; it widens to a byte per block at the first count of four,
/// and to four bytes at the first of 256.
///
/// Memory: a quarter of a byte per block of a touched region, at most four bytes.
///
/// Invariants: a region's `form` says how its memory is laid out; entries past `blockCount` are
/// zero.
public final class ReferenceCounts {
  /// How a region's counts are stored.
  enum Form: UInt8 { case absent, bits, bytes, words }

  /// Blocks that have a count.
  public let blockCount: UInt64
  /// Regions, as many as the space map has bitmaps.
  public let regionCount: Int
  private let memory: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  private let forms: UnsafeMutablePointer<Form>

  /// Counts of zero for `blockCount` blocks.
  public init(blockCount: UInt64) {
    self.blockCount = blockCount
    let per = UInt64(Limits.entriesPerBitmap)
    regionCount = Int(blockCount / per + (blockCount % per == 0 ? 0 : 1))
    memory = .allocate(capacity: max(1, regionCount))
    memory.initialize(repeating: nil, count: regionCount)
    forms = .allocate(capacity: max(1, regionCount))
    forms.initialize(repeating: .absent, count: regionCount)
  }

  deinit {
    for i in 0..<regionCount { free(memory[i]) }
    memory.deallocate()
    forms.deallocate()
  }

  /// The count of `block`; 0 beyond the end.
  public func count(of block: UInt64) -> UInt32 {
    guard block < blockCount else { return 0 }
    let region = Int(block) / Limits.entriesPerBitmap
    return count(region: region, entry: Int(block) - region * Limits.entriesPerBitmap)
  }

  /// The count of one entry of a region.
  /// - Precondition: both are in range.
  public func count(region: Int, entry: Int) -> UInt32 {
    guard let base = memory[region] else { return 0 }
    switch forms[region] {
    case .absent: return 0
    case .bits:
      let byte = base.load(fromByteOffset: entry >> 2, as: UInt8.self)
      return UInt32(Bitmap.swapped(byte >> UInt8((entry & 3) << 1) & 3))
    case .bytes: return UInt32(base.load(fromByteOffset: entry, as: UInt8.self))
    case .words: return base.load(fromByteOffset: entry << 2, as: UInt32.self)
    }
  }

  /// Adds one to the count of `block` and returns what it was before. Stays at the largest
  /// 32-bit value once there.
  /// - Precondition: `block` is below `blockCount`.
  @discardableResult
  public func increment(_ block: UInt64) -> UInt32 {
    precondition(block < blockCount)
    let region = Int(block) / Limits.entriesPerBitmap
    return increment(region: region, entry: Int(block) - region * Limits.entriesPerBitmap)
  }

  @inline(__always)
  private func increment(region: Int, entry: Int) -> UInt32 {
    if forms[region] == .bits, let base = memory[region] {
      let at = base.assumingMemoryBound(to: UInt8.self) + (entry >> 2)
      let shift = UInt8(truncatingIfNeeded: (entry & 3) << 1)
      let pair = at.pointee >> shift & 3
      // The pair counts 00, 10, 01, 11: what changes is 10 from an even pair, 11 from 10.
      if pair != 3 {
        at.pointee ^= (pair == 2 ? 3 : 2) << shift
        return UInt32(Bitmap.swapped(pair))
      }
    }
    return incrementSlowly(region: region, entry: entry)
  }

  @inline(never)
  private func incrementSlowly(region: Int, entry: Int) -> UInt32 {
    switch forms[region] {
    case .absent:
      memory[region] = calloc(1, Bitmap.entriesBytes)
      forms[region] = .bits
      return increment(region: region, entry: entry)
    case .bits:
      widen(region, to: .bytes)
      return incrementSlowly(region: region, entry: entry)
    case .bytes:
      guard let base = memory[region]?.assumingMemoryBound(to: UInt8.self) else { return 0 }
      let old = base[entry]
      if old == UInt8.max {
        widen(region, to: .words)
        return incrementSlowly(region: region, entry: entry)
      }
      base[entry] = old + 1
      return UInt32(old)
    case .words:
      guard let base = memory[region]?.assumingMemoryBound(to: UInt32.self) else { return 0 }
      let old = base[entry]
      if old != UInt32.max { base[entry] = old + 1 }
      return old
    }
  }

  /// Takes one from the count of `block`.
  /// - Precondition: the count is above zero.
  public func decrement(_ block: UInt64) {
    let region = Int(block) / Limits.entriesPerBitmap
    let entry = Int(block) - region * Limits.entriesPerBitmap
    let old = count(region: region, entry: entry)
    precondition(old > 0)
    guard let base = memory[region] else { return }
    switch forms[region] {
    case .absent: break
    case .bits:
      let at = base.assumingMemoryBound(to: UInt8.self) + (entry >> 2)
      let shift = UInt8((entry & 3) << 1)
      at.pointee = at.pointee & ~(3 << shift) | Bitmap.swapped(UInt8(old - 1)) << shift
    case .bytes: base.assumingMemoryBound(to: UInt8.self)[entry] = UInt8(old - 1)
    case .words: base.assumingMemoryBound(to: UInt32.self)[entry] = old - 1
    }
  }

  private func widen(_ region: Int, to form: Form) {
    let entries = Limits.entriesPerBitmap
    let wide = calloc(entries, form == .bytes ? 1 : 4)
    for entry in 0..<entries {
      let value = count(region: region, entry: entry)
      if form == .bytes {
        wide?.storeBytes(of: UInt8(value), toByteOffset: entry, as: UInt8.self)
      } else {
        wide?.storeBytes(of: value, toByteOffset: entry << 2, as: UInt32.self)
      }
    }
    free(memory[region])
    memory[region] = wide
    forms[region] = form
  }

  /// Adds one for every data block that a leaf of mappings names.
  /// - Parameter timeMax: the pool's time; a mapping from the future is counted, and reported.
  /// - Returns: index of the first entry whose data block is beyond the end (not counted), and of
  ///   the first whose time is above `timeMax`.
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
      // Neighbouring mappings mostly lie in one region: divide only when they do not.
      if block &- regionStart >= UInt64(Limits.entriesPerBitmap) {
        region = Int(truncatingIfNeeded: block / UInt64(Limits.entriesPerBitmap))
        regionStart = UInt64(region) &* UInt64(Limits.entriesPerBitmap)
      }
      _ = increment(region: region, entry: Int(truncatingIfNeeded: block &- regionStart))
    }
    return (beyondEnd, fromFuture)
  }

  /// Whether a region's counts are, as two-bit entries, exactly `entries` (4,080 bytes of a
  /// bitmap), without saying where they differ. Counts of three and more look alike here.
  public func region(_ region: Int, matches entries: RawSpan) -> Bool {
    entries.withUnsafeBytes { disk in
      guard let diskBase = disk.baseAddress else { return false }
      guard forms[region] == .bits || forms[region] == .absent else {
        return matchesWide(region, disk)
      }
      guard let base = memory[region] else {
        return disk.allSatisfy { $0 == 0 }
      }
      return memcmp(base, diskBase, Bitmap.entriesBytes) == 0
    }
  }

  private func matchesWide(_ region: Int, _ disk: UnsafeRawBufferPointer) -> Bool {
    for at in 0..<Bitmap.entriesBytes where packedByte(region, at) != disk[at] { return false }
    return true
  }

  /// Four entries of a region as a byte of a bitmap.
  private func packedByte(_ region: Int, _ at: Int) -> UInt8 {
    var byte: UInt8 = 0
    for k in 0..<4 {
      let pair = UInt8(min(3, count(region: region, entry: at * 4 + k)))
      byte |= Bitmap.swapped(pair) << UInt8(k * 2)
    }
    return byte
  }

  /// Writes a region's counts as the entries of a bitmap block.
  public func encode(region: Int, into block: UnsafeMutableRawBufferPointer) {
    for at in 0..<Bitmap.entriesBytes {
      block[Bitmap.entriesOffset + at] = packedByte(region, at)
    }
  }

  /// What a region adds up to.
  public struct Summary: Equatable, Sendable {
    /// Entries with a count above zero.
    public var used = 0
    /// Entries with a count of three and more.
    public var overflowing = 0
    /// The first entry of count zero; 16,320 where there is none.
    public var firstFree = Limits.entriesPerBitmap

    /// A region without counts that has not been looked at.
    public init() {}

    init(used: Int, overflowing: Int, firstFree: Int) {
      self.used = used
      self.overflowing = overflowing
      self.firstFree = firstFree
    }
  }

  /// Counts the entries of one region.
  public func summary(ofRegion region: Int) -> Summary {
    var result = Summary()
    guard forms[region] != .absent else {
      result.firstFree = 0
      return result
    }
    if forms[region] == .bits, let base = memory[region] {
      var used = 0
      var overflowing = 0
      var firstFree: Int?
      for word in 0..<(Bitmap.entriesBytes / 8) {
        let bits = UInt64(littleEndian: base.load(fromByteOffset: word * 8, as: UInt64.self))
        let low = bits & 0x5555_5555_5555_5555
        let high = bits >> 1 & 0x5555_5555_5555_5555
        used += (low | high).nonzeroBitCount
        overflowing += (low & high).nonzeroBitCount
        if firstFree == nil {
          let free = ~(low | high) & 0x5555_5555_5555_5555
          if free != 0 { firstFree = word * 32 + free.trailingZeroBitCount / 2 }
        }
      }
      return Summary(
        used: used, overflowing: overflowing,
        firstFree: firstFree ?? Limits.entriesPerBitmap)
    }
    result.firstFree = -1
    for entry in 0..<Limits.entriesPerBitmap {
      let value = count(region: region, entry: entry)
      if value == 0 {
        if result.firstFree < 0 { result.firstFree = entry }
        continue
      }
      result.used += 1
      if value >= 3 { result.overflowing += 1 }
    }
    if result.firstFree < 0 { result.firstFree = Limits.entriesPerBitmap }
    return result
  }

  /// Calls `body` for every block with a count of three or more, ascending.
  public func forEachOverflow<E: Error>(
    _ body: (_ block: UInt64, _ count: UInt32) throws(E) -> Void
  ) throws(E) {
    for region in 0..<regionCount where forms[region] != .absent {
      if forms[region] == .bits && summary(ofRegion: region).overflowing == 0 { continue }
      for entry in 0..<Limits.entriesPerBitmap {
        let value = count(region: region, entry: entry)
        if value >= 3 { try body(UInt64(region * Limits.entriesPerBitmap + entry), value) }
      }
    }
  }
}
