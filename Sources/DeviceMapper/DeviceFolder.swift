import Glibc

/// The folder with the nodes of devices. DM_DEV_DIR says where it is, to libdevmapper's programs and to
/// lvm2; its part for device-mapper is the folder `mapper` in it.
public struct DeviceFolder: Hashable, Sendable {
  /// Its path, absolute, as it was given.
  public let path: String

  /// A path that cannot be the folder: it is relative, or longer than the system takes.
  public struct Invalid: Error, Equatable, CustomStringConvertible {
    /// What was given.
    public let path: String

    /// A sentence that says what to do.
    public var description: String {
      "DM_DEV_DIR is '\(path)', and has to be an absolute path of a folder, like /dev; "
        + "set it right, or unset it"
    }
  }

  /// The system's own, which is where udev makes nodes.
  public static let system = DeviceFolder(unchecked: "/dev")
  private static let variable = "DM_DEV_DIR"

  private init(unchecked path: String) { self.path = path }

  /// The folder at `path`, which need not exist yet.
  public init(_ path: String) throws(Invalid) {
    guard path.hasPrefix("/"), path.utf8.count + "/mapper".utf8.count < Int(PATH_MAX) else {
      throw Invalid(path: path)
    }
    self.path = path
  }

  /// The folder that the environment names; the system's where it names none.
  public static func fromEnvironment() throws(Invalid) -> DeviceFolder {
    guard let text = getenv(variable).map({ String(cString: $0) }), !text.isEmpty else {
      return system
    }
    return try DeviceFolder(text)
  }

  /// Whether udev makes the nodes here: by name, as the library compares.
  public var isSystem: Bool { path == "/dev" || path == "/dev/" }

  /// The folder of device-mapper's nodes, like `/dev/mapper`.
  public var mapper: String { path.hasSuffix("/") ? "\(path)mapper" : "\(path)/mapper" }

  /// The path of the node of a device of that name.
  public func node(_ name: String) -> String { "\(mapper)/\(name)" }
}
