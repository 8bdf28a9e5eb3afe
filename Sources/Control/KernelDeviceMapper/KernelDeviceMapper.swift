import CDMThin
import Cdevmapper
public import DeviceMapper
import Glibc

/// The kernel's device-mapper, through libdevmapper.
///
/// The library keeps its state in the process: two instances share its settings, and must not be
/// used at the same time. With udev, it waits until udev has handled each change. Without udev
/// (DM_DISABLE_UDEV), and in a folder of nodes that is not udev's, it makes the nodes itself.
public final class KernelDeviceMapper: DeviceMapperBackend {
  /// How commands are executed.
  public var settings = BackendSettings() { didSet { apply() } }
  /// Prints the library's messages about commands that succeed.
  public var warn: (String) -> Void = { _ in }
  var control: Int32 = -1

  /// Does not contact the kernel: a kernel without device-mapper shows at the first command.
  public init() {
    LibraryLog.install()
    // All commands share one descriptor of the driver.
    dm_hold_control_dev(1)
    apply()
  }

  deinit {
    if control >= 0 { close(control) }
    dm_hold_control_dev(0)
    dm_lib_release()
  }

  private func apply() {
    let mode =
      switch settings.nameMangling {
      case .none: DM_STRING_MANGLING_NONE
      case .hex: DM_STRING_MANGLING_HEX
      case .auto: DM_STRING_MANGLING_AUTO
      }
    _ = dm_set_name_mangling_mode(mode)
    _ = unsafe dm_set_dev_dir(settings.deviceFolder.path)
    dm_udev_set_sync_support(settings.waitsForUdev ? 1 : 0)
    // In another folder udev makes no nodes, so none is missing.
    dm_udev_set_checking(settings.verifiesUdev && settings.deviceFolder.isSystem ? 1 : 0)
    tell(LibraryLog.take())
  }

  private func tell(_ lines: [LibraryLog.Line]) {
    for line in lines where line.level <= 4 || settings.verbosity > 0 { warn(line.text) }
  }

  // MARK: - Command execution

  /// Creates a task with the settings common to all commands.
  private func task(
    _ type: Int, _ operation: DeviceMapperError.Operation, _ device: DeviceReference?
  ) throws(DeviceMapperError) -> DeviceTask {
    let name =
      switch device {
      case .name(let name): "\(name) "
      case .uuid(let uuid): " \(uuid)"
      case .number(let number): " (\(number))"
      case nil: ""
      }
    let task = try DeviceTask(type, operation, name)
    if let device { try task.set(device) }
    if settings.skipsOpenCount { try unsafe task.set { unsafe dm_task_no_open_count($0) } }
    if settings.checks { try unsafe task.set { unsafe dm_task_enable_checks($0) } }
    return task
  }

  private func run(_ task: borrowing DeviceTask) throws(DeviceMapperError) {
    tell(try task.run())
  }

  /// Runs a command that makes, renames or removes nodes, and waits until the nodes have changed.
  private func runChangingNodes(_ task: borrowing DeviceTask) throws(DeviceMapperError) {
    var cookie = settings.udevCookie ?? 0
    let isOurs = settings.udevCookie == nil
    var flags: Int32 = 0
    // If udev makes the nodes, the library must not: they would race.
    if settings.deviceFolder.isSystem, !settings.verifiesUdev || !isOurs {
      flags |= DM_UDEV_DISABLE_LIBRARY_FALLBACK
    }
    if !settings.usesUdevRules {
      flags |= DM_UDEV_DISABLE_DM_RULES_FLAG | DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG
    }
    try unsafe task.set {
      unsafe dm_task_set_cookie($0, &cookie, UInt16(truncatingIfNeeded: flags))
    }
    defer {
      // Also after a failure: the cookie is a semaphore of the system, and would remain.
      if isOurs { _ = dm_udev_wait(cookie) } else { dm_task_update_nodes() }
      tell(LibraryLog.take())
    }
    try run(task)
  }

  private func set(_ options: SuspendOptions, _ task: borrowing DeviceTask)
    throws(DeviceMapperError)
  {
    if options.contains(.noFlush) { try unsafe task.set { unsafe dm_task_no_flush($0) } }
    if options.contains(.noLockFS) { try unsafe task.set { unsafe dm_task_skip_lockfs($0) } }
  }

  private func set(_ node: NodeOptions, _ task: borrowing DeviceTask) throws(DeviceMapperError) {
    if let owner = node.owner { try unsafe task.set { unsafe dm_task_set_uid($0, owner) } }
    if let group = node.group { try unsafe task.set { unsafe dm_task_set_gid($0, group) } }
    if let mode = node.mode { try unsafe task.set { unsafe dm_task_set_mode($0, mode) } }
    if let moment = node.moment {
      let add = moment == .create ? DM_ADD_NODE_ON_CREATE : DM_ADD_NODE_ON_RESUME
      try unsafe task.set { unsafe dm_task_set_add_node($0, add) }
    }
    guard let readAhead = node.readAhead else { return }
    let (sectors, flags): (UInt32, UInt32) =
      switch readAhead {
      case .automatic: (.max, 0)
      case .none: (0, 0)
      case .sectors(let sectors): (sectors, 0)
      case .atLeast(let sectors): (sectors, UInt32(DM_READ_AHEAD_MINIMUM_FLAG))
      }
    try unsafe task.set { unsafe dm_task_set_read_ahead($0, sectors, flags) }
  }

  // MARK: - Commands

  /// See `DeviceMapperBackend`.
  public func create(_ request: DeviceCreation) throws(DeviceMapperError) {
    let task = try task(Int(DM_DEVICE_CREATE), .create, .name(request.name))
    if let uuid = request.uuid { try unsafe task.set { unsafe dm_task_set_uuid($0, uuid) } }
    if let major = request.major {
      try unsafe task.set { unsafe dm_task_set_major($0, Int32(truncatingIfNeeded: major)) }
    }
    if let minor = request.minor {
      try unsafe task.set { unsafe dm_task_set_minor($0, Int32(truncatingIfNeeded: minor)) }
    }
    if let table = request.table { try task.add(table) }
    if request.isReadOnly { try unsafe task.set { unsafe dm_task_set_ro($0) } }
    try set(request.node, task)
    // With a table, the library also loads and resumes it, and removes the device if either fails.
    try runChangingNodes(task)
  }

  /// See `DeviceMapperBackend`.
  public func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  {
    let task = try task(Int(DM_DEVICE_RELOAD), .reload, device)
    try task.add(table)
    if readOnly { try unsafe task.set { unsafe dm_task_set_ro($0) } }
    try run(task)
  }

  /// See `DeviceMapperBackend`.
  public func clear(_ device: DeviceReference) throws(DeviceMapperError) {
    try run(try task(Int(DM_DEVICE_CLEAR), .clear, device))
  }

  /// See `DeviceMapperBackend`.
  public func suspend(_ device: DeviceReference, _ options: SuspendOptions)
    throws(DeviceMapperError)
  {
    let task = try task(Int(DM_DEVICE_SUSPEND), .suspend, device)
    try set(options, task)
    try run(task)
  }

  /// See `DeviceMapperBackend`.
  public func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  {
    let task = try task(Int(DM_DEVICE_RESUME), .resume, device)
    try set(options, task)
    try set(node, task)
    try runChangingNodes(task)
  }

  /// See `DeviceMapperBackend`.
  public func remove(_ device: DeviceReference, deferred: Bool, retry: Bool)
    throws(DeviceMapperError)
  {
    let task = try task(Int(DM_DEVICE_REMOVE), .remove, device)
    if deferred { try unsafe task.set { unsafe dm_task_deferred_remove($0) } }
    if retry { try unsafe task.set { unsafe dm_task_retry_remove($0) } }
    try runChangingNodes(task)
  }

  /// See `DeviceMapperBackend`.
  public func removeAll(deferred: Bool) throws(DeviceMapperError) {
    let task = try task(Int(DM_DEVICE_REMOVE_ALL), .removeAll, nil)
    if deferred { try unsafe task.set { unsafe dm_task_deferred_remove($0) } }
    try run(task)
    try makeNodes(nil)
  }

  /// See `DeviceMapperBackend`.
  public func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError) {
    let task = try task(Int(DM_DEVICE_RENAME), .rename, device)
    try unsafe task.set { unsafe dm_task_set_newname($0, name) }
    try runChangingNodes(task)
  }

  /// See `DeviceMapperBackend`.
  public func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError) {
    let task = try task(Int(DM_DEVICE_RENAME), .rename, device)
    try unsafe task.set { unsafe dm_task_set_newuuid($0, uuid) }
    try runChangingNodes(task)
  }

  /// See `DeviceMapperBackend`.
  public func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?
  {
    let task = try task(Int(DM_DEVICE_TARGET_MSG), .message, device)
    try unsafe task.set { unsafe dm_task_set_sector($0, sector) }
    try unsafe task.set { unsafe dm_task_set_message($0, text) }
    try run(task)
    return unsafe task.withHandle {
      unsafe dm_task_get_message_response($0).map { unsafe String(cString: $0) }
    }
  }

  // MARK: - Queries

  /// See `DeviceMapperBackend`.
  public func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    let task = try task(Int(DM_DEVICE_INFO), .info, device)
    guard try runQuery(task, options) else { return nil }
    return try info(task, options)
  }

  /// See `DeviceMapperBackend`.
  public func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    try query(try task(Int(DM_DEVICE_STATUS), .status, device), options)
  }

  /// See `DeviceMapperBackend`.
  public func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    let task = try task(Int(DM_DEVICE_TABLE), .table, device)
    // The table may contain keys: the library wipes its memory.
    try unsafe task.set { unsafe dm_task_secure_data($0) }
    return try query(task, options)
  }

  /// See `DeviceMapperBackend`.
  public func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    let task = try task(Int(DM_DEVICE_WAITEVENT), .wait, device)
    try unsafe task.set { unsafe dm_task_set_event_nr($0, eventNumber) }
    return try query(task, options)
  }

  /// Runs a query. Returns false for a device that does not exist; some commands fail for those.
  func runQuery(_ task: borrowing DeviceTask, _ options: QueryOptions)
    throws(DeviceMapperError) -> Bool
  {
    if options.contains(.inactive) {
      try unsafe task.set { unsafe dm_task_query_inactive_table($0) }
    }
    if options.contains(.noFlush) { try unsafe task.set { unsafe dm_task_no_flush($0) } }
    do {
      try run(task)
      return true
    } catch {
      if error.code == ENXIO { return false }
      throw error
    }
  }

  /// The state in an answer. Prints the library's messages.
  private func info(_ task: borrowing DeviceTask, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  {
    let info = try task.info(withReadAhead: options.contains(.readAhead))
    tell(LibraryLog.take())
    return info
  }

  private func query(_ task: borrowing DeviceTask, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    guard try runQuery(task, options), let info = try info(task, options) else { return nil }
    return DeviceTable(info: info, lines: task.lines())
  }

  /// Creates a task for the queries in other files.
  func queryTask(
    _ type: Int, _ operation: DeviceMapperError.Operation, _ device: DeviceReference? = nil
  ) throws(DeviceMapperError) -> DeviceTask {
    try task(type, operation, device)
  }

  /// Runs a task for the queries in other files.
  func runTask(_ task: borrowing DeviceTask) throws(DeviceMapperError) { try run(task) }
}
