import Glibc

/// The folder with the nodes of devices. DM_DEV_DIR sets it for libdevmapper's programs and for
/// lvm2. Device-mapper's nodes are in its subfolder `mapper`.
public struct DeviceFolder: Hashable, Sendable {
  /// Its absolute path, unchanged.
  public let path: String

  /// A path that cannot be the folder: it is relative, or too long for the system.
  public struct Invalid: Error, Equatable, CustomStringConvertible {
    /// The given path.
    public let path: String

    /// A sentence for the user about what to do.
    public var description: String {
      "DM_DEV_DIR is '\(path)', but must be an absolute path of a folder, like /dev; "
        + "correct it, or unset it"
    }
  }

  /// The system's folder, in which udev makes nodes.
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

  /// The folder in the environment, or else the system's.
  public static func fromEnvironment() throws(Invalid) -> DeviceFolder {
    guard let text = unsafe getenv(variable).map({ unsafe String(cString: $0) }), !text.isEmpty
    else {
      return system
    }
    return try DeviceFolder(text)
  }

  /// Whether udev makes the nodes here; compared by name, as the library does.
  public var isSystem: Bool { path == "/dev" || path == "/dev/" }

  /// The folder of device-mapper's nodes, like `/dev/mapper`.
  public var mapper: String { path.hasSuffix("/") ? "\(path)mapper" : "\(path)/mapper" }

  /// The path of a device's node.
  public func node(_ name: String) -> String { "\(mapper)/\(name)" }
}
