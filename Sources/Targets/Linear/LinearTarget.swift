public import DeviceMapper

/// `linear DEVICE SECTOR`: sectors of another device, in order.
public struct LinearTarget: TargetGrammar {
  /// Devices below.
  public enum Role: Hashable, Sendable { case source }

  /// Where it begins.
  public var source: DeviceStart

  /// Understands a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard words.count == 2 else { throw TargetError("Invalid argument count") }
    guard let sector = KernelText.scanned(words[1]) else {
      throw TargetError("Invalid device sector")
    }
    try DeviceRequest(words[0], Role.source).open(by: opener, orSay: "Device lookup failed")
    source = DeviceStart(device: words[0], sector: sector)
  }

  /// As a table line has it.
  public var parameters: String { source.parameters }
}
