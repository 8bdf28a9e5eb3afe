import DeviceMapper
import Glibc

/// A device-mapper in memory: pools without blocks, thin devices without I/O, and the rules for
/// names, tables, suspension and use that verbs depend on. Any call can be made to fail.
final class FakeDeviceMapper: DeviceMapperBackend, DeviceEventSource {
  struct Device: Equatable {
    var number: DeviceNumber
    var uuid = ""
    var live: [TableLine]?
    var inactive: [TableLine]?
    var isSuspended = false
    var isReadOnly = false
    var isOpen = false
    var eventNumber: UInt32 = 0
  }
  /// The content of a pool's metadata, by the number of the metadata device.
  struct Pool: Equatable {
    var thins: Set<UInt64> = []
    var status = ThinPoolStatus.Details(
      transactionID: 0, metadata: BlockUsage(used: 20, total: 2048),
      data: BlockUsage(used: 100, total: 1600))
  }
  struct State: Equatable {
    var devices: [String: Device] = [:]
    var pools: [String: Pool] = [:]
  }
  /// The fault to inject, by the number of the call, counted from 1.
  enum Fault: Equatable {
    case none
    /// The call fails without effect.
    case at(Int)
    /// The call fails, but has its effect.
    case after(Int)
    /// That call and all later ones fail.
    case from(Int)
    /// The process is killed before that call.
    case death(Int)
  }

  var state = State()
  var fault = Fault.none
  private(set) var calls = 0
  private(set) var isDead = false
  /// Called when the process is killed.
  var atDeath: () -> Void = {}
  /// Tables with which a device cannot resume.
  var refusesToRun: ([TableLine]) -> Bool = { _ in false }
  /// Called when a pool is activated, before that can fail.
  var atActivation: () -> Void = {}
  /// Snapshots taken of an active device that was not suspended.
  private(set) var torn: [UInt64] = []
  var settings = BackendSettings()
  var warn: (String) -> Void = { _ in }
  var libraryVersion: String? { nil }
  private var nextMinor: UInt32 = 0

  func reset(_ fault: Fault = .none) {
    self.fault = fault
    calls = 0
    isDead = false
  }

  // MARK: - Faults

  private func begin(_ operation: DeviceMapperError.Operation, _ device: String)
    throws(DeviceMapperError)
  {
    calls += 1
    let fails: Bool
    switch fault {
    case .none, .after: fails = false
    case .at(let call): fails = calls == call
    case .from(let call): fails = calls >= call
    case .death(let call):
      if calls == call { atDeath() }
      isDead = calls >= call
      fails = isDead
    }
    if fails { throw DeviceMapperError(operation, device: device, code: EIO) }
  }

  private func end(_ operation: DeviceMapperError.Operation, _ device: String)
    throws(DeviceMapperError)
  {
    if fault == .after(calls) { throw DeviceMapperError(operation, device: device, code: EIO) }
  }

  private func name(_ reference: DeviceReference) -> String? {
    switch reference {
    case .name(let name): state.devices[name] == nil ? nil : name
    case .uuid(let uuid): state.devices.first { $0.value.uuid == uuid }?.key
    case .number(let number): state.devices.first { $0.value.number == number }?.key
    }
  }

  private func found(_ operation: DeviceMapperError.Operation, _ reference: DeviceReference)
    throws(DeviceMapperError) -> String
  {
    try begin(operation, "\(reference)")
    guard let name = name(reference) else {
      throw DeviceMapperError(operation, device: "\(reference)", code: ENXIO)
    }
    return name
  }

  // MARK: - Pools

  /// The metadata device's number of an active pool.
  func metadata(_ pool: String) -> String? {
    guard let line = state.devices[pool]?.live?.first, line.type == "thin-pool" else { return nil }
    return (try? ThinPoolTarget(KernelText.words(line.parameters)))?.metadataDevice
  }

  private func thins(_ table: [TableLine]?) -> [ThinTarget] {
    (table ?? []).filter { $0.type == "thin" }.compactMap {
      try? ThinTarget(KernelText.words($0.parameters))
    }
  }

  /// Whether a table can be loaded, according to the rules for pools.
  private func check(
    _ table: [TableLine], _ device: String, _ operation: DeviceMapperError.Operation
  ) throws(DeviceMapperError) {
    for thin in thins(table) {
      guard let number = DeviceNumber(text: thin.pool), let pool = name(.number(number)),
        let metadata = metadata(pool),
        state.pools[metadata]?.thins.contains(UInt64(thin.id)) == true
      else { throw DeviceMapperError(operation, device: device, code: ENODATA) }
    }
  }

  // MARK: - Commands

  func create(_ request: DeviceCreation) throws(DeviceMapperError) {
    try begin(.create, request.name)
    guard state.devices[request.name] == nil else {
      throw DeviceMapperError(.create, device: request.name, code: EBUSY)
    }
    let table = request.table ?? []
    if table.first?.type == "thin-pool" { atActivation() }
    try check(table, request.name, .reload)
    guard !refusesToRun(table) else {
      throw DeviceMapperError(.resume, device: request.name, code: EINVAL)
    }
    state.devices[request.name] = Device(
      number: DeviceNumber(major: 254, minor: nextMinor), uuid: request.uuid ?? "", live: table,
      isReadOnly: request.isReadOnly)
    nextMinor += 1
    if let metadata = metadata(request.name), state.pools[metadata] == nil {
      state.pools[metadata] = Pool()
    }
  }

  func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    let name = try found(.reload, device)
    try check(table, name, .reload)
    state.devices[name]?.inactive = table
    try end(.reload, name)
  }

  func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    let name = try found(.clear, device)
    state.devices[name]?.inactive = nil
    try end(.clear, name)
  }

  func suspend(_ device: DeviceReference, _ options: SuspendOptions) throws(DeviceMapperError) {
    let name = try found(.suspend, device)
    state.devices[name]?.isSuspended = true
    try end(.suspend, name)
  }

  func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  {
    let name = try found(.resume, device)
    if let table = state.devices[name]?.inactive {
      state.devices[name]?.live = table
      state.devices[name]?.inactive = nil
      state.devices[name]?.isSuspended = true
    }
    guard let live = state.devices[name]?.live, !refusesToRun(live) else {
      throw DeviceMapperError(.resume, device: name, code: EINVAL)
    }
    state.devices[name]?.isSuspended = false
    try end(.resume, name)
  }

  func remove(_ device: DeviceReference, deferred: Bool, retry: Bool) throws(DeviceMapperError) {
    let name = try found(.remove, device)
    let number = state.devices[name]?.number
    let isUsed = state.devices.values.contains { other in
      thins(other.live).contains { DeviceNumber(text: $0.pool) == number }
    }
    guard !isUsed, state.devices[name]?.isOpen == false else {
      throw DeviceMapperError(.remove, device: name, code: EBUSY)
    }
    state.devices[name] = nil
  }

  func removeAll(deferred: Bool) throws(DeviceMapperError) { try begin(.removeAll, "") }

  func rename(_ device: DeviceReference, to new: String) throws(DeviceMapperError) {
    let name = try found(.rename, device)
    state.devices[new] = state.devices.removeValue(forKey: name)
  }

  func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    let name = try found(.rename, device)
    state.devices[name]?.uuid = uuid
  }

  func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    let name = try found(.message, device)
    func refused(_ code: Int32) -> DeviceMapperError {
      DeviceMapperError(.message, device: name, code: code)
    }
    guard let metadata = metadata(name), var pool = state.pools[metadata] else {
      throw refused(EINVAL)
    }
    let message: ThinPoolMessage
    do throws(MessageError) { message = try ThinPoolMessage(text) } catch {
      throw refused(error.code)
    }
    guard pool.status.mode == .readWrite else { throw refused(EOPNOTSUPP) }
    let active = { [self] (id: UInt32) in
      state.devices.values.filter { thins($0.live).contains { $0.id == id } }
    }
    switch message {
    case .createThin(let id):
      guard pool.thins.insert(UInt64(id)).inserted else { throw refused(EEXIST) }
    case .createSnapshot(let id, let origin):
      guard pool.thins.contains(UInt64(origin)) else { throw refused(ENODATA) }
      guard pool.thins.insert(UInt64(id)).inserted else { throw refused(EEXIST) }
      if active(origin).contains(where: { !$0.isSuspended }) { torn.append(UInt64(id)) }
    case .delete(let id):
      guard active(id).isEmpty else { throw refused(EBUSY) }
      guard pool.thins.remove(UInt64(id)) != nil else { throw refused(ENODATA) }
    case .setTransactionID(let current, let new):
      guard pool.status.transactionID == current else { throw refused(EINVAL) }
      pool.status.transactionID = new
    case .reserveMetadataSnapshot:
      guard pool.status.heldRoot == nil else { throw refused(EBUSY) }
      pool.status.heldRoot = 7
    case .releaseMetadataSnapshot:
      guard pool.status.heldRoot != nil else { throw refused(EINVAL) }
      pool.status.heldRoot = nil
    }
    state.pools[metadata] = pool
    return nil
  }

  // MARK: - Queries

  private func info(of name: String) -> DeviceInfo? {
    guard let device = state.devices[name] else { return nil }
    return DeviceInfo(
      name: name, uuid: device.uuid, number: device.number, openCount: device.isOpen ? 1 : 0,
      eventNumber: device.eventNumber, targetCount: Int32(device.live?.count ?? 0),
      isSuspended: device.isSuspended, isReadOnly: device.isReadOnly,
      hasLiveTable: device.live != nil, hasInactiveTable: device.inactive != nil)
  }

  func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    try begin(.info, "\(device)")
    return name(device).flatMap { info(of: $0) }
  }

  func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try begin(.table, "\(device)")
    guard let name = name(device), let info = info(of: name) else { return nil }
    return DeviceTable(info: info, lines: state.devices[name]?.live ?? [])
  }

  func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try begin(.status, "\(device)")
    guard let name = name(device), let info = info(of: name) else { return nil }
    let lines = (state.devices[name]?.live ?? []).map { line in
      var line = line
      line.parameters = "0 -"
      if let metadata = metadata(name), let pool = state.pools[metadata] {
        line.parameters = ThinPoolStatus.working(pool.status).parameters
      }
      return line
    }
    return DeviceTable(info: info, lines: lines)
  }

  func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  { nil }

  func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  { try status(device, options) }

  func list() throws(DeviceMapperError) -> [DeviceEntry] {
    try begin(.list, "")
    return state.devices.sorted { $0.key < $1.key }.map {
      DeviceEntry(name: $0.key, number: $0.value.number)
    }
  }

  func targets() throws(DeviceMapperError) -> [TargetVersion] { [] }
  func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? { nil }
  func driverVersion() throws(DeviceMapperError) -> String { "4.47.0" }
  func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {}
  func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? { nil }

  // MARK: - Events

  /// The events during the next waits, in order.
  var happenings: [(FakeDeviceMapper) -> Void] = []

  var eventDescriptor: Int32 { -1 }
  var hasEvents: Bool { (try? waitForEvents(milliseconds: 0)) ?? false }
  func armEvents() throws(DeviceMapperError) { try begin(.wait, "") }
  func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    guard !happenings.isEmpty else { return false }
    happenings.removeFirst()(self)
    return true
  }
}

extension DeviceNumber {
  /// Parses `major:minor`.
  init?(text: String) {
    let parts = text.split(separator: ":").compactMap { UInt32($0) }
    guard parts.count == 2 else { return nil }
    self.init(major: parts[0], minor: parts[1])
  }
}
