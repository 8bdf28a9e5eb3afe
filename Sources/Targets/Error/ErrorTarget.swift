import DataPath
public import DeviceMapper

/// `error`: all I/O fails. Whatever stands behind it is ignored.
public struct ErrorTarget: TargetGrammar {
  /// Understands a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Never>?) throws(TargetError) {}

  /// There are none.
  public var parameters: String { "" }
}

extension TargetType {
  /// All I/O fails.
  static let error = TargetType("error", version: (1, 5, 0), ErrorTarget.self, traits: .wildcard) {
    ErrorDriver($0)
  }
}

/// All I/O fails, as a driver's does that says nothing else.
private final class ErrorDriver: TargetDriver {
  override var flushCount: Int { 0 }
  /// Not until version 1.6 of the kernel's.
  override var takesDiscards: Bool { false }
}
