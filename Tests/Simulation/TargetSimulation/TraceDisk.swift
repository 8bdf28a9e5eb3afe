import BlockIO
public import DataPath
public import EventLoop
import Glibc
import Simulation

/// A disk in memory that keeps a trace of what reaches it. Requests end in any order, a few in each
/// pass of the loop, or all at once. What fails may have been done in part.
public final class TraceDisk: BlockDestination, Disk {
  /// What discards leave of a sector's words: something that was never written.
  static let discarded: UInt64 = 0xdddd_dddd_dddd_dddd

  private final class Hook: PassHook {
    unowned let disk: TraceDisk
    init(_ disk: TraceDisk) { self.disk = disk }
    override func endOfPass() { disk.work() }
  }

  private let number: Int
  private let trace: Trace?
  /// The content, at the largest size of the disk.
  public private(set) var bytes: [UInt8]
  private var size: Int
  /// Whether each piece of 512 bytes is a hole; empty if there are no holes.
  private var holes: [Bool]
  private var pending: [(request: RequestPointer, position: Int)] = []
  private var random: SplitMix64
  private var hook: Hook?
  private let isPrompt: Bool
  private let readOnly: Bool
  private var counts: [BlockOperation: Int] = [:]

  /// The fault: the operation, how many of its kind succeed before, and whether all later ones fail
  /// too.
  public var fault: (operation: BlockOperation, after: Int, isLasting: Bool)?
  /// Whether a request has failed.
  public private(set) var hasFailed = false
  /// Whether requests wait.
  public var isHalted = false

  /// A disk that holds `bytes`.
  /// - Parameters:
  ///   - number: the disk's number in the trace.
  ///   - isPrompt: whether requests complete in order, in the pass in which they arrive.
  ///   - hasHoles: whether it behaves as a file: `bytes` are one hole, and discards leave holes.
  public init(
    _ loop: EventLoop, number: Int, bytes: [UInt8], trace: Trace? = nil, seed: UInt64 = 0,
    isPrompt: Bool = false, isReadOnly: Bool = false, hasHoles: Bool = false
  ) {
    self.number = number
    self.bytes = bytes
    size = bytes.count
    holes = hasHoles ? Array(repeating: true, count: bytes.count / 512) : []
    self.trace = trace
    self.isPrompt = isPrompt
    readOnly = isReadOnly
    random = SplitMix64(seed: seed)
    super.init(loop)
    let hook = Hook(self)
    self.hook = hook
    loop.add(hook)
  }

  /// Unregisters the disk from the loop.
  public func close() {
    if let hook { loop.remove(hook) }
    hook = nil
  }

  /// The number of requests of a kind, metadata included.
  public func count(_ operation: BlockOperation) -> Int { counts[operation] ?? 0 }

  /// Changes the size; the initial one is the largest.
  func resize(to byteCount: Int) {
    size = min(byteCount, bytes.count)
    trace?.append(.resize(disk: number, byteCount: size))
  }

  /// Size in bytes.
  public override var byteCount: UInt64 { UInt64(size) }
  /// True.
  public override var takesDiscards: Bool { true }
  /// Whether discards leave holes.
  public override var discardsToZeroes: Bool { !holes.isEmpty }
  /// Whether the range is unwritten since it was made or discarded.
  public override func isHole(_ range: Range<UInt64>) -> Bool {
    !holes.isEmpty && range.upperBound <= size
      && holes[Int(range.lowerBound / 512)..<Int((range.upperBound + 511) / 512)].allSatisfy { $0 }
  }
  /// The value given to the initialiser.
  public override var isReadOnly: Bool { readOnly }

  /// Accepts a request.
  public override func submit(_ request: RequestPointer) {
    pending.append((request, trace?.position ?? 0))
    loop.passAgain()
  }

  private func work() {
    guard !isHalted, !pending.isEmpty else { return }
    if isPrompt {
      let all = pending
      pending = []
      for (request, position) in all {
        loop.finishLater(request, perform(request.pointee, position))
      }
      return
    }
    var left = pending.count
    while left > 0, !pending.isEmpty, Int.random(in: 0..<4, using: &random) != 0 {
      left -= 1
      let (request, position) = pending.remove(
        at: Int.random(in: 0..<pending.count, using: &random))
      loop.finishLater(request, perform(request.pointee, position))
    }
    if !pending.isEmpty { loop.passAgain() }
  }

  private func isFailing(_ operation: BlockOperation) -> Bool {
    let number = count(operation)
    counts[operation] = number + 1
    guard let fault, fault.operation == operation, number >= fault.after else { return false }
    guard fault.isLasting || number == fault.after else { return false }
    hasFailed = true
    return true
  }

  private func perform(_ request: BlockRequest, _ position: Int) -> Int32 {
    let offset = Int(clamping: request.offset)
    let count = request.byteCount
    guard request.operation == .flush || offset <= size && count <= size - offset
    else { return EIO }
    let fails = isFailing(request.operation)
    switch request.operation {
    case .read:
      guard !fails else { return EIO }
      bytes.withUnsafeBytes {
        if let from = $0.baseAddress { request.memory.copy(from: from + offset, count) }
      }
      return 0
    case .write:
      let data = [UInt8](unsafeUninitializedCapacity: count) { data, filled in
        if let to = data.baseAddress { request.memory.copy(to: to, count) }
        filled = count
      }
      store(data, at: offset, isDurable: request.flags.contains(.durable), fails)
    case .flush:
      if !fails { trace?.append(.flush(disk: number, before: position)) }
    case .discard:
      let left = [UInt64](repeating: holes.isEmpty ? Self.discarded : 0, count: count / 8)
      store(left.withUnsafeBytes { Array($0) }, at: offset, isDurable: false, fails)
      if !fails && !holes.isEmpty { note(offset, count, isHole: true) }
    case .writeZeroes:
      let isDurable = request.flags.contains(.durable)
      store([UInt8](repeating: 0, count: count), at: offset, isDurable: isDurable, fails)
    }
    return fails ? EIO : 0
  }

  /// Stores data; if the request fails, only some of its sectors.
  private func store(_ data: [UInt8], at offset: Int, isDurable: Bool, _ fails: Bool) {
    guard fails else { return store(data[...], at: offset, isDurable: isDurable) }
    for at in stride(from: 0, to: data.count, by: 512) where Bool.random(using: &random) {
      store(data[at..<min(at + 512, data.count)], at: offset + at, isDurable: false)
    }
  }

  private func store(_ data: ArraySlice<UInt8>, at offset: Int, isDurable: Bool) {
    copy(data, into: &bytes, at: offset)
    if !holes.isEmpty { note(offset, data.count, isHole: false) }
    trace?.append(
      .write(disk: number, offset: offset, bytes: Array(data), isDurable: isDurable))
  }

  private func note(_ offset: Int, _ count: Int, isHole: Bool) {
    for sector in offset / 512..<(offset + count) / 512 { holes[sector] = isHole }
  }

  /// Does nothing.
  public func refreshSize() {}
}

/// Puts `data` at `offset` of `bytes`.
func copy(_ data: ArraySlice<UInt8>, into bytes: inout [UInt8], at offset: Int) {
  data.withUnsafeBytes { from in
    bytes.withUnsafeMutableBytes {
      UnsafeMutableRawBufferPointer(rebasing: $0[offset..<(offset + from.count)])
        .copyMemory(from: from)
    }
  }
}
