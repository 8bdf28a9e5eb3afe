/// What a table line says to targets of one type: text understood, and printed again. It opens nothing
/// and does nothing by itself.
///
/// Here are the grammars that commands need which work on any backend; those that only a target's
/// own code needs are beside that code.
public protocol TargetGrammar: Hashable, Sendable {
  /// What the devices that a line names are to the target: `pool` and `origin`, `leg(3)`.
  associatedtype Role: Hashable, Sendable = Never

  /// Understands a table line, with the constructor's checks in the kernel's order.
  /// - Parameter opener: opens devices when the constructor would; nil opens nothing.
  init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError)

  /// The parameters as the kernel prints them, blanks at the end included.
  var parameters: String { get }
}

extension TargetGrammar {
  /// Understands a table line without opening anything.
  public init(_ line: TableLine) throws(TargetError) { try self.init(line, opener: nil) }
}

/// `DEVICE SECTOR`: where on another device something begins.
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

  /// As a table line has it.
  public var parameters: String { "\(device) \(sector)" }
}
