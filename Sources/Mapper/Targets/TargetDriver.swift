import BlockIO
public import DataPath
import DeviceMapper
import EventLoop
import Glibc

/// A running target of a table.
///
/// A request arrives as a part: a copy whose `parent` is the device's request and whose owner is
/// the driver. It has at most `requestBytesMax` bytes, and its offset is one of the device; the `tag` of a
/// flush is its number among `flushCount`. A driver that keeps something in parts has a `RequestState` of its
/// own. The driver completes it with `finishLater`, or sends it on with another offset, but never completes
/// it within `map`. A completed part goes back through `done`.
public class TargetDriver: RequestOwner {
  /// Its type.
  final let type: TargetType
  /// Sectors of the device.
  final let start: UInt64
  final let length: UInt64
  /// The device of its table.
  final unowned let device: MappedDevice
  /// The devices that it uses, in the order in which they were opened.
  final let opened: [OpenDevice]

  init<Grammar>(_ context: DriverContext<Grammar>) {
    type = context.place.type
    start = context.line.start
    length = context.line.length
    device = context.device
    opened = context.devices.all
  }

  /// First byte of the device.
  final var startByte: UInt64 { start &* 512 }
  final var endByte: UInt64 { (start &+ length) &* 512 }
  final var loop: EventLoop { device.loop }

  // MARK: - Properties

  /// Requests are split at multiples of this, counted from the target's start; 0: never.
  var requestBytesMax: UInt64 { 0 }
  /// The number of flushes that it receives for one request.
  var flushCount: Int { 1 }
  var takesDiscards: Bool { opened.allSatisfy { $0.direct.takesDiscards } }
  /// Discards are split at multiples of this; 0: never.
  var discardBytesMax: UInt64 { 0 }
  /// The most bytes of a discard that is not split.
  var discardMaxBytes: UInt64 {
    discardBytesMax > 0 ? discardBytesMax : opened.map(\.direct.discardMaxBytes).min() ?? .max
  }
  var holesStayZero: Bool { opened.allSatisfy { $0.direct.holesStayZero } }
  var discardBytes: Int { opened.map(\.direct.discardBytes).max() ?? 0 }
  var optimalBytes: Int { opened.map(\.direct.optimalBytes).max() ?? 0 }
  var logicalBlockBytes: Int { opened.map(\.direct.logicalBlockBytes).max() ?? 512 }
  /// Ranges of the devices below that must exist.
  var areas: [Area] { [] }
  /// A short description of a device that begins with it, for lists; nil for one that only serves
  /// others.
  var summary: String? { "\(type.name) device" }

  // MARK: - I/O

  /// Handles a part. By default fails it.
  func map(_ part: RequestPointer) { unsafe finishLater(part, EIO) }

  /// A part that was sent on is complete.
  public override func requestDone(_ part: RequestPointer) { unsafe done(part) }

  /// Has a part mapped again by the driver that it belongs to.
  static func mapAgain(_ part: RequestPointer) {
    // A driver is the owner of the parts of its requests.
    unsafe unsafeDowncast(part.pointee.owner, to: TargetDriver.self).map(part)
  }

  /// Returns a part to the device.
  final func done(_ part: RequestPointer) { unsafe device.partDone(part) }

  final func finishLater(_ part: RequestPointer, _ errorNumber: Int32 = 0) {
    unsafe loop.finishLater(part, errorNumber)
  }

  /// The bytes `range` of a part that has the bytes `whole`: the part itself for its last ones, or another
  /// one. Those in front of them were taken out of it before.
  final func piece(of part: RequestPointer, _ range: Range<UInt64>, _ whole: Range<UInt64>)
    -> RequestPointer
  {
    if range == whole { return unsafe part }
    let isLast = range.upperBound == whole.upperBound
    let piece = unsafe isLast ? part : device.another(part, owner: self)
    unsafe piece.pointee.offset = range.lowerBound
    unsafe piece.pointee.byteCount = Int(truncatingIfNeeded: range.upperBound &- range.lowerBound)
    unsafe piece.pointee.memory = part.pointee.memory.advanced(
      by: Int(truncatingIfNeeded: range.lowerBound &- whole.lowerBound))
    return unsafe piece
  }

  /// Calls `ready`, at once or later, when `forEachExtent` can tell what a range of the device begins with.
  func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) { ready() }

  /// What a range of the device holds; false once `body` has said false.
  func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    body(
      BlockDestination.Extent(
        offset: range.lowerBound, byteCount: range.upperBound - range.lowerBound,
        isAllocated: true, isZero: false))
  }

  /// The same, where it is what `below` holds at the offset of this device and `shift`.
  final func loadExtent(
    of below: BlockDestination, shift: UInt64, in range: Range<UInt64>,
    _ ready: @escaping () -> Void
  ) { below.loadExtent(in: shifted(range, by: shift), ready) }

  /// What is known of that range, where it is what `below` holds at the offset of this device and `shift`.
  final func forEachExtent(
    of below: BlockDestination, shift: UInt64, in range: Range<UInt64>,
    _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    var goesOn = true
    below.forEachExtent(in: shifted(range, by: shift)) { extent in
      var extent = extent
      extent.offset &-= shift
      goesOn = body(extent)
      return goesOn
    }
    return goesOn
  }

  final func shifted(_ range: Range<UInt64>, by shift: UInt64) -> Range<UInt64> {
    let lower = range.lowerBound &+ shift
    return lower..<max(lower, range.upperBound &+ shift)
  }

  /// The bytes below that reads and writes of the bytes `range` of the device can reach. The result
  /// may be larger, but never smaller.
  func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] {
    areas.map { ($0.device, $0.bytes) }
  }

  /// Where a byte of this device is below; nil where that is not so simple.
  func place(_ offset: UInt64) -> Place? { nil }

  /// Calls `body` for each run of bytes that lies on one device below: where that is, and which of
  /// the `count` bytes it is.
  final func forEachPlace(
    _ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64,
    _ body: (_ below: any Disk, _ part: Range<Int>, _ place: UInt64)
      throws(BlockIOError) -> Void
  ) throws(BlockIOError) {
    var done = 0
    while done < count {
      guard let place = place(offset &+ UInt64(done)) else {
        throw BlockIOError(operation, path: device.name, offset: offset, code: EIO)
      }
      let part = done..<(done + min(count - done, Int(clamping: place.byteCount)))
      try body(place.device.destination, part, place.offset)
      done = part.upperBound
    }
  }

  // MARK: - Suspend and resume

  /// Prepares for suspension; calls `ready` when the I/O that the driver delays is complete.
  func presuspend(noFlush: Bool, _ ready: @escaping () -> Void) { ready() }
  /// Returns, with `device.park`, the parts that wait for space.
  func pushBack() {}
  /// The suspension is complete.
  func postsuspend() {}
  /// Prepares to resume a suspended device, or to replace a table. Calls `ready`, now or later,
  /// with nil or the error that prevents it.
  func prepare(_ ready: @escaping (DeviceMapperError?) -> Void) { ready(nil) }
  /// I/O is about to resume.
  func preresume() throws(TargetError) {}
  /// I/O has resumed.
  func resume() {}
  /// The table is destroyed; no request is pending.
  func close() { for device in opened.reversed() { device.close() } }

  // MARK: - Queries and messages

  /// The parameters of its table line.
  func table() -> String { "" }
  /// The parameters of its status line.
  func status(noFlush: Bool) -> String { "" }
  func message(_ text: String) throws(MessageError) -> String? {
    throw MessageError("Target type does not support messages")
  }
}

extension TargetDriver {
  /// Sectors of a device below that must exist.
  struct Area {
    let device: OpenDevice
    let start: UInt64
    let length: UInt64

    init(_ device: OpenDevice, _ start: UInt64, _ length: UInt64) {
      self.device = device
      self.start = start
      self.length = length
    }

    /// The area in bytes, clamped to 64 bits.
    var bytes: Range<UInt64> {
      let lower = start &* 512
      return lower..<max(lower, (start &+ length) &* 512)
    }
  }

  /// A byte of a device below, and the number of bytes that continue on the same device.
  struct Place {
    let device: OpenDevice
    let offset: UInt64
    let byteCount: UInt64

    init(_ device: OpenDevice, _ offset: UInt64, _ byteCount: UInt64) {
      self.device = device
      self.offset = offset
      self.byteCount = byteCount
    }
  }
}
