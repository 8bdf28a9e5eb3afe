import BlockIO
import CDMThin
public import DataPath
public import DeviceMapper
public import EventLoop
import Glibc

// Example of use:
//
//   let mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
//   mapper.create(DeviceCreation(name: "pool", table: [line])) { result in ... }
//   let volume = try mapper.open("vol", readOnly: false)   // counts as open until volume.close()
//   volume.destination.submit(request)
//
// Commands that may have to wait for the I/O of others take a closure, called from the loop or at once; the
// rest return or throw. Within `loop.begin` these wait for the disks below without stopping the loop; called
// from outside of the loop they run it. `UserspaceBackend` makes a `DeviceMapperBackend` of it for callers
// outside of the loop. At the end: `removeAll()` until nothing is left, which commits pools.

/// Device-mapper in this process: devices by name, their tables, and the devices that targets open.
///
/// It belongs to one event loop and its thread. Errors are the kernel's error numbers.
public final class UserspaceDeviceMapper {
  /// The result of a command that may wait.
  public typealias Completion = (Result<Void, DeviceMapperError>) -> Void

  /// The major number of devices, the kernel's on most systems.
  public static let major: UInt32 = 254
  /// The version of the kernel's driver that it follows.
  public static let driverVersion = "4.47.0"
  /// The major number of files and other disks that are no block devices, which no device has.
  static let fileMajor: UInt32 = 0

  let loop: EventLoop
  /// One table at a time is made or dropped: that can have to wait for a disk.
  let loading: FiberLock
  let parts = RequestPool()
  /// The engine behind `copies`, once a target has asked for it: it takes part in every pass of the loop.
  private var copyEngine: CopyEngine?
  /// A buffer of zeros for writes; never written to.
  let zeros = AlignedBuffer(count: 1 << 20)
  /// Whether everything is opened for reading only, whatever tables say.
  @safe @exclusivity(unchecked) public var isReadOnly = false
  /// Called for every event.
  public var eventHappened: ((MappedDevice) -> Void)?
  /// Receives the messages that the kernel would log.
  public var log: (String) -> Void = { _ in }
  /// Opens a disk that was found by its name; tests replace it.
  public var openDisk: (_ found: FoundDisk, _ readOnly: Bool) throws(DeviceOpenError) -> any Disk

  var devices: [UInt32: MappedDevice] = [:]
  private var names: [String: UInt32] = [:]
  /// The open devices; the second has those open for writing only.
  private var openDevices: [DeviceNumber: OpenDevice] = [:]
  /// The minor numbers of disks without a number of their own.
  private var files: [DiskIdentity: UInt32] = [:]
  private var nextFile: UInt32 = 1
  /// The number of the last command that waits for an event.
  var lastWaiter: UInt64 = 0
  /// The state that target types share among their targets.
  private(set) var kept: [ObjectIdentifier: any MapperKept] = [:]

  /// A device-mapper without devices; its disks use `queue` and `workers`.
  public init(loop: EventLoop, queue: IOQueue, workers: Workers) {
    self.loop = loop
    loading = FiberLock(loop)
    let context = DiskContext(loop, queue, workers)
    openDisk = { (found, readOnly) throws(DeviceOpenError) in
      do throws(BlockIOError) {
        return try found.open(readOnly: readOnly, in: context)
      } catch {
        throw DeviceOpenError(code: error.code, explanation: ["\(error)"])
      }
    }
  }

  /// The state that a target type shares among its targets; made on first use.
  func keeping<Kept: MapperKept>(_ type: Kept.Type) -> Kept {
    if let known = kept[ObjectIdentifier(type)] as? Kept { return known }
    let made = Kept()
    kept[ObjectIdentifier(type)] = made
    return made
  }

  /// Makes the copies of targets; made on first use.
  var copies: CopyEngine {
    if let known = copyEngine { return known }
    let made = CopyEngine(loop, MemoryBudget(16 << 20))
    copyEngine = made
    return made
  }

  // MARK: - Memory

  /// The bytes of memory for pending requests, and for state of targets that clients can enlarge.
  public var memoryBytes: Int {
    kept.values.reduce(parts.bytes + (copyEngine?.bytes ?? 0)) { $0 + $1.bytes }
  }

  /// Releases unused memory. Call it from time to time.
  public func returnMemory() {
    parts.trim()
    copyEngine?.trim()
    for keeper in kept.values { keeper.returnMemory() }
  }

  // MARK: - Lookup

  /// The device for a reference.
  public func find(_ reference: DeviceReference) -> MappedDevice? {
    switch reference {
    case .name(let name): names[name].flatMap { devices[$0] }
    case .uuid(let uuid): uuid.isEmpty ? nil : devices.values.first { $0.uuid == uuid }
    case .number(let number):
      number.major == Self.major ? devices[number.minor] : nil
    }
  }

  /// All devices, unsorted.
  public func forEachDevice(_ body: (MappedDevice) -> Void) { devices.values.forEach(body) }

  /// All devices, ascending by name.
  public var all: [MappedDevice] {
    devices.values.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
  }

  func device(_ reference: DeviceReference, _ operation: DeviceMapperError.Operation)
    throws(DeviceMapperError) -> MappedDevice
  {
    guard let device = find(reference) else {
      throw missing(reference, operation)
    }
    return device
  }

  func missing(_ reference: DeviceReference, _ operation: DeviceMapperError.Operation)
    -> DeviceMapperError
  {
    DeviceMapperError(
      operation, device: "\(reference) ", code: ENXIO,
      explanation: ["no such device: \(reference)"])
  }

  func error(
    _ operation: DeviceMapperError.Operation, _ device: MappedDevice, _ code: Int32,
    _ explanation: [String]
  ) -> DeviceMapperError {
    let identity = device.uuid.isEmpty ? "(\(device.number))" : device.uuid
    return DeviceMapperError(
      operation, device: "\(device.name) \(identity)", code: code, explanation: explanation)
  }

  /// The error for a target's refusal of a table, which is also logged.
  func error(
    _ operation: DeviceMapperError.Operation, _ device: MappedDevice, _ refusal: TargetError
  ) -> DeviceMapperError {
    for line in [refusal.message] + refusal.explanation { log("\(device.name): \(line)") }
    return error(
      operation, device, refusal.code,
      refusal.explanation.isEmpty ? [refusal.message] : refusal.explanation)
  }

  /// Refuses to remove a device that is open.
  func busy(_ device: MappedDevice) -> DeviceMapperError {
    error(
      .remove, device, EBUSY,
      ["\(device.name) is in use: clients have it open, or tables of other devices name it"])
  }

  // MARK: - Creation and names

  static func isName(_ name: String) -> Bool {
    (1...127).contains(name.utf8.count) && !name.utf8.contains(UInt8(ascii: "/"))
      && !name.utf8.contains(0)
  }

  /// Creates a device without tables.
  func makeDevice(name: String, uuid: String, minor: UInt32?) throws(DeviceMapperError)
    -> MappedDevice
  {
    func fault(_ code: Int32, _ text: String) -> DeviceMapperError {
      DeviceMapperError(.create, device: "\(name) \(uuid)", code: code, explanation: [text])
    }
    guard Self.isName(name), uuid.utf8.count <= 128 else {
      throw fault(EINVAL, "a name must have 1 to 127 bytes without a slash, a uuid at most 128")
    }
    guard names[name] == nil, find(.uuid(uuid)) == nil else {
      throw fault(EBUSY, "a device of that name or uuid already exists")
    }
    if let minor, devices[minor] != nil || minor >= 1 << 20 {
      throw fault(ENXIO, "minor number \(minor) is taken, or not below 1048576")
    }
    var free: UInt32 = 0
    while devices[free] != nil { free += 1 }
    let number = DeviceNumber(major: Self.major, minor: minor ?? free)
    let device = MappedDevice(mapper: self, name: name, uuid: uuid, number: number)
    devices[number.minor] = device
    names[name] = number.minor
    return device
  }

  func setName(_ device: MappedDevice, _ name: String) {
    names[device.name] = nil
    device.name = name
    names[name] = device.number.minor
  }

  /// Removes a device that is not open.
  func destroy(_ device: MappedDevice) {
    guard !device.isRemoved else { return }
    device.isRemoved = true
    devices[device.number.minor] = nil
    names[device.name] = nil
    if !device.isSuspended, let live = device.live {
      for driver in live.drivers { driver.presuspend(noFlush: true) {} }
      for driver in live.drivers { driver.pushBack() }
      for driver in live.drivers { driver.postsuspend() }
    }
    device.isSuspended = true
    let (live, inactive) = (device.live, device.inactive)
    device.live = nil
    device.inactive = nil
    inactive?.close()
    live?.close()
    device.kept = nil
    device.failAll()
    device.raiseEvent()
    let waiters = device.eventWaiters
    device.eventWaiters = []
    for waiter in waiters { waiter.body() }
  }

  // MARK: - Open devices

  /// Opens a device of this device-mapper by name for I/O. It is in use until it is closed.
  /// - Throws: `DeviceOpenError`: ENODEV if it does not exist, EACCES for writing if only reading
  ///   is possible.
  public func open(_ name: String, readOnly: Bool) throws(DeviceOpenError) -> OpenDevice {
    guard let device = find(.name(name)) else { throw DeviceOpenError(code: ENODEV) }
    return try open(device, readOnly: readOnly)
  }

  private func open(_ device: MappedDevice, readOnly: Bool) throws(DeviceOpenError) -> OpenDevice {
    if !readOnly && device.isReadOnly {
      throw DeviceOpenError(
        code: EACCES, explanation: ["\(device.name) is read-only: make the table read-only too"])
    }
    let opened =
      openDevices[device.number]
      ?? OpenDevice(
        number: device.number, text: device.name, destination: device, mapped: device,
        closed: forget)
    openDevices[device.number] = opened
    opened.users += 1
    device.openCount += 1
    return opened
  }

  /// The path or name by which a disk was opened for a table; nil for one that is not open, or
  /// that is a device of this device-mapper.
  public func path(of number: DeviceNumber) -> String? {
    guard let opened = openDevices[number], let identity = opened.identity else { return nil }
    guard case .file = identity else { return opened.text }
    guard let path = unsafe realpath(opened.text, nil) else { return nil }
    defer { unsafe free(path) }
    return unsafe String(cString: path)
  }

  private var forget: (OpenDevice) -> Void {
    { [unowned self] opened in
      if openDevices[opened.number] === opened { openDevices[opened.number] = nil }
      if opened.number.major == Self.fileMajor {
        files = files.filter { $0.value != opened.number.minor }
      }
    }
  }

  /// Opens a device named in a table line: `major:minor`, a userspace device by name or by its path
  /// in /dev/mapper, or a disk by a name that `DiskResolver` knows.
  /// - Parameter user: the device of the table, which must not be below itself.
  func open(_ text: String, readOnly: Bool, user: MappedDevice) throws(DeviceOpenError)
    -> OpenDevice
  {
    if let (number, path) = Self.number(text) {
      guard let number else {
        throw DeviceOpenError(
          code: EOVERFLOW, explanation: ["\(text): no device has such a number"])
      }
      if let mapped = find(.number(number)) {
        return try open(mapped, under: user, readOnly: readOnly)
      }
      if let known = openDevices[number] { return try reopen(known, readOnly: readOnly) }
      guard unsafe access(path, F_OK) == 0 else {
        throw DeviceOpenError(code: ENXIO, explanation: ["no such device: \(text)"])
      }
      return try openDisk(named: path, readOnly: readOnly)
    }
    if let mapped = named(text) { return try open(mapped, under: user, readOnly: readOnly) }
    // A path with blanks comes as one word.
    let name = unsafe access(text, F_OK) == 0 ? text : NameMangling.decoded(text)
    return try openDisk(named: name, readOnly: readOnly)
  }

  /// The device of this name, or of a path in /dev/mapper, where names may be mangled, or
  /// /dev/dm-N.
  private func named(_ text: String) -> MappedDevice? {
    func dropping(_ prefix: String) -> String? {
      text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : nil
    }
    if let minor = dropping("/dev/dm-") {
      return KernelText.strict(minor).flatMap { UInt32(exactly: $0) }.flatMap { devices[$0] }
    }
    let name = dropping("/dev/mapper/") ?? text
    return find(.name(name)) ?? find(.name(NameMangling.decoded(name)))
  }

  /// The number `major:minor`, nil in it if it is out of range; nil for other texts.
  private static func number(_ text: String) -> (DeviceNumber?, path: String)? {
    let words = text.split(separator: ":", omittingEmptySubsequences: false)
    guard words.count == 2, let major = KernelText.strict(String(words[0])),
      let minor = KernelText.strict(String(words[1]))
    else { return nil }
    guard major < 1 << 12, minor < 1 << 20 else { return (nil, "") }
    let number = DeviceNumber(
      major: UInt32(truncatingIfNeeded: major), minor: UInt32(truncatingIfNeeded: minor))
    return (number, "/dev/block/\(number)")
  }

  private func open(_ mapped: MappedDevice, under user: MappedDevice, readOnly: Bool)
    throws(DeviceOpenError) -> OpenDevice
  {
    guard Self.depth(of: mapped, without: user) < 32 else {
      throw DeviceOpenError(
        code: ELOOP,
        explanation: ["\(mapped.name) would be below itself, or 32 devices stand on each other"])
    }
    return try open(mapped, readOnly: readOnly)
  }

  /// The length of the longest chain of devices from `device` down; very large if it contains
  /// `user`.
  private static func depth(of device: MappedDevice, without user: MappedDevice) -> Int {
    if device === user { return 1000 }
    var most = 0
    for table in [device.live, device.inactive] {
      for driver in table?.drivers ?? [] {
        for below in driver.opened {
          if let mapped = below.mapped { most = max(most, depth(of: mapped, without: user)) }
        }
      }
    }
    return most + 1
  }

  private func reopen(_ known: OpenDevice, readOnly: Bool) throws(DeviceOpenError) -> OpenDevice {
    if !readOnly && known.direct.isReadOnly && !isReadOnly {
      throw DeviceOpenError(
        code: EBUSY, explanation: ["\(known.text) is already open, for reading only"])
    }
    known.users += 1
    return known
  }

  private func openDisk(named text: String, readOnly: Bool) throws(DeviceOpenError) -> OpenDevice {
    let found: FoundDisk
    do throws(BlockIOError) {
      found = try DiskResolver.find(text)
    } catch {
      guard error.operation == .find else {
        throw DeviceOpenError(code: error.code, explanation: ["\(error)"])
      }
      // The kernel takes text that is not a path for a hexadecimal device number, if it can.
      let digits = "0123456789abcdefABCDEF"
      let isNumber = text.contains { $0 != "0" } && text.allSatisfy(digits.contains)
      throw DeviceOpenError(code: isNumber ? ENXIO : ENODEV, explanation: ["\(error)"])
    }
    var number = DeviceNumber(major: Self.fileMajor, minor: files[found.identity] ?? nextFile)
    if case .file(let identity) = found.identity, let device = identity.number {
      number = DeviceNumber(major: device.major, minor: device.minor)
    }
    if let known = openDevices[number] { return try reopen(known, readOnly: readOnly) }
    let destination = try openDisk(found, readOnly || isReadOnly)
    if number.major == Self.fileMajor {
      files[found.identity] = number.minor
      nextFile += 1
    }
    let opened = OpenDevice(
      number: number, text: found.name, destination: destination, identity: found.identity,
      closed: forget)
    openDevices[number] = opened
    opened.users = 1
    return opened
  }
}

/// The state that a target type shares among its targets of a device-mapper.
protocol MapperKept: AnyObject {
  init()
  /// Throws the reason to refuse a table of a device that will be written to.
  func judge(_ drivers: [TargetDriver], of device: MappedDevice) throws(TargetError)
  /// The memory that clients can enlarge, in bytes.
  var bytes: Int { get }
  /// Releases unused memory.
  func returnMemory()
}

extension MapperKept {
  func judge(_ drivers: [TargetDriver], of device: MappedDevice) throws(TargetError) {}
  var bytes: Int { 0 }
  func returnMemory() {}
}
