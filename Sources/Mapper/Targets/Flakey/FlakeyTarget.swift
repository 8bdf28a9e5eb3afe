public import DeviceMapper

/// `flakey DEVICE OFFSET UP DOWN [COUNT FEATURE...]`: linear that fails periodically.
public struct FlakeyTarget: TargetGrammar {
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case source }

  /// The replacement of a byte in a request's data.
  public struct Corruption: Hashable, Sendable {
    /// The position of the byte, from 1.
    public var byte: UInt32
    /// Whether writes are corrupted, rather than reads.
    public var isWrite: Bool
    /// The new value.
    public var value: UInt8
    /// Flags that a request must have to be corrupted.
    public var flags: UInt32
  }
  /// The treatment of writes while it fails; nil means the same as of reads.
  public enum Writes: String, Sendable {
    case drop = "drop_writes"
    case fail = "error_writes"
  }

  /// Device and first sector.
  public var source: DeviceStart
  /// Seconds for which it works.
  public var upSeconds: UInt32
  /// Seconds for which it fails.
  public var downSeconds: UInt32
  /// The treatment of writes while it fails.
  public var writes: Writes?
  /// The corruption of data while it fails.
  public var corruption: Corruption?

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    guard words.count >= 4 else { throw TargetError("Invalid argument count") }
    var arguments = ArgumentList(words)
    let device = arguments.shift() ?? ""
    guard let sector = KernelText.scanned(arguments.shift() ?? "") else {
      throw TargetError("Invalid device sector")
    }
    // The kernel has the same message for both intervals.
    let up = try arguments.number(in: 0...UInt32.max, orSay: "Invalid up interval")
    let down = try arguments.number(in: 0...UInt32.max, orSay: "Invalid up interval")
    guard up &+ down != 0 else { throw TargetError("Total (up + down) interval is zero") }
    guard up &+ down >= up else { throw TargetError("Interval overflow") }
    source = DeviceStart(device: device, sector: sector)
    (upSeconds, downSeconds) = (up, down)
    try parseFeatures(&arguments)
    try DeviceRequest(device, Role.source).open(by: opener, orSay: "Device lookup failed")
  }

  private mutating func parseFeatures(_ arguments: inout ArgumentList) throws(TargetError) {
    guard arguments.count > 0 else { return }
    // As in the kernel, the words of a corruption may exceed the count, which then wraps around.
    var left = try arguments.groupCount(max: 6, orSay: "Invalid number of feature args")
    while left > 0 {
      guard let word = arguments.shift() else {
        throw TargetError("Insufficient feature arguments")
      }
      left &-= 1
      if KernelText.isSame(word, Writes.drop.rawValue) {
        try set(.drop, other: .fail)
      } else if KernelText.isSame(word, Writes.fail.rawValue) {
        try set(.fail, other: .drop)
      } else if KernelText.isSame(word, "corrupt_bio_byte") {
        guard left > 0 else { throw TargetError("Feature corrupt_bio_byte requires parameters") }
        corruption = try Self.corruption(&arguments)
        left &-= 4
      } else {
        throw TargetError("Unrecognised flakey feature requested")
      }
    }
    if let writes, corruption?.isWrite == true {
      throw TargetError(
        "\(writes.rawValue) is incompatible with corrupt_bio_byte with the WRITE flag set")
    }
  }

  private mutating func set(_ new: Writes, other: Writes) throws(TargetError) {
    if writes == new { throw TargetError("Feature \(new.rawValue) duplicated") }
    if writes == other {
      throw TargetError("Feature \(new.rawValue) conflicts with feature \(other.rawValue)")
    }
    writes = new
  }

  private static func corruption(_ arguments: inout ArgumentList) throws(TargetError) -> Corruption
  {
    let byte = try arguments.number(in: 1...UInt32.max, orSay: "Invalid corrupt bio byte")
    let direction = arguments.shift() ?? ""
    let isWrite = KernelText.isSame(direction, "w")
    guard isWrite || KernelText.isSame(direction, "r") else {
      throw TargetError("Invalid corrupt bio direction (r or w)")
    }
    let value = try arguments.number(
      in: 0...255, orSay: "Invalid corrupt value to write into bio byte (0-255)")
    let flags = try arguments.number(in: 0...UInt32.max, orSay: "Invalid corrupt bio flags mask")
    return Corruption(
      byte: byte, isWrite: isWrite, value: UInt8(truncatingIfNeeded: value), flags: flags)
  }

  /// As the kernel prints it, with a blank at the end.
  public var parameters: String {
    let count = (writes == nil ? 0 : 1) + (corruption == nil ? 0 : 5)
    var text = "\(source.parameters) \(upSeconds) \(downSeconds) \(count) "
    if let writes { text += "\(writes.rawValue) " }
    if let corruption {
      text += "corrupt_bio_byte \(corruption.byte) \(corruption.isWrite ? "w" : "r") "
      text += "\(corruption.value) \(corruption.flags) "
    }
    return text
  }
}
