import DataPath
public import DeviceMapper

/// `error`: fails all I/O. Parameters are ignored.
public struct ErrorTarget: TargetGrammar {
  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Never>?) throws(TargetError) {}

  /// Empty.
  public var parameters: String { "" }
}

extension TargetType {
  /// Fails all I/O.
  static let error = TargetType("error", version: (1, 5, 0), ErrorTarget.self, traits: .wildcard) {
    ErrorDriver($0)
  }
}

/// Fails all I/O, which is the default of a driver.
private final class ErrorDriver: TargetDriver {
  override var flushCount: Int { 0 }
  /// The kernel's target supports discards only since version 1.6.
  override var takesDiscards: Bool { false }
}
