import DataPath
public import DeviceMapper
public import EventLoop
import Glibc

/// A backend over a `UserspaceDeviceMapper`, for callers outside its loop: commands that wait run
/// the loop. Not to be used from within the loop.
public final class UserspaceBackend: DeviceMapperBackend {
  /// The device-mapper that executes the commands.
  public let mapper: UserspaceDeviceMapper
  private let loop: EventLoop
  /// Settings of all pools.
  public var settings = BackendSettings()
  /// Prints warnings.
  public var warn: (String) -> Void = { _ in }
  /// See `DeviceMapperBackend`.
  public var libraryVersion: String? { nil }

  /// A backend over `mapper`, which belongs to `loop`.
  public init(_ mapper: UserspaceDeviceMapper, loop: EventLoop) {
    self.mapper = mapper
    self.loop = loop
  }

  private func run(_ command: (@escaping UserspaceDeviceMapper.Completion) -> Void)
    throws(DeviceMapperError)
  {
    var result: Result<Void, DeviceMapperError>?
    command { result = $0 }
    loop.run(until: { result != nil })
    if let result { try result.get() }
  }

  /// See `DeviceMapperBackend`.
  public func create(_ request: DeviceCreation) throws(DeviceMapperError) {
    try run { mapper.create(request, $0) }
  }
  /// See `DeviceMapperBackend`.
  public func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  { try mapper.load(device, table, readOnly: readOnly) }
  /// See `DeviceMapperBackend`.
  public func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    try mapper.clear(device)
  }
  /// See `DeviceMapperBackend`.
  public func suspend(_ device: DeviceReference, _ options: SuspendOptions)
    throws(DeviceMapperError)
  { try run { mapper.suspend(device, options, $0) } }
  /// See `DeviceMapperBackend`.
  public func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  { try run { mapper.resume(device, options, $0) } }
  /// See `DeviceMapperBackend`.
  public func remove(_ device: DeviceReference, deferred: Bool, retry: Bool)
    throws(DeviceMapperError)
  {
    for _ in 0..<(retry ? 24 : 0) {
      guard let found = mapper.find(device), found.openCount > 0 else { break }
      loop.run(within: 200_000_000) { found.openCount == 0 }
    }
    try mapper.remove(device, deferred: deferred)
  }
  /// See `DeviceMapperBackend`.
  public func removeAll(deferred: Bool) throws(DeviceMapperError) {
    mapper.removeAll(deferred: deferred)
  }
  /// See `DeviceMapperBackend`.
  public func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError) {
    try mapper.rename(device, to: name)
  }
  /// See `DeviceMapperBackend`.
  public func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    try mapper.setUUID(device, to: uuid)
  }
  /// See `DeviceMapperBackend`.
  public func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  { try mapper.message(device, sector: sector, text) }
  /// See `DeviceMapperBackend`.
  public func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  { mapper.info(device, options) }
  /// See `DeviceMapperBackend`.
  public func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  { mapper.status(device, options) }
  /// See `DeviceMapperBackend`.
  public func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  { mapper.table(device, options) }
  /// See `DeviceMapperBackend`.
  public func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  { mapper.dependencies(device, options) }
  /// See `DeviceMapperBackend`.
  public func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    var result: Result<DeviceTable, DeviceMapperError>?
    mapper.wait(device, eventNumber: eventNumber, options) { result = $0 }
    loop.run(until: { result != nil })
    return try result?.get()
  }
  /// See `DeviceMapperBackend`.
  public func list() throws(DeviceMapperError) -> [DeviceEntry] { mapper.list() }
  /// See `DeviceMapperBackend`.
  public func targets() throws(DeviceMapperError) -> [TargetVersion] { mapper.targets() }
  /// See `DeviceMapperBackend`.
  public func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? {
    mapper.targets().first { $0.name == type }
  }
  /// See `DeviceMapperBackend`.
  public func driverVersion() throws(DeviceMapperError) -> String {
    UserspaceDeviceMapper.driverVersion
  }
  /// See `DeviceMapperBackend`.
  public func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {}
  /// See `DeviceMapperBackend`.
  public func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? {
    guard let device = mapper.find(.number(number)) else { return nil }
    return prefersMapped ? device.name : "dm-\(number.minor)"
  }
  /// See `DeviceMapperBackend`.
  public var takesFiles: Bool { true }
  /// See `DeviceMapperBackend`.
  public func path(of number: DeviceNumber) -> String? { mapper.path(of: number) }
}
