import DataPath
import DeviceMapper

extension TargetType {
  /// Sectors of another device.
  static let linear = TargetType("linear", version: (1, 4, 0), LinearTarget.self) {
    (context) throws(TargetError) in try LinearDriver(context)
  }
}

/// Sectors of another device.
private final class LinearDriver: TargetDriver {
  private let source: OpenDevice
  private let below: BlockDestination
  /// The number added to the device's offset, modulo 2^64.
  private let shift: UInt64
  private let first: UInt64

  init(_ context: DriverContext<LinearTarget>) throws(TargetError) {
    source = try context.device(.source)
    below = source.direct
    first = context.target.source.sector
    shift = first &* 512 &- context.line.start &* 512
    super.init(context)
  }

  override var areas: [Area] { [Area(source, first, length)] }

  override func map(_ part: RequestPointer) {
    unsafe part.pointee.offset &+= shift
    unsafe below.submit(part)
  }

  override func table() -> String { "\(source.number) \(first)" }

  override func place(_ offset: UInt64) -> Place? {
    Place(source, offset &+ shift, endByte - offset)
  }

  override func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] {
    [(source, shifted(range, by: shift))]
  }

  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    loadExtent(of: below, shift: shift, in: range, ready)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    forEachExtent(of: below, shift: shift, in: range, body)
  }
}
