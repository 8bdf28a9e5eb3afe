import DataPath
import Glibc

/// A request of a client, from its header to the last byte of its reply.
@safe struct Slot {
  /// What is left to do when the destination has done its part.
  enum Stage {
    case last
    /// A flush makes it durable.
    case flush
  }

  /// The client's, given back as it came.
  var cookie: UInt64 = 0
  var command: UInt16 = 0
  var flags: UInt16 = 0
  /// The range that the client named. The request's own belongs to the destination until it is done,
  /// which may go on with another.
  var offset: UInt64 = 0
  var length = 0
  var stage = Stage.last
  /// Of a request that is done piece by piece, the first byte of the next piece: `offset` and `length` say
  /// where it ends.
  var next = UInt64.max
  /// The pieces are writes of zeros, where the destination cannot zero by itself.
  var writesZeroes = false
  /// Of the reply: what is in `header`, and what follows it from `payload`.
  var headerBytes = 0
  var payloadBytes = 0
  var payload: UnsafeMutableRawPointer?
  /// A reply in several pieces instead, which lie in `plan`.
  var vectors: UnsafeMutablePointer<iovec>?
  var vectorCount = 0
  /// What has to go back to the pool.
  var buffer: ServerBuffers.Buffer?
  var plan: ServerBuffers.Buffer?
  /// Bytes of these.
  var charged = 0
  /// The next slot that is free, or whose reply follows.
  var nextSlot = -1

  /// Whether there is another piece to be done.
  var hasNextPiece: Bool { next < offset &+ UInt64(truncatingIfNeeded: length) }

  /// Bytes of the reply.
  var replyBytes: Int {
    guard let vectors = unsafe vectors else { return headerBytes + payloadBytes }
    return (0..<vectorCount).reduce(0) { unsafe $0 + vectors[$1].iov_len }
  }
}

/// The requests that a connection can have at a time, and the queue of its replies. Allocated once.
@safe struct SlotTable {
  /// Room for the header of a reply, with the message of an error.
  static let headerBytes = 128

  let slots: UnsafeMutablePointer<Slot>
  let requests: RequestPointer
  private let headers: UnsafeMutableRawPointer
  let capacity: Int
  private var firstFree = -1
  /// Slots that were in use at some time; the others take no memory.
  private(set) var made = 0
  private unowned(unsafe) let owner: RequestOwner
  /// Memory that a slot takes.
  static let bytesPerSlot =
    MemoryLayout<Slot>.stride + MemoryLayout<BlockRequest>.stride + headerBytes
  /// Replies to be sent, in order.
  private(set) var firstReply = -1
  private var lastReply = -1
  /// Slots in use.
  private(set) var inUse = 0

  init(_ capacity: Int, owner: RequestOwner) {
    self.capacity = capacity
    unsafe self.owner = owner
    unsafe slots = .allocate(capacity: capacity)
    unsafe requests = .allocate(capacity: capacity)
    unsafe headers = .allocate(byteCount: capacity * Self.headerBytes, alignment: 16)
  }

  /// Whether `take` has another slot.
  @inline(__always) var hasFree: Bool { firstFree >= 0 || made < capacity }

  private mutating func make() {
    unsafe (slots + made).initialize(to: Slot())
    unsafe (requests + made).initialize(
      to: BlockRequest(operation: .flush, flags: [], offset: 0, byteCount: 0, owner: owner))
    unsafe requests[made].tag = UInt32(truncatingIfNeeded: made)
    firstFree = made
    made += 1
  }

  func deallocate() {
    unsafe slots.deallocate()
    unsafe requests.deallocate()
    unsafe headers.deallocate()
  }

  @inline(__always) func header(_ index: Int) -> UnsafeMutableRawPointer {
    unsafe headers + index * Self.headerBytes
  }

  /// A free slot, and whether it was never in use before; there is one.
  mutating func take(cookie: UInt64, command: UInt16, flags: UInt16, offset: UInt64, length: Int)
    -> (index: Int, isNew: Bool)
  {
    let isNew = firstFree < 0
    if isNew { make() }
    let index = firstFree
    let slot = unsafe slots + index
    firstFree = unsafe slot.pointee.nextSlot
    inUse += 1
    unsafe slot.pointee.cookie = cookie
    unsafe slot.pointee.command = command
    unsafe slot.pointee.flags = flags
    unsafe slot.pointee.offset = offset
    unsafe slot.pointee.length = length
    unsafe slot.pointee.stage = .last
    unsafe slot.pointee.next = .max
    unsafe slot.pointee.writesZeroes = false
    unsafe slot.pointee.headerBytes = 0
    unsafe slot.pointee.payloadBytes = 0
    unsafe slot.pointee.nextSlot = -1
    return (index, isNew)
  }

  /// Gives a slot back, whose buffers have gone.
  mutating func give(_ index: Int) {
    unsafe slots[index].nextSlot = firstFree
    firstFree = index
    inUse -= 1
  }

  mutating func appendReply(_ index: Int) {
    if lastReply >= 0 { unsafe slots[lastReply].nextSlot = index } else { firstReply = index }
    unsafe slots[index].nextSlot = -1
    lastReply = index
  }

  /// Takes the first reply off the queue; the slot stays in use.
  mutating func takeReply() -> Int {
    let index = firstReply
    firstReply = unsafe slots[index].nextSlot
    if firstReply < 0 { lastReply = -1 }
    return index
  }
}
