import DataPath
public import DeviceMapper
import EventLoop
import Glibc

// The driver's commands.
extension UserspaceDeviceMapper {
  // MARK: - Making, loading, removing

  /// Creates a device. If a table is given, loads and resumes it; on failure the device is removed.
  public func create(_ request: DeviceCreation, _ completion: @escaping Completion) {
    loop.begin { self.createAndWait(request, completion) }
  }

  private func createAndWait(_ request: DeviceCreation, _ completion: @escaping Completion) {
    let device: MappedDevice
    do throws(DeviceMapperError) {
      if let major = request.major, major != Self.major, request.minor != nil {
        throw DeviceMapperError(
          .create, device: "\(request.name) \(request.uuid ?? "")", code: ENXIO,
          explanation: ["devices of this server have major number \(Self.major)"])
      }
      device = try makeDevice(
        name: request.name, uuid: request.uuid ?? "", minor: request.minor)
      if let table = request.table {
        do throws(DeviceMapperError) {
          try load(.name(request.name), table, readOnly: request.isReadOnly)
        } catch {
          destroy(device)
          throw error
        }
      }
    } catch {
      completion(.failure(error))
      return
    }
    guard request.table != nil else { return completion(.success(())) }
    resume(.number(device.number), []) { result in
      guard case .failure = result else { return completion(result) }
      self.loop.begin {
        self.destroy(device)
        completion(result)
      }
    }
  }

  /// Puts a table into the inactive slot, replacing the one there.
  public func load(_ reference: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    try loop.complete { () throws(DeviceMapperError) in
      try loading.with { () throws(DeviceMapperError) in
        try loadInTurn(try device(reference, .reload), table, readOnly: readOnly)
      }
    }
  }

  private func loadInTurn(_ device: MappedDevice, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    do throws(TargetError) {
      let new = try makeTable(table, for: device, readOnly: readOnly)
      if device.isRemoved {
        new.close()
        throw TargetError("the device was removed meanwhile", code: ENXIO)
      }
      let old = device.inactive
      device.inactive = new
      old?.close()
    } catch {
      throw self.error(.reload, device, error)
    }
  }

  /// Drops the inactive table.
  public func clear(_ reference: DeviceReference) throws(DeviceMapperError) {
    try loop.complete { () throws(DeviceMapperError) in
      try loading.with { () throws(DeviceMapperError) in
        let device = try device(reference, .clear)
        let old = device.inactive
        device.inactive = nil
        old?.close()
      }
    }
  }

  /// Removes a device that is not open.
  /// - Parameter deferred: whether an open device is removed when it is closed; then this succeeds.
  public func remove(_ reference: DeviceReference, deferred: Bool) throws(DeviceMapperError) {
    let device = try device(reference, .remove)
    if device.openCount > 0 {
      guard deferred else { throw busy(device) }
      device.isDeferredRemove = true
      return
    }
    guard !device.isBusy else {
      throw error(.remove, device, EBUSY, ["\(device.name) is being suspended or resumed"])
    }
    loop.complete { destroy(device) }
  }

  /// Removes every device that is not open, until no more can be removed.
  public func removeAll(deferred: Bool = false) {
    let removal = RemovalOfAll(self, isDeferred: deferred)
    loop.complete { while removal.step() {} }
  }

  /// Fails all I/O that waits for a resume or for space, before everything is removed.
  public func failWaiting() {
    for device in all {
      for driver in device.live?.drivers ?? [] { driver.pushBack() }
      device.failAll()
    }
  }

  /// Resumes suspended devices that other devices use, except pools, with their present tables, so that a
  /// removal of everything does not wait for them.
  public func resumeBelow() {
    for device in all where device.isSuspended && device.openCount > 0 && device.kept == nil {
      do throws(DeviceMapperError) { try clear(.number(device.number)) } catch { continue }
      resume(.number(device.number), []) { _ in }
    }
  }

  /// Gives another name.
  public func rename(_ reference: DeviceReference, to name: String) throws(DeviceMapperError) {
    let device = try device(reference, .rename)
    guard Self.isName(name) else {
      throw error(.rename, device, EINVAL, ["a name must have 1 to 127 bytes, without a slash"])
    }
    guard find(.name(name)) == nil else {
      throw error(.rename, device, EBUSY, ["a device '\(name)' already exists"])
    }
    setName(device, name)
    device.raiseEvent()
  }

  /// Gives a uuid to a device that has none.
  public func setUUID(_ reference: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    let device = try device(reference, .rename)
    guard (1...128).contains(uuid.utf8.count), device.uuid.isEmpty else {
      throw error(
        .rename, device, EINVAL, ["a uuid must have 1 to 128 bytes, and cannot be changed"])
    }
    guard find(.uuid(uuid)) == nil else {
      throw error(.rename, device, EBUSY, ["another device has the uuid '\(uuid)'"])
    }
    device.uuid = uuid
    device.raiseEvent()
  }

  // MARK: - Suspend and resume

  /// Runs a command of a device after the earlier ones are complete.
  private func inOrder(
    _ device: MappedDevice, _ body: @escaping (_ done: @escaping () -> Void) -> Void
  ) {
    let run = {
      device.isBusy = true
      body {
        device.isBusy = false
        if !device.commands.isEmpty { device.commands.removeFirst()() }
      }
    }
    if device.isBusy { device.commands.append(run) } else { run() }
  }

  /// Suspends a device. Succeeds if it is already suspended.
  public func suspend(
    _ reference: DeviceReference, _ options: SuspendOptions, _ completion: @escaping Completion
  ) {
    guard let device = find(reference) else {
      return completion(.failure(missing(reference, .suspend)))
    }
    inOrder(device) { done in
      self.suspendNow(device, options) {
        done()
        completion(.success(()))
      }
    }
  }

  private func suspendNow(
    _ device: MappedDevice, _ options: SuspendOptions, _ completion: @escaping () -> Void
  ) {
    guard !device.isSuspended else { return completion() }
    let noFlush = options.contains(.noFlush)
    let drivers = device.live?.drivers ?? []
    var waiting = drivers.count + 2
    let oneReady = {
      waiting -= 1
      guard waiting == 0 else { return }
      self.loop.begin {
        for driver in drivers { driver.postsuspend() }
        device.isSuspended = true
        device.isSuspending = false
        completion()
      }
    }
    device.isSuspending = true
    for driver in drivers { driver.presuspend(noFlush: noFlush, oneReady) }
    if noFlush { for driver in drivers { driver.pushBack() } }
    device.whenIdle(oneReady)
    oneReady()
  }

  /// Makes the inactive table live, if there is one, and resumes the device.
  public func resume(
    _ reference: DeviceReference, _ options: SuspendOptions, _ completion: @escaping Completion
  ) {
    guard let device = find(reference) else {
      return completion(.failure(missing(reference, .resume)))
    }
    let resume = { (done: @escaping () -> Void) in
      self.prepare(device) { refusal in
        if let refusal {
          done()
          return completion(.failure(refusal))
        }
        self.loop.begin {
          self.resume(device, options) {
            done()
            completion($0)
          }
        }
      }
    }
    inOrder(device) { done in self.loop.begin { resume(done) } }
  }

  /// Prepares the targets that are about to become live or to resume, and calls `body` with the
  /// first error.
  private func prepare(_ device: MappedDevice, _ body: @escaping (DeviceMapperError?) -> Void) {
    guard device.isSuspended || device.inactive != nil else { return body(nil) }
    let drivers = (device.inactive ?? device.live)?.drivers ?? []
    var waiting = drivers.count + 1
    var refusal: DeviceMapperError?
    let oneReady = { (error: DeviceMapperError?) in
      refusal = refusal ?? error
      waiting -= 1
      if waiting == 0 { body(refusal) }
    }
    for driver in drivers { driver.prepare(oneReady) }
    oneReady(nil)
  }

  private func resume(
    _ device: MappedDevice, _ options: SuspendOptions, _ completion: @escaping Completion
  ) {
    guard device.inactive != nil else {
      return completion(Result { () throws(DeviceMapperError) in try self.resumeNow(device) })
    }
    suspendNow(device, options) {
      completion(
        Result { () throws(DeviceMapperError) in
          // The targets of the next table can take over from those of the last one.
          let old = try self.swap(device)
          defer { old?.close() }
          try self.resumeNow(device)
        })
    }
  }

  /// Makes the inactive table live, unless a device below is too small. Returns the table before it.
  private func swap(_ device: MappedDevice) throws(DeviceMapperError) -> LiveTable? {
    guard let new = device.inactive else { return nil }
    device.inactive = nil
    do throws(TargetError) {
      try new.checkAreas()
    } catch {
      new.close()
      throw self.error(.resume, device, error)
    }
    let old = device.live
    device.live = new
    return old
  }

  private func resumeNow(_ device: MappedDevice) throws(DeviceMapperError) {
    guard device.isSuspended else { return }
    guard let live = device.live else {
      throw error(.resume, device, EINVAL, ["\(device.name) has no table"])
    }
    for driver in live.drivers {
      do throws(TargetError) {
        try driver.preresume()
      } catch {
        throw self.error(.resume, device, error)
      }
    }
    device.isSuspended = false
    for driver in live.drivers { driver.resume() }
    device.kept?.resumed(with: live)
    device.goOn()
  }

  // MARK: - Messages and queries

  /// Sends a message to the target at a sector of the live table.
  public func message(_ reference: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    let device = try device(reference, .message)
    return try loop.complete { () throws(DeviceMapperError) in
      try message(device, sector: sector, text)
    }
  }

  private func message(_ device: MappedDevice, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    do throws(MessageError) {
      if let core = try CoreMessage(text) {
        switch core {
        case .cancelDeferredRemove: device.isDeferredRemove = false
        }
        return nil
      }
      guard let live = device.live else { throw MessageError("no table") }
      guard sector < live.byteCount / 512 else {
        throw MessageError("Target message sector outside device.")
      }
      return try live.driver(at: sector * 512).message(text)
    } catch {
      log("\(device.name): \(error.message)")
      throw self.error(.message, device, error.code, [error.message] + error.explanation)
    }
  }

  /// A device's state; nil if it does not exist.
  public func info(_ reference: DeviceReference, _ options: QueryOptions) -> DeviceInfo? {
    find(reference)?.info(inactive: options.contains(.inactive))
  }

  /// The state and the status of each target. The status of a pool commits its metadata, unless
  /// `options` prevents it.
  public func status(_ reference: DeviceReference, _ options: QueryOptions) -> DeviceTable? {
    let noFlush = options.contains(.noFlush)
    return loop.complete { query(reference, options) { $0.status(noFlush: noFlush) } }
  }

  /// State and the table.
  public func table(_ reference: DeviceReference, _ options: QueryOptions) -> DeviceTable? {
    query(reference, options) { $0.table() }
  }

  private func query(
    _ reference: DeviceReference, _ options: QueryOptions, _ text: (TargetDriver) -> String
  ) -> DeviceTable? {
    guard let device = find(reference) else { return nil }
    let isInactive = options.contains(.inactive)
    let drivers = (isInactive ? device.inactive : device.live)?.drivers ?? []
    // A status may raise an event or change the mode: the state is queried after it.
    let lines = drivers.map {
      TableLine(start: $0.start, length: $0.length, type: $0.type.name, parameters: text($0))
    }
    return DeviceTable(info: device.info(inactive: isInactive), lines: lines)
  }

  /// The state and the devices below, the one opened last first.
  public func dependencies(_ reference: DeviceReference, _ options: QueryOptions)
    -> DeviceDependencies?
  {
    guard let device = find(reference) else { return nil }
    let isInactive = options.contains(.inactive)
    let table = isInactive ? device.inactive : device.live
    return DeviceDependencies(
      info: device.info(inactive: isInactive), devices: table?.dependencies ?? [])
  }

  /// All devices, ascending by name.
  public func list() -> [DeviceEntry] {
    all.map {
      DeviceEntry(
        name: $0.name, number: $0.number, eventNumber: $0.eventNumber, uuid: $0.uuid)
    }
  }

  /// The supported target types.
  public func targets() -> [TargetVersion] { TargetType.all.map(\.version) }

  /// The number of commands that wait for an event.
  public var waiterCount: Int { devices.values.reduce(0) { $0 + $1.eventWaiters.count } }

  /// Calls `completion` with the status once the event number differs from `eventNumber`, or with
  /// only the state once the device is removed.
  /// - Returns: a function that cancels the wait.
  @discardableResult
  public func wait(
    _ reference: DeviceReference, eventNumber: UInt32, _ options: QueryOptions,
    _ completion: @escaping (Result<DeviceTable, DeviceMapperError>) -> Void
  ) -> () -> Void {
    guard let device = find(reference) else {
      completion(.failure(missing(reference, .wait)))
      return {}
    }
    let answer = { [unowned self] in
      let status = device.isRemoved ? nil : self.status(.number(device.number), options)
      completion(.success(status ?? DeviceTable(info: device.info(inactive: false), lines: [])))
    }
    guard device.eventNumber == eventNumber else {
      answer()
      return {}
    }
    // Events are raised during other work, and a status may commit.
    let body = { [unowned self] in
      loop.set(LoopTimer { [unowned self] in loop.begin(answer) }, after: 0)
    }
    lastWaiter &+= 1
    let id = lastWaiter
    device.eventWaiters.append(.init(id: id, eventNumber: eventNumber, body: body))
    return { [weak device] in device?.eventWaiters.removeAll { $0.id == id } }
  }
}
