/// What only a backend of the kernel does, besides the commands that every backend has.
public protocol KernelOnlyCommands: AnyObject {
  /// A device's state, and of each of its targets what the kernel's measurement architecture is told
  /// when the table is loaded. Nil for a device that does not exist.
  func measurements(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// Sets what a device says of its geometry. The texts are the driver's to understand.
  func setGeometry(
    _ device: DeviceReference, cylinders: String, heads: String, sectors: String, start: String
  ) throws(DeviceMapperError)

  /// Makes a semaphore for udev's events to be gathered under.
  /// - Returns: what it is known by; nil where there is no udev to wait for.
  func createUdevCookie() throws(DeviceMapperError) -> UInt32?
  /// Tells whoever waits for a cookie that an event has been handled.
  func completeUdevCookie(_ cookie: UInt32) throws(DeviceMapperError)
  /// Waits until every event of a cookie has been handled, and removes it.
  func releaseUdevCookie(_ cookie: UInt32) throws(DeviceMapperError)
  /// The cookies that there are, in the system's order.
  func udevCookies() throws(DeviceMapperError) -> [UdevCookie]
  /// Removes a cookie whoever waits for it; false where the system does not let us.
  func destroyUdevCookie(_ cookie: UdevCookie) -> Bool
}

/// A semaphore by which udev tells that it has handled a device's events.
public struct UdevCookie: Hashable, Sendable {
  /// The upper 16 bits of the key of each of them.
  public static let magic: UInt32 = 0x0d4d

  /// What it is known by; its upper half is `magic`.
  public var key: UInt32
  /// The system's number of the set of semaphores.
  public var semaphore: Int32
  /// Events that are not handled yet, and one for whoever waits.
  public var value: Int32
  /// When it was last changed by anybody who waits or tells; seconds since 1970, 0 for never.
  public var lastOperation: Int64
  /// When it was made; seconds since 1970.
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
