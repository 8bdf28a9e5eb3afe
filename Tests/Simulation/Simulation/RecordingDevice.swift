public import BlockIO
import Glibc

/// Forwards everything to a device in memory, and records writes and flushes, from which it makes
/// the images that power cuts may leave.
public final class RecordingDevice: BlockDevice {
  /// A step of the recording.
  public enum Step {
    case write(offset: UInt64, bytes: [UInt8])
    case flush
  }

  /// Which unflushed writes survive a power cut.
  public enum Survivors: CaseIterable, Sendable {
    /// Everything written before the cut.
    case all
    /// Any blocks of 4 KiB.
    case blocks
    /// Any sectors of 512 bytes, which devices write atomically.
    case sectors
  }

  private let inner: MemoryDevice
  /// The steps in order.
  public private(set) var steps: [Step] = []

  /// The device's name in messages.
  public var path: String { inner.path }
  /// Size in bytes.
  public var byteCount: UInt64 { inner.byteCount }
  /// Nil.
  public var descriptor: Int32? { nil }

  private let losesFlushes: Bool

  /// Records the calls to `inner` from now on.
  /// - Parameter losesFlushes: whether the device only claims to flush.
  public init(_ inner: MemoryDevice, losesFlushes: Bool = false) {
    self.inner = inner
    self.losesFlushes = losesFlushes
  }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    try inner.read(into: buffer, at: offset)
  }

  /// Writes all of `buffer` at `offset`.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try inner.write(buffer, at: offset)
    steps.append(.write(offset: offset, bytes: Array(buffer)))
  }

  /// Makes everything written so far durable.
  public func flush() {
    if !losesFlushes { steps.append(.flush) }
  }

  /// The number of the last flush before step `cut`, 0 if there is none: everything before it is
  /// durable at the cut.
  public func durableSteps(at cut: Int) -> Int {
    for i in stride(from: cut - 1, through: 0, by: -1) {
      if case .flush = steps[i] { return i }
    }
    return 0
  }

  /// Applies to `device`, which must be in the state at the start of the recording, what a power
  /// cut before step `cut` may leave.
  public func replay(
    _ cut: Int, _ survivors: Survivors, on device: MemoryDevice,
    _ random: inout some RandomNumberGenerator
  ) throws(BlockIOError) {
    let durable = durableSteps(at: cut)
    for (i, step) in steps.prefix(cut).enumerated() {
      guard case .write(let offset, let bytes) = step else { continue }
      let unit =
        switch survivors {
        case .all: bytes.count
        case .blocks: 4096
        case .sectors: 512
        }
      let isCertain = i < durable || survivors == .all
      var at = 0
      while at < bytes.count {
        let end = isCertain ? bytes.count : min(bytes.count, at + unit)
        if isCertain || Bool.random(using: &random) {
          try write(bytes[at..<end], at: offset + UInt64(at), on: device)
        }
        at = end
      }
    }
  }

  private func write(_ bytes: ArraySlice<UInt8>, at offset: UInt64, on device: MemoryDevice)
    throws(BlockIOError)
  {
    let result = bytes.withUnsafeBytes { buffer in
      Result<Void, BlockIOError> { () throws(BlockIOError) in
        try device.write(buffer, at: offset)
      }
    }
    try result.get()
  }
}

/// Forwards everything to another device, and fails on demand.
public final class FaultyDevice: BlockDevice {
  private let inner: any BlockDevice
  /// The operation that fails, and the number of its kind that succeed before. Nil if none fails.
  public var fault: (operation: BlockIOError.Operation, after: Int)?
  /// Whether all later operations of the kind fail too.
  public var isLasting = false
  /// Whether the fault occurred.
  public private(set) var wasMet = false

  /// The device's name in messages.
  public var path: String { inner.path }
  /// Size in bytes.
  public var byteCount: UInt64 { inner.byteCount }
  /// Nil.
  public var descriptor: Int32? { nil }

  /// A device without a fault.
  public init(_ inner: any BlockDevice) { self.inner = inner }

  private func pass(_ operation: BlockIOError.Operation, _ offset: UInt64?) throws(BlockIOError) {
    guard let (failing, after) = fault, failing == operation else { return }
    if after > 0 {
      fault?.after -= 1
      return
    }
    wasMet = true
    if !isLasting { fault = nil }
    throw BlockIOError(operation, path: path, offset: offset, code: EIO)
  }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    try pass(.read, offset)
    try inner.read(into: buffer, at: offset)
  }

  /// Writes all of `buffer` at `offset`; if that fails, only the first half of its blocks.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    do throws(BlockIOError) {
      try pass(.write, offset)
    } catch {
      let half = buffer.count / 8192 * 4096
      if half > 0 { try inner.write(UnsafeRawBufferPointer(rebasing: buffer[..<half]), at: offset) }
      throw error
    }
    try inner.write(buffer, at: offset)
  }

  /// Returns once everything written is durable.
  public func flush() throws(BlockIOError) {
    try pass(.flush, nil)
    try inner.flush()
  }
}
