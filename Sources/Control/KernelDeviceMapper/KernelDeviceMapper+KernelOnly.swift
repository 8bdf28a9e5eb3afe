import CDMThin
import Cdevmapper
public import DeviceMapper
import Glibc

extension KernelDeviceMapper: KernelOnlyCommands {
  /// See `KernelOnlyCommands`.
  public func measurements(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  {
    // For the driver this is a kind of status.
    let task = try queryTask(Int(DM_DEVICE_STATUS), .status, device)
    try unsafe task.set { unsafe dm_task_ima_measurement($0) }
    guard try runQuery(task, options),
      let info = try task.info(withReadAhead: options.contains(.readAhead))
    else { return nil }
    return DeviceTable(info: info, lines: task.lines())
  }

  /// See `KernelOnlyCommands`.
  public func setGeometry(
    _ device: DeviceReference, cylinders: String, heads: String, sectors: String, start: String
  ) throws(DeviceMapperError) {
    let task = try queryTask(Int(DM_DEVICE_SET_GEOMETRY), .setGeometry, device)
    try unsafe task.set { unsafe dm_task_set_geometry($0, cylinders, heads, sectors, start) }
    try runTask(task)
  }

  // MARK: - Cookies

  /// See `KernelOnlyCommands`.
  public func createUdevCookie() throws(DeviceMapperError) -> UInt32? {
    var cookie: UInt32 = 0
    try cookieCall { unsafe dm_udev_create_cookie(&cookie) }
    return cookie == 0 ? nil : cookie
  }

  /// See `KernelOnlyCommands`.
  public func completeUdevCookie(_ cookie: UInt32) throws(DeviceMapperError) {
    try cookieCall { dm_udev_complete(cookie) }
  }

  /// See `KernelOnlyCommands`.
  public func releaseUdevCookie(_ cookie: UInt32) throws(DeviceMapperError) {
    try cookieCall { dm_udev_wait(cookie) }
  }

  private func cookieCall(_ body: () -> Int32) throws(DeviceMapperError) {
    _ = LibraryLog.take()
    errno = 0
    let succeeded = body() != 0
    let code = errno
    let messages = LibraryLog.take().filter { $0.level <= 4 }.map(\.text)
    guard succeeded else {
      throw DeviceMapperError(
        .udevCookie, device: "", code: code == 0 ? EINVAL : code, messages: messages)
    }
    for message in messages { warn(message) }
  }

  /// See `KernelOnlyCommands`.
  public func udevCookies() throws(DeviceMapperError) -> [UdevCookie] {
    let path = "/proc/sysvipc/sem"
    guard let file = unsafe fopen(path, "re") else {
      throw DeviceMapperError(.udevCookie, device: path, code: errno)
    }
    defer { unsafe fclose(file) }
    var cookies: [UdevCookie] = []
    var line: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { unsafe free(line) }
    while unsafe getline(&line, &capacity, file) > 0 {
      guard let text = unsafe line else { break }
      // key id perms count uid gid cuid cgid otime ctime; the first line has no numbers.
      let words = unsafe String(cString: text).split { $0 == " " || $0 == "\n" }
      guard words.count >= 10, let key = Int32(words[0]).map({ UInt32(bitPattern: $0) }),
        key >> 16 == UdevCookie.magic, let id = Int32(words[1]),
        let operated = Int64(words[8]), let changed = Int64(words[9])
      else { continue }
      let value = dmthin_semaphore_value(id)
      // It may have been removed meanwhile.
      guard value >= 0 else { continue }
      cookies.append(
        UdevCookie(
          key: key, semaphore: id, value: value, lastOperation: operated, lastChange: changed))
    }
    return cookies
  }

  /// See `KernelOnlyCommands`.
  public func destroyUdevCookie(_ cookie: UdevCookie) -> Bool {
    dmthin_semaphore_remove(cookie.semaphore) == 0
  }
}
