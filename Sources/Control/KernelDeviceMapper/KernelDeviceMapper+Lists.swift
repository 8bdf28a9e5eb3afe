import CDMThin
import Cdevmapper
public import DeviceMapper
import Glibc

extension KernelDeviceMapper: DeviceEventSource {
  /// See `DeviceMapperBackend`.
  public func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  {
    let task = try queryTask(Int(DM_DEVICE_DEPS), .deps, device)
    guard try runQuery(task, options), let info = try task.info() else { return nil }
    let devices = unsafe task.withHandle { handle -> [DeviceNumber] in
      guard let deps = unsafe dm_task_get_deps(handle) else { return [] }
      // The numbers follow the count; Swift does not import an open-ended member.
      let bytes = UnsafeRawPointer(deps)
      return unsafe (0..<Int(deps.pointee.count)).map { index in
        unsafe DeviceNumber(
          encoded: bytes.loadUnaligned(fromByteOffset: 8 + index * 8, as: UInt64.self))
      }
    }
    return DeviceDependencies(info: info, devices: devices)
  }

  /// See `DeviceMapperBackend`.
  public func list() throws(DeviceMapperError) -> [DeviceEntry] {
    let task = try queryTask(Int(DM_DEVICE_LIST), .list)
    try runTask(task)
    return unsafe task.withHandle { handle in
      guard let names = unsafe dm_task_get_names(handle) else { return [] }
      var entry = UnsafeRawPointer(names)
      var entries: [DeviceEntry] = []
      while true {
        let number = unsafe entry.loadUnaligned(as: UInt64.self)
        if number == 0 { return entries }
        let next = unsafe entry.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
        let name = unsafe String(cString: (entry + 12).assumingMemoryBound(to: CChar.self))
        entries.append(
          DeviceEntry(
            name: settings.nameMangling.unmangled(name),
            number: DeviceNumber(encoded: number)))
        if next == 0 { return entries }
        unsafe entry += Int(next)
      }
    }
  }

  /// See `DeviceMapperBackend`.
  public func targets() throws(DeviceMapperError) -> [TargetVersion] {
    let task = try queryTask(Int(DM_DEVICE_LIST_VERSIONS), .targets)
    try runTask(task)
    return versions(task)
  }

  /// See `DeviceMapperBackend`.
  public func target(_ type: String) throws(DeviceMapperError) -> TargetVersion? {
    let task = try queryTask(Int(DM_DEVICE_GET_TARGET_VERSION), .target)
    try unsafe task.set { unsafe dm_task_set_name($0, type) }
    do {
      try runTask(task)
    } catch {
      // The driver's answer for an unknown type.
      if error.code == EINVAL || error.code == ENXIO { return nil }
      throw error
    }
    return versions(task).first
  }

  private func versions(_ task: borrowing DeviceTask) -> [TargetVersion] {
    unsafe task.withHandle { handle in
      guard let first = unsafe dm_task_get_versions(handle) else { return [] }
      var entry = UnsafeRawPointer(first)
      var result: [TargetVersion] = []
      while true {
        let number = { (index: Int) in
          unsafe entry.loadUnaligned(fromByteOffset: 4 + index * 4, as: UInt32.self)
        }
        unsafe result.append(
          TargetVersion(
            name: String(cString: (entry + 16).assumingMemoryBound(to: CChar.self)),
            major: number(0), minor: number(1), patch: number(2)))
        let next = unsafe entry.loadUnaligned(as: UInt32.self)
        if next == 0 { return result }
        unsafe entry += Int(next)
      }
    }
  }

  /// See `DeviceMapperBackend`.
  public var libraryVersion: String? {
    unsafe text { unsafe dm_get_library_version($0, $1) }
  }

  /// See `DeviceMapperBackend`.
  public func driverVersion() throws(DeviceMapperError) -> String {
    _ = LibraryLog.take()
    errno = 0
    guard let version = unsafe text({ unsafe dm_driver_version($0, $1) }) else {
      let code = errno
      let messages = LibraryLog.take().filter { $0.level <= 4 }.map(\.text)
      throw DeviceMapperError(
        .version, device: "", code: code == 0 ? ENODEV : code, messages: messages)
    }
    return version
  }

  /// See `DeviceMapperBackend`.
  public func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError) {
    var name: String?
    switch device {
    case nil: break
    case .name(let given): name = given
    case .uuid, .number:
      guard let device, let info = try info(device, []) else {
        throw DeviceMapperError(.makeNodes, device: "\(device?.description ?? "") ", code: ENXIO)
      }
      name = info.name
    }
    if let name {
      let task = try queryTask(Int(DM_DEVICE_MKNODES), .makeNodes, .name(name))
      try runTask(task)
      return dm_task_update_nodes()
    }
    _ = LibraryLog.take()
    guard dm_mknodes(nil) != 0 else {
      let messages = LibraryLog.take().filter { $0.level <= 4 }.map(\.text)
      throw DeviceMapperError(.makeNodes, device: "", code: EIO, messages: messages)
    }
    dm_task_update_nodes()
  }

  /// See `DeviceMapperBackend`.
  public func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String? {
    defer { _ = LibraryLog.take() }
    return unsafe text {
      unsafe dm_device_get_name(number.major, number.minor, prefersMapped ? 0 : 1, $0, $1)
    }
  }

  private func text(_ body: (UnsafeMutablePointer<CChar>, Int) -> Int32) -> String? {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { buffer in
      unsafe buffer.initialize(repeating: 0)
      guard let base = buffer.baseAddress, unsafe body(base, buffer.count) != 0 else { return nil }
      return unsafe String(cString: base)
    }
  }

  // MARK: - Events

  private var controlPath: String { settings.deviceFolder.node("control") }

  /// See `DeviceMapperBackend`.
  public func armEvents() throws(DeviceMapperError) {
    if control < 0 {
      // The library creates the node if it is missing.
      _ = try driverVersion()
      control = unsafe open(controlPath, O_RDWR | O_CLOEXEC)
    }
    guard control >= 0, dmthin_dm_arm_events(control) == 0 else {
      throw DeviceMapperError(.wait, device: controlPath, code: errno)
    }
  }

  /// See `DeviceMapperBackend`.
  public func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    var request = pollfd(fd: control, events: Int16(POLLIN), revents: 0)
    let ready = unsafe poll(&request, 1, milliseconds.map { max(0, $0) } ?? -1)
    guard ready >= 0 else {
      throw DeviceMapperError(.wait, device: controlPath, code: errno)
    }
    return ready > 0
  }

  /// See `DeviceEventSource`.
  public var eventDescriptor: Int32 { control }
  /// See `DeviceEventSource`.
  public var hasEvents: Bool { false }
}

extension DeviceNumber {
  /// Decodes a number in the driver's 64-bit form.
  fileprivate init(encoded number: UInt64) {
    let number = dev_t(truncatingIfNeeded: number)
    self.init(major: gnu_dev_major(number), minor: gnu_dev_minor(number))
  }
}
