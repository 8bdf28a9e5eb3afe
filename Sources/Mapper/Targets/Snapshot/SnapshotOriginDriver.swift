import DataPath
import DeviceMapper
import Glibc

extension TargetType {
  /// A device whose old content snapshots keep.
  static let snapshotOrigin = TargetType(
    SnapshotOriginTarget.type, version: (1, 9, 0), SnapshotOriginTarget.self
  ) { (context) throws(TargetError) in try SnapshotOriginDriver(context) }
}

/// The target `snapshot-origin`: what is read comes from the device below; what is written goes there once
/// all snapshots have kept what it overwrites.
final class SnapshotOriginDriver: TargetDriver {
  private let source: OpenDevice
  private let below: BlockDestination
  private let group: OriginGroup

  init(_ context: DriverContext<SnapshotOriginTarget>) throws(TargetError) {
    source = try context.device(.origin)
    below = source.direct
    group = context.device.mapper.snapshots.use(source)
    super.init(context)
  }

  override var areas: [Area] { [Area(source, 0, length)] }
  override var takesDiscards: Bool { false }

  override func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] {
    [(source, range)]
  }

  override func map(_ part: RequestPointer) {
    switch unsafe part.pointee.operation {
    case .write, .writeZeroes: if unsafe group.delays(part) { return }
    case .read, .flush: break
    case .discard: return unsafe finishLater(part, EOPNOTSUPP)
    }
    unsafe below.submit(part)
  }

  // Where its bytes are is no secret: but who writes there has to come through here.
  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    loadExtent(of: below, shift: 0, in: range, ready)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    forEachExtent(of: below, shift: 0, in: range, body)
  }

  // MARK: - Suspend and resume

  // Snapshots find the devices of their origin from its first resume to the next suspension.
  override func resume() {
    group.remove(self)
    group.add(self)
  }
  override func postsuspend() { group.remove(self) }

  override func close() {
    group.remove(self)
    device.mapper.snapshots.release(source)
    super.close()
  }

  override func table() -> String { "\(source.number)" }
}
