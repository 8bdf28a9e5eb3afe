/// Commands that only a backend of the kernel has.
public protocol KernelOnlyCommands: AnyObject {
  /// A device's state, and what each of its targets reports to the kernel's measurement
  /// architecture (IMA) when the table is loaded. Nil for a device that does not exist.
  func measurements(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// Sets the geometry that a device reports. The driver parses the texts.
  func setGeometry(
    _ device: DeviceReference, cylinders: String, heads: String, sectors: String, start: String
  ) throws(DeviceMapperError)

  /// Creates a semaphore to gather udev's events under.
  /// - Returns: its key; nil without udev.
  func createUdevCookie() throws(DeviceMapperError) -> UInt32?
  /// Reports to a cookie that an event has been handled.
  func completeUdevCookie(_ cookie: UInt32) throws(DeviceMapperError)
  /// Waits until every event of a cookie has been handled, and removes it.
  func releaseUdevCookie(_ cookie: UInt32) throws(DeviceMapperError)
  /// The existing cookies, in the system's order.
  func udevCookies() throws(DeviceMapperError) -> [UdevCookie]
  /// Removes a cookie even if programs wait for it. Returns false if the system does not allow it.
  func destroyUdevCookie(_ cookie: UdevCookie) -> Bool
}

/// A semaphore with which udev reports that it has handled a device's events.
public struct UdevCookie: Hashable, Sendable {
  /// The upper 16 bits of the key of every cookie.
  public static let magic: UInt32 = 0x0d4d

  /// Its key; the upper half is `magic`.
  public var key: UInt32
  /// The system's number of the set of semaphores.
  public var semaphore: Int32
  /// The number of events not handled yet, plus one for the waiting program.
  public var value: Int32
  /// When its value was last changed, in seconds since 1970; 0 for never.
  public var lastOperation: Int64
  /// When it was created, in seconds since 1970.
  public var lastChange: Int64

  /// A cookie.
  public init(
    key: UInt32, semaphore: Int32, value: Int32, lastOperation: Int64, lastChange: Int64
  ) {
    self.key = key
    self.semaphore = semaphore
    self.value = value
    self.lastOperation = lastOperation
    self.lastChange = lastChange
  }
}
