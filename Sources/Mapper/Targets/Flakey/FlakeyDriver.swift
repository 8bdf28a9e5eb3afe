import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc

extension TargetType {
  /// Sectors of another device that fails periodically.
  static let flakey = TargetType("flakey", version: (1, 5, 0), FlakeyTarget.self) {
    (context) throws(TargetError) in try FlakeyDriver(context)
  }
}

private struct PartState: RequestState {
  /// A byte of this read is corrupted on completion.
  var isCorrupted = false
}

extension BlockRequest {
  fileprivate var flakey: PartState {
    get { state[PartState.self] }
    set { state[PartState.self] = newValue }
  }
}

/// Maps to sectors of another device, and alternately works and fails, in whole seconds since the
/// table was loaded.
///
/// Bytes of writes are corrupted in a copy, because the buffer belongs to the client. Bytes of
/// reads are corrupted when the read completes, over any device. (Linux 6.1 does that only over
/// another device-mapper device, and leaves reads over a disk alone.)
@safe private final class FlakeyDriver: TargetDriver {
  /// The treatment of a request.
  private enum Fate {
    case normal, dropped, failed, corrupted
  }

  /// Bits of the kernel's requests that can restrict corruption.
  private enum KernelFlags {
    static let sync: UInt32 = 1 << 11
    static let idle: UInt32 = 1 << 15
    static let durable: UInt32 = 1 << 17
    static let write: UInt32 = 1
  }

  private let target: FlakeyTarget
  private let source: OpenDevice
  private let below: BlockDestination
  /// The number added to the device's offset, modulo 2^64.
  private let shift: UInt64
  private let loaded: UInt64
  /// The buffers that are written instead of the clients'.
  private var copies: [RequestPointer: AlignedBuffer] = unsafe [:]

  init(_ context: DriverContext<FlakeyTarget>) throws(TargetError) {
    target = context.target
    source = try context.device(.source)
    below = source.direct
    shift = target.source.sector &* 512 &- context.line.start &* 512
    loaded = context.device.loop.time
    super.init(context)
  }

  override var areas: [Area] { [Area(source, target.source.sector, length)] }

  override func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] {
    [(source, shifted(range, by: shift))]
  }

  // MARK: - Failing

  private var isDown: Bool {
    let seconds = UInt32(truncatingIfNeeded: (loop.time &- loaded) / 1_000_000_000)
    return seconds % (target.upSeconds + target.downSeconds) >= target.upSeconds
  }

  private func fate(_ operation: BlockOperation, _ flags: BlockFlags) -> Fate {
    guard isDown else { return .normal }
    let corruption = target.corruption
    if operation == .read {
      guard let corruption else { return target.writes == nil ? .failed : .normal }
      let matches = Self.flags(operation, flags) & corruption.flags == corruption.flags
      return !corruption.isWrite && matches ? .corrupted : .normal
    }
    switch target.writes {
    case .drop: return .dropped
    case .fail: return .failed
    case nil: break
    }
    guard let corruption else { return .failed }
    let matches = Self.flags(operation, flags) & corruption.flags == corruption.flags
    return corruption.isWrite && operation == .write && matches ? .corrupted : .normal
  }

  /// The flags that the kernel's request would have for a program that waits for it.
  private static func flags(_ operation: BlockOperation, _ flags: BlockFlags) -> UInt32 {
    if operation == .read { return KernelFlags.sync }
    let durable = flags.contains(.durable) ? KernelFlags.durable : 0
    return KernelFlags.write | KernelFlags.sync | KernelFlags.idle | durable
  }

  /// Corrupts the byte, if it is within `count` bytes.
  private func corrupt(_ memory: RequestMemory, _ count: Int) {
    guard let corruption = target.corruption, Int(corruption.byte) <= count else { return }
    unsafe memory.advanced(by: Int(corruption.byte) - 1).firstPiece(1).baseAddress?
      .storeBytes(of: corruption.value, as: UInt8.self)
  }

  private func corruptedCopy(_ memory: RequestMemory, _ count: Int) -> AlignedBuffer {
    let copy = AlignedBuffer(holding: count)
    if let place = unsafe copy.bytes.baseAddress { unsafe memory.copy(to: place, count) }
    unsafe corrupt(RequestMemory(copy.bytes.baseAddress), count)
    return copy
  }

  // MARK: - I/O

  override func map(_ part: RequestPointer) {
    unsafe part.pointee.flakey = PartState()
    switch unsafe fate(part.pointee.operation, part.pointee.flags) {
    case .normal: break
    case .dropped: return unsafe finishLater(part)
    case .failed: return unsafe finishLater(part, EIO)
    case .corrupted where unsafe part.pointee.operation == .read:
      unsafe part.pointee.flakey.isCorrupted = true
    case .corrupted:
      let copy = unsafe corruptedCopy(part.pointee.memory, part.pointee.byteCount)
      unsafe part.pointee.memory = RequestMemory(copy.bytes.baseAddress)
      unsafe copies[part] = copy
    }
    if unsafe part.pointee.operation != .flush { unsafe part.pointee.offset &+= shift }
    unsafe below.submit(part)
  }

  override func requestDone(_ part: RequestPointer) {
    if unsafe part.pointee.flakey.isCorrupted, unsafe part.pointee.errorNumber == 0 {
      unsafe corrupt(part.pointee.memory, part.pointee.byteCount)
    }
    if unsafe !copies.isEmpty { unsafe copies[part] = nil }
    unsafe done(part)
  }

  override func place(_ offset: UInt64) -> Place? {
    Place(source, offset &+ shift, endByte - offset)
  }

  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    loadExtent(of: below, shift: shift, in: range, ready)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    // Zeros can be corrupted when they are read.
    target.corruption?.isWrite == false
      ? super.forEachExtent(in: range, body)
      : forEachExtent(of: below, shift: shift, in: range, body)
  }

  // MARK: - Queries

  override func table() -> String {
    var printed = target
    printed.source.device = "\(source.number)"
    return printed.parameters
  }
}
