public import DeviceMapper

/// `linear DEVICE SECTOR`: sectors of another device, in order.
public struct LinearTarget: TargetGrammar {
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case source }

  /// The position of the first sector.
  public var source: DeviceStart

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard words.count == 2 else { throw TargetError("Invalid argument count") }
    guard let sector = KernelText.scanned(words[1]) else {
      throw TargetError("Invalid device sector")
    }
    try DeviceRequest(words[0], Role.source).open(by: opener, orSay: "Device lookup failed")
    source = DeviceStart(device: words[0], sector: sector)
  }

  /// The parameters in a table line.
  public var parameters: String { source.parameters }
}
