/// Parses and prints the table lines of one target type. It opens nothing and does nothing else.
///
/// This target holds the grammars that commands need for any backend. Those that only the target's
/// driver needs are beside the driver.
public protocol TargetGrammar: Hashable, Sendable {
  /// The role of each device in a line: `pool` and `origin`, `leg(3)`.
  associatedtype Role: Hashable, Sendable = Never

  /// Parses a table line, with the constructor's checks in the kernel's order.
  /// - Parameter opener: opens devices when the constructor would; nil opens nothing.
  init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError)

  /// The parameters as the kernel prints them, blanks at the end included.
  var parameters: String { get }
}

extension TargetGrammar {
  /// Parses a table line without opening anything.
  public init(_ line: TableLine) throws(TargetError) { try self.init(line, opener: nil) }
}

/// `DEVICE SECTOR`: a position on another device.
public struct DeviceStart: Hashable, Sendable {
  /// Path or `major:minor`.
  public var device: String
  /// First sector.
  public var sector: UInt64

  /// Sector `sector` of `device`.
  public init(device: String, sector: UInt64) {
    self.device = device
    self.sector = sector
  }

  /// The parameters in a table line.
  public var parameters: String { "\(device) \(sector)" }
}
