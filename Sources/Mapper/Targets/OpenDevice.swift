public import DataPath
public import DeviceMapper

/// An open device of a target. Call `close` once for each time it was opened.
public final class OpenDevice {
  /// Its number. A disk that is no block device gets a number with major 0.
  public let number: DeviceNumber
  /// The name under which it was first opened.
  public let text: String
  /// Where its requests go.
  public let destination: any Disk
  /// The same, without the protocol's indirection.
  let direct: BlockDestination
  /// The identity of a disk; nil for a userspace device.
  let identity: DiskIdentity?
  /// The userspace device, if it is one.
  let mapped: MappedDevice?
  /// The number of times it is open.
  var users = 0
  private let closed: (OpenDevice) -> Void

  init(
    number: DeviceNumber, text: String, destination: any Disk, identity: DiskIdentity? = nil,
    mapped: MappedDevice? = nil, closed: @escaping (OpenDevice) -> Void
  ) {
    self.number = number
    self.text = text
    self.destination = destination
    direct = destination
    self.identity = identity
    self.mapped = mapped
    self.closed = closed
  }

  /// Size in sectors.
  var sectorCount: UInt64 { direct.byteCount / 512 }

  /// Keeps it open for a pool, even if all tables go away. Does not count as another use of the
  /// device.
  func keep() { users += 1 }

  /// Reverses a `keep`.
  func giveUp() {
    users -= 1
    if users == 0 { closed(self) }
  }

  /// Closes it once.
  public func close() {
    precondition(users > 0, "closed more often than opened")
    users -= 1
    mapped?.wasClosed()
    if users == 0 { closed(self) }
  }
}
