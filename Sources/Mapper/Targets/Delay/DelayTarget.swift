public import DeviceMapper

/// `delay (DEVICE SECTOR MILLISECONDS)...`, one to three times: delays reads and writes.
public struct DelayTarget: TargetGrammar {
  /// The devices of the target. With fewer than three, the last one also has the roles of the rest.
  public enum Role: Hashable, Sendable { case reads, writes, flushes }

  /// The destination and the delay of one kind of I/O.
  public struct Class: Hashable, Sendable {
    /// Device and first sector.
    public var destination: DeviceStart
    /// Milliseconds.
    public var delay: UInt32
  }
  /// One for everything; or one for reads and one for the rest; or for reads, writes and flushes.
  public var classes: [Class]

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard [3, 6, 9].contains(words.count) else {
      throw TargetError("Requires exactly 3, 6 or 9 arguments")
    }
    classes = []
    let roles: [Role] = [.reads, .writes, .flushes]
    for (at, role) in zip(stride(from: 0, to: words.count, by: 3), roles) {
      guard let sector = KernelText.scanned(words[at + 1]) else {
        throw TargetError("Invalid device sector")
      }
      guard let delay = KernelText.scanned32(words[at + 2]) else {
        throw TargetError("Invalid delay")
      }
      try DeviceRequest(words[at], role).open(by: opener, orSay: "Device lookup failed")
      let destination = DeviceStart(device: words[at], sector: sector)
      classes.append(Class(destination: destination, delay: delay))
    }
  }

  /// The parameters in a table line.
  public var parameters: String {
    classes.map { "\($0.destination.parameters) \($0.delay)" }.joined(separator: " ")
  }
}
