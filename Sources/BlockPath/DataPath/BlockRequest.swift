import BlockIO

/// What a request asks for.
public enum BlockOperation: UInt8, Sendable {
  case read
  case write
  /// Everything that ended before this was submitted is durable when this ends; see `Flush`.
  case flush
  /// The bytes are of no use any more.
  case discard
  /// The bytes read as zeros from then on.
  case writeZeroes
}

/// How a request is to be done.
public struct BlockFlags: OptionSet, Sendable {
  /// The bits.
  public let rawValue: UInt8
  /// Flags of bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }

  /// Durable when it completes (force unit access); see `Flush`.
  public static var durable: BlockFlags { BlockFlags(rawValue: 1) }
  /// `writeZeroes` keeps the space allocated.
  public static var keepAllocated: BlockFlags { BlockFlags(rawValue: 2) }
  /// Goes to the device by itself: a larger one that it was part of failed.
  static var alone: BlockFlags { BlockFlags(rawValue: 4) }
}

/// A request lives in a `RequestPool`, and moves by pointer: from the owner, which takes it from the pool,
/// through `BlockDestination.submit`, back by `RequestOwner.requestDone`, into the pool.
public typealias RequestPointer = UnsafeMutablePointer<BlockRequest>

/// One block request.
@safe public struct BlockRequest {
  /// What is asked for.
  public var operation: BlockOperation
  /// How it is to be done.
  public var flags: BlockFlags
  /// How it ended: 0, or an error number.
  public var errorNumber: Int32 = 0
  /// The number of parts that are not done, for the layer that splits it.
  public var pending: Int32 = 0
  /// The file or device that an `IOQueue` sends it to. No other layer uses it.
  var descriptor: Int32 = -1
  /// First byte.
  public var offset: UInt64
  /// Bytes; 0 for a flush.
  public var byteCount: Int
  /// The data of reads and writes, 512-byte aligned at least. Only the owner frees it.
  public var memory: RequestMemory
  /// Which of its requests it is to the layer that made it. No other layer changes it.
  public var tag: UInt32 = 0
  /// Gets it back when it is done. Outlives the request.
  public unowned(unsafe) var owner: RequestOwner
  /// The request that this is a part of, for the layer that splits.
  public var parent: RequestPointer?
  /// The next in a list, for the layer that has it; one list at a time.
  public var next: RequestPointer?
  /// What the target that has it keeps in it, of that target's own type.
  public var state = StateOfRequest()

  /// A request. One that is made outside of a pool stays in place until it is done.
  public init(
    operation: BlockOperation, flags: BlockFlags, offset: UInt64, byteCount: Int,
    memory: RequestMemory = unsafe RequestMemory(), owner: RequestOwner,
    parent: RequestPointer? = nil
  ) {
    self.operation = operation
    self.flags = flags
    self.offset = offset
    self.byteCount = byteCount
    self.memory = memory
    unsafe self.owner = owner
    unsafe self.parent = parent
  }

  /// The byte after the last.
  @inlinable public var end: UInt64 { offset &+ UInt64(truncatingIfNeeded: byteCount) }
}

/// What a target keeps in a request for as long as it has it. No other layer sees or changes it, so that a
/// request can pass through layers that each keep something. All bits are zero in a new request.
public protocol RequestState: BitwiseCopyable {}

/// Memory in a request for a state of at most 16 bytes.
public struct StateOfRequest {
  @usableFromInline var words: (UInt64, UInt64) = (0, 0)

  init() {}

  /// The state, which is of the type that the request's target has for it.
  @inlinable public subscript<State: RequestState>(_ type: State.Type) -> State {
    get { unsafe withUnsafeBytes(of: words) { unsafe $0.loadUnaligned(as: State.self) } }
    set {
      precondition(MemoryLayout<State>.size <= 16, "a state has at most 16 bytes")
      unsafe withUnsafeMutableBytes(of: &words) {
        unsafe $0.storeBytes(of: newValue, as: State.self)
      }
    }
  }
}

/// The sender of a request.
open class RequestOwner {
  /// An owner.
  public init() {}
  /// The request is done, with the result `errorNumber`. It is the owner's again.
  open func requestDone(_ request: RequestPointer) {}
}

extension UnsafeMutablePointer where Pointee == BlockRequest {
  /// Ends the request and calls its owner at once. Only where the owner cannot still be in `submit`; there
  /// `EventLoop.finishLater` ends it.
  @inlinable public func finish(_ errorNumber: Int32 = 0) {
    unsafe pointee.errorNumber = errorNumber
    unsafe pointee.owner.requestDone(self)
  }
}

/// Requests that are not in use. Memory grows to the most that were in use at once, until `trim`.
@safe public final class RequestPool {
  private static let slabCount = 128
  /// Slabs that are kept for the next requests.
  private static let slabsKept = 16
  private var slabs: [RequestPointer] = unsafe []
  private var free: RequestPointer?
  /// Requests in use.
  public var inUse: Int { taken }
  private var taken = 0

  /// An empty pool.
  public init() {}

  deinit {
    unsafe slabs.forEach { slab in unsafe slab.deallocate() }
  }

  /// A request for `owner`, with its data in one piece.
  public func take(
    _ operation: BlockOperation, offset: UInt64, byteCount: Int,
    buffer: UnsafeMutableRawPointer? = nil, flags: BlockFlags = [], owner: RequestOwner,
    parent: RequestPointer? = nil
  ) -> RequestPointer {
    unsafe take(
      operation, offset: offset, byteCount: byteCount, memory: RequestMemory(buffer),
      flags: flags, owner: owner, parent: parent)
  }

  /// A request for `owner`.
  public func take(
    _ operation: BlockOperation, offset: UInt64, byteCount: Int, memory: RequestMemory,
    flags: BlockFlags = [], owner: RequestOwner, parent: RequestPointer? = nil
  ) -> RequestPointer {
    if unsafe free == nil { grow() }
    guard let request = unsafe free else { preconditionFailure("a slab has requests") }
    unsafe free = request.pointee.next
    taken += 1
    unsafe request.initialize(
      to: BlockRequest(
        operation: operation, flags: flags, offset: offset, byteCount: byteCount, memory: memory,
        owner: owner, parent: parent))
    return unsafe request
  }

  /// Gives a request back that is done.
  public func give(_ request: RequestPointer) {
    unsafe request.pointee.next = free
    unsafe free = request
    taken -= 1
  }

  /// Bytes of memory.
  public var bytes: Int { unsafe slabs.count * Self.slabCount * MemoryLayout<BlockRequest>.stride }

  /// Gives memory back where much was taken and nothing is in use. Called from time to time.
  public func trim() {
    guard taken == 0, unsafe slabs.count > Self.slabsKept else { return }
    unsafe slabs.forEach { slab in unsafe slab.deallocate() }
    unsafe slabs = []
    unsafe free = nil
  }

  private func grow() {
    let slab = RequestPointer.allocate(capacity: Self.slabCount)
    unsafe slabs.append(slab)
    for index in 0..<Self.slabCount {
      unsafe (slab + index).initialize(
        to: BlockRequest(operation: .flush, flags: [], offset: 0, byteCount: 0, owner: Self.unused))
      unsafe (slab + index).pointee.next = free
      unsafe free = slab + index
    }
  }

  /// Owns requests that are not in use.
  private nonisolated(unsafe) static let unused = RequestOwner()
}

/// Requests in the order in which they came, linked by `next`.
@safe public struct RequestQueue {
  /// The oldest.
  public private(set) var first: RequestPointer?
  private var last: RequestPointer?
  /// How many there are.
  public private(set) var count = 0

  /// An empty queue.
  public init() {}
  /// Whether there are none.
  @inlinable public var isEmpty: Bool { unsafe first == nil }

  /// Adds one at the end.
  public mutating func append(_ request: RequestPointer) {
    unsafe request.pointee.next = nil
    if let last = unsafe last {
      unsafe last.pointee.next = request
    } else {
      unsafe first = request
    }
    unsafe last = request
    count += 1
  }

  /// Adds all of another queue at the end.
  public mutating func append(contentsOf other: RequestQueue) {
    guard let otherFirst = unsafe other.first else { return }
    if let last = unsafe last {
      unsafe last.pointee.next = otherFirst
    } else {
      unsafe first = otherFirst
    }
    unsafe last = other.last
    count += other.count
  }

  /// Takes the oldest out.
  public mutating func takeFirst() -> RequestPointer? {
    guard let request = unsafe first else { return nil }
    unsafe first = request.pointee.next
    if unsafe first == nil { unsafe last = nil }
    unsafe request.pointee.next = nil
    count -= 1
    return unsafe request
  }

  /// All of them; the queue is empty then.
  public mutating func takeAll() -> RequestQueue {
    let all = self
    self = RequestQueue()
    return all
  }

  /// Puts what its writes have of `range` into `memory`, which has the bytes of `range`, in the order in
  /// which they came: what is going to be written is written with them.
  public func putWrites(into memory: UnsafeMutableRawPointer, _ range: Range<UInt64>) {
    var next = unsafe first
    while let write = unsafe next {
      let lower = unsafe max(range.lowerBound, write.pointee.offset)
      let upper = unsafe min(range.upperBound, write.pointee.end)
      if lower < upper {
        let (place, count) = unsafe (memory + Int(lower - range.lowerBound), Int(upper - lower))
        if unsafe write.pointee.operation == .write {
          unsafe write.pointee.memory.advanced(by: Int(lower - write.pointee.offset))
            .copy(to: place, count)
        } else {
          unsafe place.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        }
      }
      unsafe next = write.pointee.next
    }
  }
}
