/// What is said of the external origin of a thin device: what is read where nothing is mapped.
public enum ExternalOrigin: Equatable, Sendable {
  /// Nothing. Refused where the device had one when it was last activated.
  case unstated
  /// That it has none, though it may have had one.
  case none
  /// A path of it; it must not be written to.
  case path(String)

  /// The path, where one is said.
  public var path: String? {
    if case .path(let path) = self { path } else { nil }
  }
}
