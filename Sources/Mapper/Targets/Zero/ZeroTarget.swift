import DataPath
public import DeviceMapper
import Glibc

/// `zero`: reads return zeros, writes are dropped.
public struct ZeroTarget: TargetGrammar {
  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Never>?) throws(TargetError) {
    guard KernelText.parameterWords(line.parameters).isEmpty else {
      throw TargetError("No arguments required")
    }
  }

  /// Empty.
  public var parameters: String { "" }
}

extension TargetType {
  /// Reads return zeros, writes are dropped.
  static let zero = TargetType("zero", version: (1, 1, 0), ZeroTarget.self) { ZeroDriver($0) }
}

private final class ZeroDriver: TargetDriver {
  override var flushCount: Int { 0 }
  override var takesDiscards: Bool { false }

  override func map(_ part: RequestPointer) {
    if unsafe part.pointee.operation == .read {
      unsafe part.pointee.memory.zero(part.pointee.byteCount)
    }
    unsafe finishLater(part, part.pointee.operation == .discard ? EOPNOTSUPP : 0)
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
