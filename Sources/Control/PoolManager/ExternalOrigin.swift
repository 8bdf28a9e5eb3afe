/// The external origin given for a thin device: the device that is read where nothing is mapped.
public enum ExternalOrigin: Equatable, Sendable {
  /// Not given. Refused if the device had one at its last activation.
  case unstated
  /// None, even if the device had one before.
  case none
  /// The path of the origin, which must not be written to.
  case path(String)

  /// The path, if one is given.
  public var path: String? {
    if case .path(let path) = self { path } else { nil }
  }
}
