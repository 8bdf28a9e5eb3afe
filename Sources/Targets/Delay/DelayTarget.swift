public import DeviceMapper

/// `delay (DEVICE SECTOR MILLISECONDS)...`, one to three times: reads and writes take longer.
public struct DelayTarget: TargetGrammar {
  /// Devices below; with fewer than three, the last one stands for the rest as well.
  public enum Role: Hashable, Sendable { case reads, writes, flushes }

  /// Where one kind of I/O goes, and how late.
  public struct Class: Hashable, Sendable {
    /// Device and first sector.
    public var destination: DeviceStart
    /// Milliseconds.
    public var delay: UInt32
  }
  /// One for everything; or one for reads and one for the rest; or for reads, writes and flushes.
  public var classes: [Class]

  /// Understands a table line.
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

  /// As a table line has it.
  public var parameters: String {
    classes.map { "\($0.destination.parameters) \($0.delay)" }.joined(separator: " ")
  }
}
