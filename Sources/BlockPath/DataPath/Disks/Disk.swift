public import BlockIO
public import EventLoop

/// What tables and callers may name as a device: a disk of any kind, or a device of the same
/// device-mapper.
public protocol Disk: BlockDestination {
  /// Looks up the size again: the disk can have grown.
  func refreshSize()
  /// Requires that the disk is still there, with `byteCount` bytes at least.
  func requirePresence(byteCount: UInt64) throws(BlockIOError)
  /// Has the disk keep space for `range` (bytes), so that no write to it fails for lack of space.
  func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError)
  /// A descriptor of exactly these bytes, which any thread can read from while this is open.
  var openDescriptor: Int32? { get }
  /// Descriptors of the bytes of `range`, in order, which any thread can read from while this is open;
  /// nil if some bytes have none, or there would be very many.
  func pieces(of range: Range<UInt64>) -> [DescriptorPiece]?
}

/// Bytes of a descriptor.
public struct DescriptorPiece: Equatable, Sendable {
  /// The descriptor.
  public let descriptor: Int32
  /// The first byte in it.
  public let offset: UInt64
  /// The number of bytes.
  public var byteCount: UInt64
}

extension Disk {
  /// Nothing by default: the size does not change.
  public func refreshSize() {}
  /// Nothing by default: the disk cannot go away.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {}
  /// Nothing by default: there is space for all bytes.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {}
  /// None by default.
  public var openDescriptor: Int32? { nil }
  /// One piece if the disk has a descriptor.
  public func pieces(of range: Range<UInt64>) -> [DescriptorPiece]? {
    openDescriptor.map {
      [
        DescriptorPiece(
          descriptor: $0, offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound)
      ]
    }
  }
}

/// What all disks of a loop share.
public struct DiskContext {
  /// The loop.
  public let loop: EventLoop
  /// Reads, writes and flushes.
  public let queue: IOQueue
  /// Calls that wait.
  public let workers: Workers

  /// The loop with its queue and its threads.
  public init(_ loop: EventLoop, _ queue: IOQueue, _ workers: Workers) {
    self.loop = loop
    self.queue = queue
    self.workers = workers
  }
}
