import BlockIO
import DataPath
import EventLoop
import Glibc
import Simulation

/// A disk in memory that takes its time: requests are carried out in any order, a few in each pass of
/// the loop. What was written since the last flush is lost by `crash`.
final class MemoryDisk: BlockDestination, Disk {
  private final class Hook: PassHook {
    unowned let disk: MemoryDisk
    init(_ disk: MemoryDisk) { self.disk = disk }
    override func endOfPass() { disk.work() }
  }

  /// The contents as they read now.
  private(set) var bytes: [UInt8]
  /// The contents as they would read after a crash.
  private(set) var durable: [UInt8]
  private var random: SplitMix64
  private var pending: [RequestPointer] = []
  /// The number of pending requests.
  var pendingCount: Int { pending.count }
  /// The operations of the pending requests, in order of arrival.
  var pendingOperations: [BlockOperation] { pending.map(\.pointee.operation) }
  private var hook: Hook?
  /// Decides which requests fail, by operation and the number of earlier requests with that
  /// operation.
  var fails: (BlockOperation, Int) -> Bool = { _, _ in false }
  /// The error number of failing requests.
  var failure = EIO
  private var counts: [BlockOperation: Int] = [:]
  /// The number of requests with this operation carried out so far, metadata included.
  func count(_ operation: BlockOperation) -> Int { counts[operation] ?? 0 }
  /// Decides which requests wait.
  var delays: (BlockRequest) -> Bool = { _ in false }
  /// Of these nothing is carried out.
  var halted: Set<BlockOperation> = []
  /// Of nothing is anything carried out.
  var isHalted: Bool {
    get { halted.count == 5 }
    set { halted = newValue ? [.read, .write, .flush, .discard, .writeZeroes] : [] }
  }

  init(_ loop: EventLoop, bytes: [UInt8], seed: UInt64) {
    self.bytes = bytes
    durable = bytes
    random = SplitMix64(seed: seed)
    super.init(loop)
    let hook = Hook(self)
    self.hook = hook
    loop.add(hook)
  }

  convenience init(_ loop: EventLoop, byteCount: Int, seed: UInt64 = 1) {
    self.init(loop, bytes: [UInt8](repeating: 0, count: byteCount), seed: seed)
  }

  /// Removes the disk from the loop.
  func close() {
    if let hook { loop.remove(hook) }
    hook = nil
  }

  func grow(to byteCount: Int) {
    bytes += [UInt8](repeating: 0, count: byteCount - bytes.count)
    durable += [UInt8](repeating: 0, count: byteCount - durable.count)
  }

  /// Fills unwritten parts with bytes that must never be read.
  func poison() {
    bytes = [UInt8](repeating: 0xee, count: bytes.count)
    durable = bytes
  }

  override var byteCount: UInt64 { UInt64(bytes.count) }
  override var takesDiscards: Bool { discardLimit > 0 }
  /// The largest discard, in bytes.
  var discardLimit = UInt64.max
  override var discardMaxBytes: UInt64 { discardLimit }

  override func submit(_ request: RequestPointer) {
    pending.append(request)
    loop.passAgain()
  }

  private func work() {
    guard !isHalted else { return }
    var ready = pending.indices.filter {
      !halted.contains(pending[$0].pointee.operation) && !delays(pending[$0].pointee)
    }
    var chosen: [Int] = []
    for _ in ready.indices {
      guard !ready.isEmpty, Int.random(in: 0..<4, using: &random) != 0 else { break }
      chosen.append(ready.remove(at: Int.random(in: 0..<ready.count, using: &random)))
    }
    let requests = chosen.map { pending[$0] }
    pending.removeAll { requests.contains($0) }
    for request in requests { loop.finishLater(request, perform(request.pointee)) }
    if !ready.isEmpty { loop.passAgain() }
  }

  /// Whether the next request with this operation fails.
  private func isFailing(_ operation: BlockOperation) -> Bool {
    let number = counts[operation] ?? 0
    counts[operation] = number + 1
    return fails(operation, number)
  }

  private func perform(_ request: BlockRequest) -> Int32 {
    // A flush has no place; on its way down its offset can become anything.
    let offset = request.operation == .flush ? 0 : Int(request.offset)
    guard request.operation == .flush || offset + request.byteCount <= bytes.count else {
      return EIO
    }
    if isFailing(request.operation) { return failure }
    switch request.operation {
    case .read:
      bytes.withUnsafeBytes {
        request.memory.copy(
          from: $0.baseAddress.unsafelyUnwrapped + offset, request.byteCount)
      }
    case .write:
      store(request, at: offset, in: &bytes)
      if request.flags.contains(.durable) { store(request, at: offset, in: &durable) }
    case .flush: durable = bytes
    case .discard:
      // Discarded parts may read as anything.
      fill(offset, request.byteCount, 0xdd)
    case .writeZeroes:
      fill(offset, request.byteCount, 0)
    }
    return 0
  }

  private func store(_ request: BlockRequest, at offset: Int, in bytes: inout [UInt8]) {
    bytes.withUnsafeMutableBytes {
      request.memory.copy(to: $0.baseAddress.unsafelyUnwrapped + offset, request.byteCount)
    }
  }

  private func fill(_ offset: Int, _ count: Int, _ value: UInt8) {
    _ = bytes.withUnsafeMutableBytes {
      UnsafeMutableRawBufferPointer(rebasing: $0[offset..<(offset + count)])
        .initializeMemory(as: UInt8.self, repeating: value)
    }
  }

  /// A possible state after a crash: a random part of the writes since the last flush, in pieces of
  /// `unit` bytes, has reached the disk.
  func crashed(_ unit: Int, _ random: inout SplitMix64) -> [UInt8] {
    var image = durable
    for at in stride(from: 0, to: bytes.count, by: unit) where Bool.random(using: &random) {
      let range = at..<min(at + unit, bytes.count)
      bytes.withUnsafeBytes { from in
        image.withUnsafeMutableBytes { to in
          UnsafeMutableRawBufferPointer(rebasing: to[range]).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: from[range]))
        }
      }
    }
    return image
  }

  func refreshSize() {}
}
