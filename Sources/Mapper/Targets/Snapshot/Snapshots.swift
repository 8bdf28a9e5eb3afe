import DataPath
import DeviceMapper
import EventLoop

/// The origins of a device-mapper with their snapshots.
final class Snapshots: MapperKept {
  let requests = RequestPool()
  private var groups: [DeviceNumber: OriginGroup] = [:]

  /// The snapshots of an origin, for a table line that names it, until `release`.
  func use(_ origin: OpenDevice) -> OriginGroup {
    let group = groups[origin.number] ?? OriginGroup()
    groups[origin.number] = group
    group.users += 1
    return group
  }

  /// Undoes a `use`.
  func release(_ origin: OpenDevice) {
    guard let group = groups[origin.number] else { return }
    group.users -= 1
    if group.users == 0 { groups[origin.number] = nil }
  }

  var bytes: Int {
    groups.values.reduce(requests.bytes) {
      $0 + $1.snapshots.reduce(0) { $0 + $1.exceptions.bytes }
    }
  }

  func returnMemory() { requests.trim() }
}

extension UserspaceDeviceMapper {
  var snapshots: Snapshots { keeping(Snapshots.self) }
}

/// An origin: a device below, its snapshots in all tables, and the tables through which it is written.
final class OriginGroup {
  /// Those with the largest chunks first, which is the order in which they get their exceptions.
  private(set) var snapshots: [SnapshotDriver] = []
  private var origins: [SnapshotOriginDriver] = []
  /// The number of table lines that name it.
  fileprivate(set) var users = 0

  // MARK: - Members

  func add(_ driver: SnapshotDriver) {
    let place = snapshots.firstIndex { $0.chunkBytes < driver.chunkBytes } ?? snapshots.count
    snapshots.insert(driver, at: place)
  }

  func remove(_ driver: SnapshotDriver) { snapshots.removeAll { $0 === driver } }

  /// Puts a snapshot whose chunks have another size now into its place.
  func moveToItsPlace(_ driver: SnapshotDriver) {
    remove(driver)
    add(driver)
  }

  func add(_ driver: SnapshotOriginDriver) { origins.append(driver) }
  func remove(_ driver: SnapshotOriginDriver) { origins.removeAll { $0 === driver } }

  /// The snapshots that have the same COW device: the one that is active, the one that is not yet, and how
  /// many there are.
  func sharing(_ cow: OpenDevice)
    -> (source: SnapshotDriver?, destination: SnapshotDriver?, count: Int)
  {
    var found: (source: SnapshotDriver?, destination: SnapshotDriver?, count: Int) = (nil, nil, 0)
    for driver in snapshots where driver.cow.number == cow.number {
      if driver.isActive { found.source = driver } else { found.destination = driver }
      found.count += 1
    }
    return found
  }

  /// The snapshot that is being merged into the origin, or will be.
  var merging: SnapshotMergeDriver? {
    for driver in snapshots { if let merging = driver as? SnapshotMergeDriver { return merging } }
    return nil
  }

  /// Devices through which the origin is written, other than `device`; one can be there twice.
  func devices(except device: MappedDevice) -> [MappedDevice] {
    let merged = merging.map { [$0.device] } ?? []
    return (origins.map { $0.device } + merged).filter { $0 !== device }
  }

  // MARK: - Writes to the origin

  /// Gives places to the chunks of `range` (bytes of the origin) in all snapshots that have none.
  /// - Returns: one of the runs that are pending, for which a write of the range has to wait and then to
  ///   ask again.
  func makeExceptions(_ range: Range<UInt64>) -> PendingRun? {
    var pending: PendingRun?
    for driver in snapshots where driver.takesExceptions {
      if let run = makeExceptions(range, driver) { pending = pending ?? run }
    }
    return pending
  }

  private func makeExceptions(_ range: Range<UInt64>, _ driver: SnapshotDriver) -> PendingRun? {
    let end = min(range.upperBound, driver.device.live?.byteCount ?? 0)
    guard range.lowerBound < end else { return nil }
    let exceptions = driver.exceptions
    let shift = driver.chunkShift
    let last = (end - 1) >> shift
    var chunk = range.lowerBound >> shift
    var pending: PendingRun?
    while chunk <= last {
      if let run = exceptions.pending(chunk) {
        pending = pending ?? run
        chunk = run.chunks.upperBound
        continue
      }
      if exceptions.find(chunk) != nil {
        chunk += 1
        continue
      }
      var next = chunk + 1
      while next <= last, exceptions.find(next) == nil, exceptions.pending(next) == nil {
        next += 1
      }
      guard let run = exceptions.begin(chunk, next - chunk, isWhole: false) else {
        exceptions.noSpace(forOwnWrite: false)
        return pending
      }
      exceptions.copy(run)
      pending = pending ?? run
      chunk = run.chunks.upperBound
    }
    return pending
  }

  /// Refuses a third table with the same COW device, and a second merge.
  func requireRoom(_ cow: OpenDevice, isMerge: Bool) throws(TargetError) {
    let (source, destination, count) = sharing(cow)
    guard count < 2, destination == nil else {
      throw TargetError("Snapshot cow pairing for exception table handover failed")
    }
    guard let source, isMerge else { return }
    guard merging == nil else { throw TargetError("A snapshot is already merging.") }
    guard source.exceptions.store.kind != .transient else {
      throw TargetError("Snapshot exception store does not support snapshot-merge.")
    }
  }

  /// Returns when it is on record of which snapshots that are invalid they are. The caller may have to wait.
  func waitForInvalidations() { for driver in snapshots { driver.exceptions.waitUntilRecorded() } }

  /// Has a write to the origin wait, if some snapshot is not ready for it.
  /// - Returns: whether it waits; its driver maps it again.
  func delays(_ part: RequestPointer) -> Bool {
    if snapshots.isEmpty { return false }
    let range = unsafe part.pointee.offset..<part.pointee.end
    if let run = makeExceptions(range) {
      unsafe run.wait(part)
      return true
    }
    for driver in snapshots where unsafe driver.exceptions.holds(part) { return true }
    return false
  }
}
