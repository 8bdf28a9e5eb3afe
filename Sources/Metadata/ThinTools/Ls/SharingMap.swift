import Glibc
import ThinFormat

/// Counts each data block as never seen, seen once, or shared, with two bits each. Regions are
/// allocated when first touched, so memory is a quarter of a byte per block of a used region.
@safe struct SharingMap: ~Copyable {
  private static let entriesPerRegion = 16384
  private let blockCount: UInt64
  private let regions: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>
  private let regionCount: Int

  init(blockCount: UInt64) {
    self.blockCount = blockCount
    regionCount = Int(blockCount / UInt64(Self.entriesPerRegion)) + 1
    unsafe regions = .allocate(capacity: regionCount)
    unsafe regions.initialize(repeating: nil, count: regionCount)
  }

  deinit {
    for i in 0..<regionCount { unsafe free(regions[i]) }
    unsafe regions.deallocate()
  }

  /// Counts the data blocks of a leaf.
  /// - Parameter shared: whether more than one device uses the leaf.
  /// - Returns: the index of the first entry with a data block beyond the end, at which counting
  ///   stops.
  mutating func add(_ node: borrowing BtreeNodeView, shared: Bool) -> Int? {
    for i in 0..<node.entryCount {
      let block = Mapping(rawValue: node.value64(i)).dataBlock
      guard block < blockCount else { return i }
      let base = unsafe self.region(block)
      let entry = Int(truncatingIfNeeded: block) & (Self.entriesPerRegion - 1)
      let shift = UInt8(truncatingIfNeeded: (entry & 3) << 1)
      let seen = unsafe base[entry >> 2] >> shift & 3
      // 0 never, 1 once, 3 shared: both bits are only ever set.
      unsafe base[entry >> 2] |= (shared || seen != 0 ? 3 : 1) << shift
    }
    return nil
  }

  /// The number of entries of a device's own leaf whose data blocks were seen once.
  func exclusiveCount(of node: borrowing BtreeNodeView) -> UInt64 {
    var count: UInt64 = 0
    for i in 0..<node.entryCount {
      let block = Mapping(rawValue: node.value64(i)).dataBlock
      guard block < blockCount,
        let base = unsafe regions[Int(block) / Self.entriesPerRegion]
      else { continue }
      let entry = Int(truncatingIfNeeded: block) & (Self.entriesPerRegion - 1)
      if unsafe base[entry >> 2] >> UInt8(truncatingIfNeeded: (entry & 3) << 1) & 3 == 1 {
        count += 1
      }
    }
    return count
  }

  @inline(__always)
  private func region(_ block: UInt64) -> UnsafeMutablePointer<UInt8> {
    let index = Int(truncatingIfNeeded: block) / Self.entriesPerRegion
    if let base = unsafe regions[index] { return unsafe base }
    let bytes = Self.entriesPerRegion / 4
    guard let memory = unsafe calloc(1, bytes) else { fatalError("out of memory") }
    let base = unsafe memory.bindMemory(to: UInt8.self, capacity: bytes)
    unsafe regions[index] = base
    return unsafe base
  }
}
