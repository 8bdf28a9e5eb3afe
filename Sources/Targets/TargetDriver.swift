public import DataPath
import DeviceMapper
import Glibc

/// One target of a table at work.
///
/// A request comes as a part: a copy whose `parent` is what the device was given, with the driver as
/// its owner, at most `requestBytesMax` long, and its offset that of the device. The driver answers
/// for itself with `finishLater`, or sends the part on with another offset, but never ends it from
/// within `map`. `done` is how an ended part goes back.
public class TargetDriver: RequestOwner {
  /// What the table line said.
  let target: Target
  /// The line itself.
  let line: TableLine
  /// Sectors of the device.
  let start: UInt64
  let length: UInt64
  /// Whose table it is in.
  unowned let device: MappedDevice
  /// Devices below, in the order in which they were opened.
  let opened: [OpenDevice]

  init(_ context: DriverContext) {
    target = context.target
    line = context.line
    start = context.line.start
    length = context.line.length
    device = context.device
    opened = context.opened
  }

  /// First byte of the device.
  final var startByte: UInt64 { start &* 512 }
  final var endByte: UInt64 { (start &+ length) &* 512 }
  final var loop: EventLoop { device.loop }

  // MARK: - What it is like

  /// Requests are split at multiples of this, counted from the target's start; 0: not at all.
  var requestBytesMax: UInt64 { 0 }
  /// How many flushes it gets for one.
  var flushCount: Int { 1 }
  var takesDiscards: Bool { opened.allSatisfy { $0.direct.takesDiscards } }
  /// Discards are split at multiples of this; 0: not at all.
  var discardBytesMax: UInt64 { 0 }
  /// Most bytes that one discard may have without being split.
  var discardMaxBytes: UInt64 {
    discardBytesMax > 0 ? discardBytesMax : opened.map(\.direct.discardMaxBytes).min() ?? .max
  }
  var holesStayZero: Bool { opened.allSatisfy { $0.direct.holesStayZero } }
  var discardBytes: Int { opened.map(\.direct.discardBytes).max() ?? 0 }
  var optimalBytes: Int { opened.map(\.direct.optimalBytes).max() ?? 0 }
  var logicalBlockBytes: Int { opened.map(\.direct.logicalBlockBytes).max() ?? 512 }
  /// Ranges of the devices below that must exist: device and first sector, and how many.
  var areas: [(device: OpenDevice, start: UInt64, length: UInt64)] { [] }

  // MARK: - I/O

  /// Takes a part; without a word to the contrary it fails.
  func map(_ part: RequestPointer) { finishLater(part, EIO) }

  /// A part that was sent on has ended.
  public override func requestDone(_ part: RequestPointer) { done(part) }

  /// Gives a part back to the device.
  final func done(_ part: RequestPointer) { device.partDone(part) }

  final func finishLater(_ part: RequestPointer, _ errorNumber: Int32 = 0) {
    loop.finishLater(part, errorNumber)
  }

  /// What a range of the device holds; false once `body` has said false.
  func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    body(
      BlockDestination.Extent(
        offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound,
        isAllocated: true, isZero: false))
  }

  /// Which byte of which device below holds a byte of this one, and for how many bytes that goes on
  /// so; nil where that is not so simple.
  func place(_ offset: UInt64) -> (device: OpenDevice, offset: UInt64, byteCount: UInt64)? { nil }

  // MARK: - Suspend and resume

  /// Before I/O is held back; calls `ready` when whatever it holds up by itself is still.
  func presuspend(noFlush: Bool, _ ready: @escaping () -> Void) { ready() }
  /// Gives back, with `device.park`, the parts that it holds for lack of something.
  func pushBack() {}
  /// All is still.
  func postsuspend() {}
  /// Before I/O goes on.
  func preresume() throws(TargetError) {}
  /// I/O goes on.
  func resume() {}
  /// The table goes away; nothing is in flight.
  func close() { for device in opened.reversed() { device.close() } }

  // MARK: - Queries and messages

  /// Parameters of its line of a table.
  func table() -> String { target.parameters }
  /// Parameters of its line of a status.
  func status(noFlush: Bool) -> String { "" }
  func message(_ text: String) throws(MessageError) -> String? {
    throw MessageError("Target type does not support messages")
  }
}

/// What a driver is made from.
struct DriverContext {
  var target: Target
  var line: TableLine
  var device: MappedDevice
  var opened: [OpenDevice]
  var isReadOnly: Bool
}

/// A table whose targets work.
final class LiveTable {
  let drivers: [TargetDriver]
  let isReadOnly: Bool
  let byteCount: UInt64
  /// The only driver, where there is but one.
  let single: TargetDriver?
  let takesDiscards: Bool

  init(_ drivers: [TargetDriver], isReadOnly: Bool) {
    self.drivers = drivers
    self.isReadOnly = isReadOnly
    byteCount = drivers.last?.endByte ?? 0
    single = drivers.count == 1 ? drivers.first : nil
    takesDiscards = drivers.allSatisfy { $0.takesDiscards }
  }

  /// The driver of a byte below `byteCount`.
  func driver(at offset: UInt64) -> TargetDriver {
    var low = 0
    var high = drivers.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if drivers[middle].startByte <= offset { low = middle } else { high = middle }
    }
    return drivers[low]
  }

  /// The type that only its like may replace, if there is one.
  var immutableType: String? {
    single.flatMap {
      TargetTraits.of($0.line.type)?.contains(.immutable) == true ? $0.line.type : nil
    }
  }

  /// Devices below, the one opened last first, each once.
  var dependencies: [DeviceNumber] {
    var seen: Set<DeviceNumber> = []
    var order: [DeviceNumber] = []
    for device in drivers.flatMap(\.opened) where seen.insert(device.number).inserted {
      order.append(device.number)
    }
    return order.reversed()
  }

  /// Whether the devices below are as large as the table has them.
  func checkAreas() throws(TargetError) {
    for driver in drivers {
      for area in driver.areas {
        area.device.destination.refreshSize()
        let size = area.device.sectorCount
        guard area.start <= size, area.length <= size - area.start else {
          throw TargetError(
            "\(area.device.number) too small for target: start=\(area.start), len=\(area.length), "
              + "dev_size=\(size)")
        }
      }
    }
  }

  func close() { for driver in drivers { driver.close() } }
}
