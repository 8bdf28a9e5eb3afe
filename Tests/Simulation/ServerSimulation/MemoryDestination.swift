public import DataPath
public import EventLoop
import Glibc
import Simulation

/// A destination in memory, allocated in blocks of 4 KiB. It can inject faults, and can complete
/// requests in random order.
public final class MemoryDestination: BlockDestination {
  private static let blockBytes = 4096

  /// Its content; holes are zeros.
  public private(set) var bytes: [UInt8]
  private var allocated: [Bool]
  private var held: [RequestPointer] = []
  private var random: SplitMix64?
  private lazy var timer = LoopTimer { [unowned self] in self.letGo() }

  /// The error number with which a request ends, 0 for none. A request that fails has no other
  /// effect.
  public var fault: (RequestPointer) -> Int32 = { _ in 0 }
  /// Whether requests wait until `letGo` is called.
  public var holds = false
  /// Whether it reports that it is read-only.
  public var readOnly = false
  /// Its logical block size.
  public var sectorBytes = 512
  /// Whether `writeZeroes` is supported.
  public var takesZeroes = true
  /// Whether it reports that zeroing is fast.
  public var isFastAtZeroes = false
  /// The number of flushes.
  public private(set) var flushes = 0
  /// The flags of the last write.
  public private(set) var lastFlags: BlockFlags = []

  /// `byteCount` zero bytes. With a seed, requests complete in random order.
  public init(_ loop: EventLoop, byteCount: Int, seed: UInt64? = nil) {
    bytes = [UInt8](repeating: 0, count: byteCount)
    allocated = [Bool](
      repeating: false, count: (byteCount + Self.blockBytes - 1) / Self.blockBytes)
    random = seed.map { SplitMix64(seed: $0) }
    super.init(loop)
  }

  public override var byteCount: UInt64 { UInt64(bytes.count) }
  public override var logicalBlockBytes: Int { sectorBytes }
  public override var takesDiscards: Bool { true }
  public override var isReadOnly: Bool { readOnly }
  public override var zeroesFast: Bool { isFastAtZeroes }

  /// Appends zeros.
  public func grow(to count: Int) {
    bytes.append(contentsOf: repeatElement(0, count: count - bytes.count))
    let blocks = (count + Self.blockBytes - 1) / Self.blockBytes
    allocated.append(contentsOf: repeatElement(false, count: blocks - allocated.count))
  }

  public override func submit(_ request: RequestPointer) {
    precondition(request.pointee.offset % UInt64(sectorBytes) == 0, "aligned requests only")
    precondition(request.pointee.byteCount % sectorBytes == 0, "whole sectors only")
    precondition(request.pointee.end <= byteCount, "within the device only")
    guard holds || random != nil else {
      loop.finishLater(request, perform(request))
      return
    }
    held.append(request)
    if !holds, !timer.isSet { loop.set(timer, after: 0) }
  }

  /// Completes the waiting requests.
  public func letGo() {
    let requests = held
    held.removeAll()
    var order = Array(requests.indices)
    if var random {
      for i in order.indices.reversed() { order.swapAt(i, Int(random.next() % UInt64(i + 1))) }
      self.random = random
    }
    for i in order { loop.finishLater(requests[i], perform(requests[i])) }
  }

  private func perform(_ request: RequestPointer) -> Int32 {
    let code = fault(request)
    guard code == 0 else { return code }
    let start = Int(request.pointee.offset)
    let range = start..<start + request.pointee.byteCount
    switch request.pointee.operation {
    case .flush: flushes += 1
    case .read:
      bytes.withUnsafeBytes { source in
        if let from = source.baseAddress {
          request.pointee.memory.copy(from: from + start, range.count)
        }
      }
    case .write:
      lastFlags = request.pointee.flags
      bytes.withUnsafeMutableBytes { target in
        if let to = target.baseAddress { request.pointee.memory.copy(to: to + start, range.count) }
      }
      allocate(range)
    case .writeZeroes, .discard:
      guard takesZeroes || request.pointee.operation == .discard else { return EOPNOTSUPP }
      let keeps = request.pointee.flags.contains(.keepAllocated)
      bytes.replaceSubrange(range, with: repeatElement(0, count: range.count))
      if keeps { allocate(range) } else { deallocate(range) }
    }
    return 0
  }

  private func allocate(_ range: Range<Int>) {
    guard !range.isEmpty else { return }
    for i in range.lowerBound / Self.blockBytes...(range.upperBound - 1) / Self.blockBytes {
      allocated[i] = true
    }
  }

  private func deallocate(_ range: Range<Int>) {
    var i = (range.lowerBound + Self.blockBytes - 1) / Self.blockBytes
    while (i + 1) * Self.blockBytes <= range.upperBound {
      allocated[i] = false
      i += 1
    }
  }

  public override func forEachExtent(in range: Range<UInt64>, _ body: (Extent) -> Bool) {
    var next = range.lowerBound
    while next < range.upperBound {
      let block = Int(next) / Self.blockBytes
      let end = min(range.upperBound, UInt64(block + 1) * UInt64(Self.blockBytes))
      let isThere = allocated[block]
      let extent = Extent(
        offset: next, byteCount: end - next, isAllocated: isThere, isZero: !isThere)
      guard body(extent) else { return }
      next = end
    }
  }
}
