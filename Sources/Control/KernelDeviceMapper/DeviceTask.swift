import Cdevmapper
import DeviceMapper
import Glibc

/// One command of libdevmapper with its results, which live as long as it does.
@safe struct DeviceTask: ~Copyable {
  private let handle: OpaquePointer
  /// The operation, for errors.
  let operation: DeviceMapperError.Operation
  /// The device's name in errors, unless the library names it.
  let device: String

  /// A command with the library's number `type`.
  init(_ type: Int, _ operation: DeviceMapperError.Operation, _ device: String)
    throws(DeviceMapperError)
  {
    self.operation = operation
    self.device = device
    _ = LibraryLog.take()
    guard let handle = unsafe dm_task_create(Int32(type)) else {
      throw Self.error(operation, device, code: errno)
    }
    unsafe self.handle = handle
  }

  deinit { unsafe dm_task_destroy(handle) }

  /// Sets a property, and throws if the library refuses it.
  borrowing func set(_ body: (OpaquePointer) -> Int32) throws(DeviceMapperError) {
    errno = 0
    guard unsafe body(handle) != 0 else {
      throw Self.error(operation, device, code: errno == 0 ? EINVAL : errno)
    }
  }

  /// Sets the device.
  borrowing func set(_ reference: DeviceReference) throws(DeviceMapperError) {
    switch reference {
    case .name(let name): try unsafe set { unsafe dm_task_set_name($0, name) }
    case .uuid(let uuid): try unsafe set { unsafe dm_task_set_uuid($0, uuid) }
    case .number(let number):
      // The library's numbers are signed, and -1 means none.
      guard let major = Int32(exactly: number.major), let minor = Int32(exactly: number.minor)
      else { throw DeviceMapperError(operation, device: device, code: ENXIO) }
      try unsafe set { unsafe dm_task_set_major_minor($0, major, minor, 1) }
    }
  }

  /// Adds the lines of a table.
  borrowing func add(_ table: [TableLine]) throws(DeviceMapperError) {
    for line in table {
      try unsafe set {
        unsafe dm_task_add_target($0, line.start, line.length, line.type, line.parameters)
      }
    }
  }

  /// Executes the command.
  /// - Returns: the library's messages of a successful command.
  borrowing func run() throws(DeviceMapperError) -> [LibraryLog.Line] {
    errno = 0
    guard unsafe dm_task_run(handle) != 0 else {
      let code = unsafe dm_task_get_errno(handle)
      throw Self.error(operation, device, code: code != 0 ? code : errno)
    }
    return LibraryLog.take()
  }

  /// The state in the answer; nil for a device that does not exist.
  /// - Parameter withReadAhead: whether to query the read-ahead too, which may add to the log.
  borrowing func info(withReadAhead: Bool = false) throws(DeviceMapperError) -> DeviceInfo? {
    var raw = dm_info()
    try unsafe set { unsafe dm_task_get_info($0, &raw) }
    guard raw.exists != 0 else { return nil }
    var readAhead: UInt32 = 0
    let hasReadAhead = unsafe withReadAhead && dm_task_get_read_ahead(handle, &readAhead) != 0
    return unsafe DeviceInfo(
      name: dm_task_get_name(handle).map { unsafe String(cString: $0) } ?? "",
      uuid: unsafe dm_task_get_uuid(handle).map { unsafe String(cString: $0) } ?? "",
      number: DeviceNumber(major: raw.major, minor: raw.minor), openCount: raw.open_count,
      eventNumber: raw.event_nr, targetCount: raw.target_count, isSuspended: raw.suspended != 0,
      isReadOnly: raw.read_only != 0, hasLiveTable: raw.live_table != 0,
      hasInactiveTable: raw.inactive_table != 0, isDeferredRemove: raw.deferred_remove != 0,
      isInternallySuspended: raw.internal_suspend != 0,
      readAhead: hasReadAhead ? readAhead : nil)
  }

  /// The targets in the answer.
  borrowing func lines() -> [TableLine] {
    var lines: [TableLine] = []
    var next: UnsafeMutableRawPointer?
    repeat {
      var (start, length): (UInt64, UInt64) = (0, 0)
      var type: UnsafeMutablePointer<CChar>?
      var parameters: UnsafeMutablePointer<CChar>?
      unsafe next = dm_get_next_target(handle, next, &start, &length, &type, &parameters)
      guard let type = unsafe type else { break }
      unsafe lines.append(
        TableLine(
          start: start, length: length, type: String(cString: type),
          parameters: parameters.map { unsafe String(cString: $0) } ?? ""))
    } while unsafe next != nil
    return lines
  }

  /// Passes the library's handle to `body`, for answers of other kinds.
  borrowing func withHandle<R>(_ body: (OpaquePointer) -> R) -> R { unsafe body(handle) }

  /// An error with the library's messages. If they name the command that failed, as in a creation,
  /// that command is used.
  private static func error(
    _ operation: DeviceMapperError.Operation, _ device: String, code: Int32
  ) -> DeviceMapperError {
    let messages = LibraryLog.take().filter { $0.level <= 4 }.map(\.text)
    var operation = operation
    for message in messages {
      let words = message.split(separator: " ", maxSplits: 4)
      guard words.count == 5, words[0] == "device-mapper:", words[2] == "ioctl",
        let named = DeviceMapperError.Operation(rawValue: String(words[1]))
      else { continue }
      operation = named
      break
    }
    return DeviceMapperError(
      operation, device: device, code: code == 0 ? EIO : code, messages: messages)
  }
}
