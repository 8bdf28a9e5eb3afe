import DataPath
public import DeviceMapper

/// A device below a target, open. `close` once for each time that it was opened.
public final class OpenDevice {
  /// Its number; files, which have none, get one with major 0.
  public let number: DeviceNumber
  /// As it was named when it was opened first.
  public let text: String
  /// Where its requests go.
  public let destination: any DiskBelow
  /// The same, without the protocol's indirection.
  let direct: BlockDestination
  /// The userspace device that it is, if it is one.
  let mapped: MappedDevice?
  /// How many times it is open.
  var users = 0
  private let closed: (OpenDevice) -> Void

  init(
    number: DeviceNumber, text: String, destination: any DiskBelow,
    mapped: MappedDevice? = nil, closed: @escaping (OpenDevice) -> Void
  ) {
    self.number = number
    self.text = text
    self.destination = destination
    direct = destination
    self.mapped = mapped
    self.closed = closed
  }

  /// Size in sectors.
  var sectorCount: UInt64 { direct.byteCount / 512 }

  /// Keeps it open for as long as a pool needs it, whatever becomes of tables; does not count as
  /// another use of the device.
  func keep() { users += 1 }

  /// Ends a `keep`.
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
