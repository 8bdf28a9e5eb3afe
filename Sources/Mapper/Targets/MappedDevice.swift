public import DataPath
public import DeviceMapper
import EventLoop
import Glibc

/// A device of the userspace device-mapper. Splits requests over the targets of its live table.
///
/// Invariants: `outstanding` counts the parts that are with drivers. Parts in `parked` and requests
/// in `queue` wait for resume. No request reaches a driver while `isBlocked`.
public final class MappedDevice: BlockDestination {
  /// A command that waits for the event number to change.
  struct EventWaiter {
    var id: UInt64
    var eventNumber: UInt32
    var body: () -> Void
  }

  unowned let mapper: UserspaceDeviceMapper
  /// Name, 1 to 127 bytes.
  public internal(set) var name: String
  /// Uuid; empty if it has none.
  public internal(set) var uuid: String
  /// Number, with the mapper's major.
  public let number: DeviceNumber
  /// The live table.
  var live: LiveTable?
  /// The inactive table, which becomes live at resume.
  var inactive: LiveTable?
  /// A target's state of the device, which outlives its tables.
  var kept: (any DeviceKept)?

  /// Whether I/O is suspended.
  @safe @exclusivity(unchecked) public internal(set) var isSuspended = false
  /// Whether it is being suspended, and requests are still pending.
  @safe @exclusivity(unchecked) public internal(set) var isSuspending = false
  /// The number of `hold` calls without `release`.
  private(set) var holds = 0
  var isRemoved = false
  /// Whether it will be removed when it is closed.
  public internal(set) var isDeferredRemove = false
  /// The number of times it is open, by tables too.
  public internal(set) var openCount = 0
  /// Number of the last event.
  public private(set) var eventNumber: UInt32 = 0
  var eventWaiters: [EventWaiter] = []
  /// A command is in progress; others wait in `commands`.
  var isBusy = false
  var commands: [() -> Void] = []

  /// The number of parts with drivers.
  private(set) var outstanding = 0
  /// Whether requests are under way.
  var hasOutstanding: Bool { outstanding > 0 }
  private var idleWaiters: [() -> Void] = []
  private var queue = RequestQueue()
  private var parked = RequestQueue()
  private let parts: RequestPool

  init(mapper: UserspaceDeviceMapper, name: String, uuid: String, number: DeviceNumber) {
    self.mapper = mapper
    self.name = name
    self.uuid = uuid
    self.number = number
    parts = mapper.parts
    super.init(mapper.loop)
  }

  // MARK: - Destination

  public override var byteCount: UInt64 { live?.byteCount ?? 0 }
  public override var logicalBlockBytes: Int { live?.logicalBlockBytes ?? 512 }
  public override var optimalBytes: Int { live?.drivers.map(\.optimalBytes).max() ?? 0 }
  public override var discardBytes: Int { live?.discardBytes ?? 0 }
  public override var discardMaxBytes: UInt64 {
    live?.drivers.map(\.discardMaxBytes).min() ?? .max
  }
  public override var takesDiscards: Bool { live?.takesDiscards ?? false }
  public override var isReadOnly: Bool { live?.isReadOnly ?? false }
  public override var holesStayZero: Bool { live?.drivers.allSatisfy(\.holesStayZero) ?? true }

  public override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    guard let live, range.lowerBound < min(range.upperBound, live.byteCount) else { return ready() }
    let driver = live.driver(at: range.lowerBound)
    driver.loadExtent(in: range.lowerBound..<min(range.upperBound, driver.endByte), ready)
  }

  public override func forEachExtent(in range: Range<UInt64>, _ body: (Extent) -> Bool) {
    guard let live else { return }
    var at = range.lowerBound
    while at < min(range.upperBound, live.byteCount) {
      let driver = live.driver(at: at)
      let end = min(range.upperBound, driver.endByte)
      guard driver.forEachExtent(in: at..<end, body) else { return }
      at = end
    }
  }

  // MARK: - Requests

  var isBlocked: Bool { isSuspended || isSuspending || holds > 0 }

  public override func submit(_ request: RequestPointer) {
    if isBlocked {
      unsafe queue.append(request)
    } else {
      unsafe begin(request)
    }
  }

  private func begin(_ request: RequestPointer) {
    let operation = unsafe request.pointee.operation
    guard let live else { return unsafe loop.finishLater(request, EIO) }
    unsafe request.pointee.pending = 0
    unsafe request.pointee.errorNumber = 0
    if operation == .flush { return unsafe flush(request, live) }
    let count = unsafe request.pointee.byteCount
    let (end, overflow) = unsafe request.pointee.offset.addingReportingOverflow(
      UInt64(truncatingIfNeeded: count))
    guard count > 0, !overflow, end <= live.byteCount else {
      return unsafe loop.finishLater(request, count == 0 ? 0 : EIO)
    }
    if operation != .read && live.isReadOnly { return unsafe loop.finishLater(request, EPERM) }
    if operation == .discard && !live.takesDiscards {
      return unsafe loop.finishLater(request, EOPNOTSUPP)
    }
    let driver = unsafe live.single ?? live.driver(at: request.pointee.offset)
    let most = operation == .discard ? driver.discardBytesMax : driver.requestBytesMax
    if most == 0 && end <= driver.endByte {
      unsafe driver.map(part(of: request, driver))
    } else {
      unsafe split(request, end, live)
    }
  }

  private func split(_ request: RequestPointer, _ end: UInt64, _ live: LiveTable) {
    let first = unsafe request.pointee.offset
    var at = first
    while at < end {
      let driver = live.driver(at: at)
      var stop = min(end, driver.endByte)
      let isDiscard = unsafe request.pointee.operation == .discard
      let most = isDiscard ? driver.discardBytesMax : driver.requestBytesMax
      if most > 0 {
        let left = most - (at - driver.startByte) % most
        stop = min(stop, at.addingReportingOverflow(left).overflow ? stop : at + left)
      }
      let piece = unsafe part(of: request, driver)
      unsafe piece.pointee.offset = at
      unsafe piece.pointee.byteCount = Int(truncatingIfNeeded: stop - at)
      unsafe piece.pointee.memory = request.pointee.memory.advanced(
        by: Int(truncatingIfNeeded: at - first))
      unsafe driver.map(piece)
      at = stop
    }
  }

  private func flush(_ request: RequestPointer, _ live: LiveTable) {
    for driver in live.drivers {
      for index in 0..<driver.flushCount {
        let piece = unsafe part(of: request, driver)
        unsafe piece.pointee.tag = UInt32(truncatingIfNeeded: index)
        unsafe driver.map(piece)
      }
    }
    if unsafe request.pointee.pending == 0 { unsafe loop.finishLater(request) }
  }

  private func part(of request: RequestPointer, _ owner: RequestOwner) -> RequestPointer {
    outstanding += 1
    unsafe request.pointee.pending += 1
    return unsafe parts.take(
      request.pointee.operation, offset: request.pointee.offset,
      byteCount: request.pointee.byteCount, memory: request.pointee.memory,
      flags: request.pointee.flags, owner: owner, parent: request)
  }

  /// A further part of the same request, equal to `part` until the caller changes it.
  func another(_ part: RequestPointer, owner: TargetDriver) -> RequestPointer {
    outstanding += 1
    unsafe part.pointee.parent?.pointee.pending += 1
    return unsafe parts.take(
      part.pointee.operation, offset: part.pointee.offset, byteCount: part.pointee.byteCount,
      memory: part.pointee.memory, flags: part.pointee.flags, owner: owner,
      parent: part.pointee.parent)
  }

  /// A driver has completed a part.
  func partDone(_ part: RequestPointer) {
    outstanding -= 1
    if let parent = unsafe part.pointee.parent {
      if unsafe part.pointee.errorNumber != 0 && parent.pointee.errorNumber == 0 {
        unsafe parent.pointee.errorNumber = part.pointee.errorNumber
      }
      unsafe parts.give(part)
      unsafe parent.pointee.pending -= 1
      if unsafe parent.pointee.pending == 0 { unsafe parent.pointee.owner.requestDone(parent) }
    }
    if outstanding == 0 && !idleWaiters.isEmpty { becameIdle() }
  }

  // MARK: - Suspending I/O

  /// A driver returns a part unchanged, to be mapped again after resume.
  func park(_ part: RequestPointer) {
    outstanding -= 1
    unsafe part.pointee.owner = self
    unsafe parked.append(part)
    if outstanding == 0 && !idleWaiters.isEmpty { becameIdle() }
  }

  /// Completes parked parts. The parts made of them were counted as outstanding, not they.
  public override func requestDone(_ part: RequestPointer) {
    outstanding += 1
    unsafe partDone(part)
  }

  private func becameIdle() {
    let waiters = idleWaiters
    idleWaiters = []
    for body in waiters { body() }
  }

  /// Calls `body` once drivers have no parts, which may be at once.
  func whenIdle(_ body: @escaping () -> Void) {
    if outstanding == 0 { body() } else { idleWaiters.append(body) }
  }

  /// Suspends I/O on behalf of another device, including parts that wait for space. Calls `body`
  /// once no part is pending.
  func hold(_ body: @escaping () -> Void) {
    holds += 1
    if let live { for driver in live.drivers { driver.pushBack() } }
    whenIdle(body)
  }

  /// Ends a `hold`.
  func release() {
    holds -= 1
    goOn()
  }

  /// Sends the queued requests, unless I/O is still suspended.
  func goOn() {
    guard !isBlocked else { return }
    var again = parked.takeAll()
    while let part = unsafe again.takeFirst() { unsafe begin(part) }
    var held = queue.takeAll()
    while let request = unsafe held.takeFirst() { unsafe submit(request) }
  }

  // MARK: - Events and open count

  /// Wakes the commands that wait for an event.
  func raiseEvent() {
    eventNumber &+= 1
    let ready = eventWaiters.filter { $0.eventNumber != eventNumber }
    eventWaiters.removeAll { $0.eventNumber != eventNumber }
    for waiter in ready { waiter.body() }
    mapper.eventHappened?(self)
  }

  func wasClosed() {
    openCount -= 1
    if openCount == 0 && isDeferredRemove { loop.begin { self.mapper.destroy(self) } }
  }

  /// Fails all waiting I/O, when the device is removed.
  func failAll() {
    var again = parked.takeAll()
    while let part = unsafe again.takeFirst() { unsafe loop.finishLater(part, EIO) }
    var held = queue.takeAll()
    while let request = unsafe held.takeFirst() { unsafe loop.finishLater(request, EIO) }
  }

  /// A short description for lists, like `thin device 7`; nil for a device that only serves others,
  /// like a pool, and for a device without a table.
  public var summary: String? {
    guard let drivers = live?.drivers, let summary = drivers.first?.summary,
      drivers.dropFirst().allSatisfy({ $0.summary != nil })
    else { return nil }
    return summary
  }

  /// The state, with the target count of one of its tables.
  func info(inactive isInactive: Bool) -> DeviceInfo {
    let table = isInactive ? inactive : live
    return DeviceInfo(
      name: name, uuid: uuid, number: number, openCount: Int32(clamping: openCount),
      eventNumber: eventNumber, targetCount: Int32(clamping: table?.drivers.count ?? 0),
      isSuspended: isSuspended, isReadOnly: table?.isReadOnly ?? false,
      hasLiveTable: live != nil, hasInactiveTable: inactive != nil,
      isDeferredRemove: isDeferredRemove, isInternallySuspended: holds > 0)
  }
}

/// A target's state of the device, kept from table to table.
protocol DeviceKept: AnyObject {
  /// The device was resumed with `table`, which may not have the target.
  func resumed(with table: LiveTable)
}
