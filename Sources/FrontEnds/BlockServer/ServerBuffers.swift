import Glibc

/// Page-aligned buffers for payloads, in sizes that are powers of two. Those that come back are kept
/// for the next request, up to a limit; the rest goes back to the system by and by, which takes a few
/// microseconds for each.
@safe final class ServerBuffers {
  /// A buffer and which size it has.
  @safe struct Buffer {
    let bytes: UnsafeMutableRawPointer
    fileprivate let order: Int
    /// Its size.
    var count: Int { ServerBuffers.bytesMin << order }
  }

  @safe private struct FreeList {
    var first: UnsafeMutableRawPointer?
    var count = 0
  }

  static let bytesMin = 4096
  /// Sizes up to 64 MiB.
  private static let orders = 15
  private static let keptBytesMax = 32 << 20
  /// Given back to the system in one go: a fraction of a millisecond.
  private static let trimBytesMax = 4 << 20
  private static let releasesMax = (pass: 64, trim: 512)

  private let lists: UnsafeMutablePointer<FreeList>
  /// In use and kept there are no more than this, unless more is in use.
  private let bytesMax: Int
  /// Bytes that the system has given, in use and kept.
  private(set) var bytesHeld = 0
  private var keptBytes = 0
  /// Whether any are kept for the next request.
  var keepsAny: Bool { keptBytes > 0 }
  /// The least that was kept since the last `trim`: it was not needed.
  private var unusedBytes = 0

  /// No buffers yet.
  init(bytesMax: Int) {
    self.bytesMax = bytesMax
    unsafe lists = .allocate(capacity: Self.orders)
    unsafe lists.initialize(repeating: FreeList(), count: Self.orders)
  }

  deinit {
    for order in 0..<Self.orders { while drop(order) {} }
    unsafe lists.deallocate()
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
    if let first = unsafe lists[order].first {
      unsafe lists[order].first = first.load(as: UnsafeMutableRawPointer?.self)
      unsafe lists[order].count -= 1
      keptBytes -= size
      unusedBytes = min(unusedBytes, keptBytes)
      return unsafe Buffer(bytes: first, order: order)
    }
    // What is kept in other sizes is not what is wanted now.
    if keptBytes > Self.keptBytesMax / 2 { dropFromFullest() }
    while keptBytes > 0, bytesHeld + size > bytesMax { dropFromFullest() }
    // The allocator would keep what lies below something that is still in use.
    let fresh = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let fresh = unsafe fresh, unsafe fresh != MAP_FAILED else { return nil }
    bytesHeld += size
    return unsafe Buffer(bytes: fresh, order: order)
  }

  /// Takes a buffer back.
  func give(_ buffer: Buffer) {
    unsafe buffer.bytes.storeBytes(of: lists[buffer.order].first, as: UnsafeMutableRawPointer?.self)
    unsafe lists[buffer.order].first = buffer.bytes
    unsafe lists[buffer.order].count += 1
    keptBytes += buffer.count
  }

  /// Whether more is kept than is to be.
  var keepsTooMuch: Bool {
    keptBytes > Self.keptBytesMax || keptBytes > 0 && bytesHeld > bytesMax
  }

  /// Gives back to the system some of what is beyond that.
  func releaseSome() {
    for _ in 0..<Self.releasesMax.pass where keepsTooMuch { dropFromFullest() }
  }

  /// Gives back to the system some of what was not needed since the last call. Called from time to time.
  func trim() {
    let target = max(0, keptBytes - min(unusedBytes, Self.trimBytesMax))
    for _ in 0..<Self.releasesMax.trim where keptBytes > target { dropFromFullest() }
    unusedBytes = keptBytes
  }

  private func release(_ bytes: UnsafeMutableRawPointer, _ count: Int) {
    unsafe munmap(bytes, count)
    bytesHeld -= count
  }

  private func drop(_ order: Int) -> Bool {
    guard let first = unsafe lists[order].first else { return false }
    unsafe lists[order].first = first.load(as: UnsafeMutableRawPointer?.self)
    unsafe lists[order].count -= 1
    keptBytes -= Self.bytesMin << order
    unusedBytes = min(unusedBytes, keptBytes)
    unsafe release(first, Self.bytesMin << order)
    return true
  }

  private func dropFromFullest() {
    let fullest = (0..<Self.orders).max { unsafe lists[$0].count << $0 < lists[$1].count << $1 }
    if let fullest { _ = drop(fullest) }
  }
}
