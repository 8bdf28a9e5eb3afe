public import DeviceMapper

/// `striped COUNT CHUNK (DEVICE OFFSET)...`: chunks from several devices in turn.
public struct StripedTarget: TargetGrammar {
  /// The devices of the target; the first stripe is `stripe(0)`.
  public enum Role: Hashable, Sendable { case stripe(Int) }

  /// Sectors in a chunk; not 0.
  public var chunkSectors: UInt32
  /// The start of each stripe.
  public var stripes: [DeviceStart]

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard words.count >= 2 else { throw TargetError("Not enough arguments") }
    guard let count = KernelText.strict(words[0], max: UInt64(UInt32.max)), count > 0 else {
      throw TargetError("Invalid stripe count")
    }
    guard let chunk = KernelText.strict(words[1], max: UInt64(UInt32.max)), chunk > 0 else {
      throw TargetError("Invalid chunk_size")
    }
    guard line.length.isMultiple(of: count) else {
      throw TargetError("Target length not divisible by number of stripes")
    }
    guard (line.length / count).isMultiple(of: chunk) else {
      throw TargetError("Target length not divisible by chunk size")
    }
    guard UInt64(words.count) == 2 + 2 * count else {
      throw TargetError("Not enough destinations specified")
    }
    chunkSectors = UInt32(truncatingIfNeeded: chunk)
    stripes = []
    for at in stride(from: 2, to: words.count, by: 2) {
      let fault = "Couldn't parse stripe destination"
      guard let sector = KernelText.scanned(words[at + 1]) else { throw TargetError(fault) }
      try DeviceRequest(words[at], Role.stripe(stripes.count)).open(by: opener, orSay: fault)
      stripes.append(DeviceStart(device: words[at], sector: sector))
    }
  }

  /// The parameters in a table line.
  public var parameters: String {
    (["\(stripes.count) \(chunkSectors)"] + stripes.map(\.parameters)).joined(separator: " ")
  }
}
