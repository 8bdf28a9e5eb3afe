public import EventLoop
import Glibc

/// Where block requests go: a disk, or a userspace target over others. All of it belongs to one
/// event loop and its thread.
///
/// `submit` takes ranges within `byteCount` and multiples of `logicalBlockBytes`, with buffers
/// aligned to that; a front end checks its clients' requests first. It never waits, and calls the owner
/// later, never from within `submit`.
open class BlockDestination: RequestOwner {
  /// What a range of the destination holds, so that a reader can skip what is not there.
  public struct Extent: Equatable, Sendable {
    /// First byte.
    public var offset: UInt64
    /// Bytes.
    public var byteCount: UInt64
    /// Space is allocated for it.
    public var isAllocated: Bool
    /// It reads as zeros, as far as is known without reading.
    public var isZero: Bool
    /// False where `loadExtent` has to be called first.
    public var isKnown = true

    /// An extent.
    public init(
      offset: UInt64, byteCount: UInt64, isAllocated: Bool, isZero: Bool, isKnown: Bool = true
    ) {
      self.isKnown = isKnown
      self.offset = offset
      self.byteCount = byteCount
      self.isAllocated = isAllocated
      self.isZero = isZero
    }
  }

  /// The loop that hands requests back to their owners.
  public final let loop: EventLoop

  /// A destination of requests of `loop`'s thread.
  public init(_ loop: EventLoop) { self.loop = loop }

  /// Size in bytes; can change while in use.
  open var byteCount: UInt64 { 0 }
  /// Requests are multiples of this: 512 to 4096, a power of two.
  open var logicalBlockBytes: Int { 512 }
  /// Requests of this size and alignment are the best ones, 0 where it does not matter.
  open var optimalBytes: Int { 0 }
  /// Discards of whole ranges of this size and alignment do something.
  open var discardBytes: Int { 0 }
  /// Whether discards are taken; without, they end with EOPNOTSUPP.
  open var takesDiscards: Bool { false }
  /// Most bytes that one discard of what is below may have.
  open var discardMaxBytes: UInt64 { .max }
  /// Whether what is discarded reads as zeros then, unless it stays as it was.
  open var discardsToZeroes: Bool { false }
  /// Whether what is not allocated still reads as zeros where something is written beside it, so that
  /// zeros need not be written there.
  open var holesStayZero: Bool { true }
  /// Whether `writeZeroes` takes less time than writing zeros would.
  open var zeroesFast: Bool { false }
  /// Whether nothing may be written.
  open var isReadOnly: Bool { false }

  /// Takes a request. By default it ends with EOPNOTSUPP.
  open func submit(_ request: RequestPointer) { unsafe loop.finishLater(request, EOPNOTSUPP) }

  /// Whether all of `range` (bytes) is known to read as zeros, without reading it: a hole in a file.
  open func isHole(_ range: Range<UInt64>) -> Bool { false }

  /// Calls `ready`, at once or later, when `forEachExtent` can tell what `range` (bytes) begins with.
  open func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) { ready() }

  /// Calls `body` with what `range` (bytes) holds, in order and without gaps, until it returns
  /// false. What is not known without waiting is allocated and holds something, as is all of it by
  /// default.
  open func forEachExtent(in range: Range<UInt64>, _ body: (Extent) -> Bool) {
    _ = body(
      Extent(
        offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound,
        isAllocated: true, isZero: false))
  }
}
