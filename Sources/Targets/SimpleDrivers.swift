import DataPath
import DeviceMapper
import Glibc

/// Sectors of another device.
final class LinearDriver: TargetDriver {
  private let below: BlockDestination
  /// What is added to the device's offset, modulo 2^64.
  private let shift: UInt64
  private let first: UInt64

  init(_ context: DriverContext, _ target: LinearTarget) {
    below = context.opened[0].direct
    first = target.offset
    shift = target.offset &* 512 &- context.line.start &* 512
    super.init(context)
  }

  override var areas: [(device: OpenDevice, start: UInt64, length: UInt64)] {
    [(opened[0], first, length)]
  }

  override func map(_ part: RequestPointer) {
    part.pointee.offset &+= shift
    below.submit(part)
  }

  override func table() -> String { "\(opened[0].number) \(first)" }

  override func place(_ offset: UInt64) -> (
    device: OpenDevice, offset: UInt64, byteCount: UInt64
  )? {
    (opened[0], offset &+ shift, endByte - offset)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    var goesOn = true
    let lower = range.lowerBound &+ shift
    below.forEachExtent(in: lower..<(lower &+ (range.upperBound - range.lowerBound))) { extent in
      var extent = extent
      extent.offset &-= shift
      goesOn = body(extent)
      return goesOn
    }
    return goesOn
  }
}

/// Reads are zeros, writes vanish.
final class ZeroDriver: TargetDriver {
  override var flushCount: Int { 0 }
  override var takesDiscards: Bool { false }

  override func map(_ part: RequestPointer) {
    if part.pointee.operation == .read, let buffer = part.pointee.buffer {
      memset(buffer, 0, part.pointee.byteCount)
    }
    finishLater(part, part.pointee.operation == .discard ? EOPNOTSUPP : 0)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    body(
      BlockDestination.Extent(
        offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound,
        isAllocated: false, isZero: true))
  }
}

/// All I/O fails, as a driver's does that says nothing else.
final class ErrorDriver: TargetDriver {
  override var flushCount: Int { 0 }
  /// Not until version 1.6 of the kernel's.
  override var takesDiscards: Bool { false }
}
