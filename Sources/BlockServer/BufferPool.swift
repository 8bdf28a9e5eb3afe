import Glibc

/// Page-aligned buffers for payloads, in sizes that are powers of two. Those that come back are kept
/// for the next request, up to a limit; the rest goes back to the system.
final class BufferPool {
  /// A buffer and which size it has.
  struct Buffer {
    let bytes: UnsafeMutableRawPointer
    fileprivate let order: Int
    /// Its size.
    var count: Int { BufferPool.bytesMin << order }
  }

  private struct FreeList {
    var first: UnsafeMutableRawPointer?
    var count = 0
  }

  static let bytesMin = 4096
  /// Sizes up to 64 MiB.
  private static let orders = 15
  private static let keptBytesMax = 32 << 20

  private let lists: UnsafeMutablePointer<FreeList>
  private var keptBytes = 0

  init() {
    lists = .allocate(capacity: Self.orders)
    lists.initialize(repeating: FreeList(), count: Self.orders)
  }

  deinit {
    for order in 0..<Self.orders { while drop(order) {} }
    lists.deallocate()
  }

  /// What a buffer of at least `count` bytes takes.
  static func bytes(for count: Int) -> Int { bytesMin << order(for: count) }

  private static func order(for count: Int) -> Int {
    let pages = max(1, (count + bytesMin - 1) / bytesMin)
    return Int.bitWidth - (pages - 1).leadingZeroBitCount
  }

  /// A buffer of at least `count` bytes with whatever they hold; nil if the system has no memory.
  func take(_ count: Int) -> Buffer? {
    let order = Self.order(for: count)
    guard order < Self.orders else { return nil }
    let size = Self.bytesMin << order
    if let first = lists[order].first {
      lists[order].first = first.load(as: UnsafeMutableRawPointer?.self)
      lists[order].count -= 1
      keptBytes -= size
      return Buffer(bytes: first, order: order)
    }
    // What is kept in other sizes is not what is wanted now.
    if keptBytes > Self.keptBytesMax / 2 { dropFromFullest() }
    guard let fresh = aligned_alloc(Self.bytesMin, size) else { return nil }
    return Buffer(bytes: fresh, order: order)
  }

  /// Takes a buffer back.
  func give(_ buffer: Buffer) {
    guard keptBytes + buffer.count <= Self.keptBytesMax else {
      free(buffer.bytes)
      return
    }
    buffer.bytes.storeBytes(of: lists[buffer.order].first, as: UnsafeMutableRawPointer?.self)
    lists[buffer.order].first = buffer.bytes
    lists[buffer.order].count += 1
    keptBytes += buffer.count
  }

  private func drop(_ order: Int) -> Bool {
    guard let first = lists[order].first else { return false }
    lists[order].first = first.load(as: UnsafeMutableRawPointer?.self)
    lists[order].count -= 1
    keptBytes -= Self.bytesMin << order
    free(first)
    return true
  }

  private func dropFromFullest() {
    let fullest = (0..<Self.orders).max { lists[$0].count << $0 < lists[$1].count << $1 }
    if let fullest { _ = drop(fullest) }
  }
}
