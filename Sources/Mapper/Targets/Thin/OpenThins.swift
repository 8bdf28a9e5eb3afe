import DataPath
import DeviceMapper
import EventLoop

/// A thin device that is open, however many targets have it.
final class OpenThin {
  let id: UInt64
  @safe @exclusivity(unchecked) var cache: MappingCache
  /// Changes of it were lost in an aborted transaction: flushes fail until it is opened again.
  private(set) var isAborted = false
  fileprivate var users = 0

  init(id: UInt64, blockCount: UInt64, _ budget: MemoryBudget) {
    self.id = id
    cache = MappingCache(blockCount: blockCount, budget)
  }

  /// Changes were taken back, and with `isLost` such of this device.
  fileprivate func abort(isLost: Bool) {
    if isLost { isAborted = true }
    cache.forgetAll()
  }
}

/// The thin devices of a pool that are open, their targets, and the devices that it holds while it is
/// suspended.
///
/// Invariants: a thin device is here as long as it has users. Each device that is held is released once.
final class OpenThins {
  private let worker: PoolWorker
  private var thins: [UInt64: OpenThin] = [:]
  private var drivers: [ThinDriver] = []
  private var held: [MappedDevice] = []
  /// Writes that wait for space are to be tried again.
  private var isRetryDue = false

  init(_ worker: PoolWorker) { self.worker = worker }

  // MARK: - Opening

  /// One more user of a thin device of `blockCount` blocks.
  func open(_ id: UInt64, blockCount: UInt64, _ budget: MemoryBudget) -> OpenThin {
    let thin = thins[id] ?? OpenThin(id: id, blockCount: blockCount, budget)
    thin.users += 1
    thins[id] = thin
    return thin
  }

  /// One user less.
  func close(_ thin: OpenThin) {
    thin.users -= 1
    if thin.users == 0 { thins[thin.id] = nil }
  }

  func add(_ driver: ThinDriver) { drivers.append(driver) }
  func remove(_ driver: ThinDriver) { drivers.removeAll { $0 === driver } }

  // MARK: - Mappings

  /// What thin device `id` had for itself is shared now.
  func noteSnapshot(of id: UInt64) { thins[id]?.cache.forgetAll() }

  /// Changes were taken back: of the devices for which `hasChanged` says so.
  func abort(_ hasChanged: (UInt64) -> Bool) {
    for thin in thins.values { thin.abort(isLost: hasChanged(thin.id)) }
  }

  // MARK: - Writes that wait for space

  /// Has them tried again in the next pass of the pool's work.
  func retryLater() {
    isRetryDue = true
    worker.schedule()
  }

  /// Tries them again, if that is due.
  func retry() {
    guard isRetryDue else { return }
    isRetryDue = false
    for driver in drivers { driver.retryHeld() }
  }

  /// Ends them.
  func fail(_ code: Int32) { for driver in drivers { driver.failHeld(code) } }

  // MARK: - Devices

  /// Holds all devices that have thin targets; calls `ready` when nothing of them is under way.
  func holdDevices(_ ready: @escaping () -> Void) {
    var devices: [MappedDevice] = []
    for driver in drivers where !devices.contains(where: { $0 === driver.device }) {
      devices.append(driver.device)
    }
    held += devices
    var waiting = devices.count + 1
    let oneReady = {
      waiting -= 1
      if waiting == 0 { ready() }
    }
    for device in devices { device.hold(oneReady) }
    oneReady()
  }

  /// The devices that were held go on.
  func releaseDevices() {
    let devices = held
    held = []
    for device in devices { device.release() }
  }
}
