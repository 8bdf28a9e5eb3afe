import Glibc

/// Executes device-mapper's commands: the kernel, or a server in user space that answers like it.
/// Verbs of `dmthin dm` and `dmthin pool` use only this interface.
///
/// A backend is used by one thread at a time. Queries return nil for a device that does not exist;
/// commands throw ENXIO. Names and uuids are as users write them: the backend mangles them
/// (`NameMangling`) as `settings` says. A backend that waits for device nodes does so before it
/// returns.
public protocol DeviceMapperBackend: AnyObject {
  /// How commands are executed. May be changed between commands.
  var settings: BackendSettings { get set }
  /// Prints a warning about a command that succeeded, in lines for the user.
  var warn: (String) -> Void { get set }

  /// Creates a device. If a table is given, loads and resumes it; on failure the device is removed
  /// before this throws.
  func create(_ request: DeviceCreation) throws(DeviceMapperError)
  /// Puts a table into the inactive slot, replacing the one there.
  func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  /// Drops the inactive table. Succeeds if there is none.
  func clear(_ device: DeviceReference) throws(DeviceMapperError)
  /// Suspends a device. Succeeds if it is already suspended.
  func suspend(_ device: DeviceReference, _ options: SuspendOptions) throws(DeviceMapperError)
  /// Makes the inactive table live, if there is one, and resumes the device.
  /// - Parameter options: for the suspension that is needed to swap a live table.
  func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  /// Removes a device that is not open.
  /// - Parameters:
  ///   - deferred: whether an open device is removed when it is closed; then this succeeds.
  ///   - retry: whether to retry for about five seconds while it is open.
  func remove(_ device: DeviceReference, deferred: Bool, retry: Bool) throws(DeviceMapperError)
  /// Removes every device that is not open.
  /// - Parameter deferred: whether to remove the others when they are closed.
  func removeAll(deferred: Bool) throws(DeviceMapperError)
  /// Renames a device.
  func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError)
  /// Gives a uuid to a device that has none.
  func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError)
  /// Sends a message to the target at a sector of the live table. Returns the answer, if the
  /// message has one.
  func message(_ device: DeviceReference, sector: UInt64, _ text: String)
    throws(DeviceMapperError) -> String?

  /// A device's state.
  func info(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceInfo?
  /// A device's state and the status of each of its targets.
  func status(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// A device's state and its table. Keys of crypt are in it.
  func table(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// The devices that a table uses, in the order of the backend.
  func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  /// Blocks until the event number differs from `eventNumber`, or the device is removed. Throws
  /// EINTR after a signal.
  func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// Every device, in the order of the backend (the kernel's: ascending by name).
  func list() throws(DeviceMapperError) -> [DeviceEntry]
  /// The available target types, in the order of the backend.
  func targets() throws(DeviceMapperError) -> [TargetVersion]
  /// A target type; loads its module if necessary. Nil if it does not exist.
  func target(_ type: String) throws(DeviceMapperError) -> TargetVersion?
  /// The library's version, like `1.02.185 (2022-05-18)`; nil without a library.
  var libraryVersion: String? { get }
  /// The driver's version, like `4.47.0`.
  func driverVersion() throws(DeviceMapperError) -> String

  /// Creates and removes device nodes so that they match the existing devices. Nil means every
  /// device.
  func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError)
  /// The system's name of a block device of any kind: `dm-0`, `sda`. Nil if there is none.
  /// - Parameter prefersMapped: whether to prefer the device-mapper name, like `vg-pool`.
  func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String?

  /// Whether tables accept paths of files as well as block devices, because the backend opens them
  /// itself.
  var takesFiles: Bool { get }
  /// The path by which a device or file used by a table was opened, if only the backend knows it.
  func path(of number: DeviceNumber) -> String?
}

extension DeviceMapperBackend {
  /// Block devices only.
  public var takesFiles: Bool { false }
  /// Nil: the system knows.
  public func path(of number: DeviceNumber) -> String? { nil }
}

/// How a backend executes commands. Settings that do not apply to it are ignored.
public struct BackendSettings: Equatable, Sendable {
  /// How names and uuids with bytes that udev does not allow are stored.
  public var nameMangling = NameMangling.auto
  /// The folder of device nodes.
  public var deviceFolder = DeviceFolder.system
  /// Whether udev's rules make the nodes.
  public var usesUdevRules = true
  /// Whether to wait for udev after commands that change nodes.
  public var waitsForUdev = true
  /// Whether to make nodes that udev did not make, with a warning.
  public var verifiesUdev = false
  /// A cookie to gather udev's events under, for which the caller waits; nil makes one each time.
  public var udevCookie: UInt32?
  /// Whether the library checks more than the driver needs.
  public var checks = false
  /// Whether open counts are not needed.
  public var skipsOpenCount = false
  /// How much the library prints on standard error: 0 to 7, the number of dmsetup's `-v`.
  public var verbosity = 0

  /// Dmsetup's defaults without options and environment.
  public init() {}

  /// Settings from the environment of any program: DM_DEV_DIR is the folder of nodes, and
  /// DM_DEFAULT_NAME_MANGLING_MODE the storage of names. An invalid mode is ignored.
  public static func fromEnvironment() throws(DeviceFolder.Invalid) -> BackendSettings {
    var settings = BackendSettings()
    settings.deviceFolder = try .fromEnvironment()
    if let name = unsafe getenv("DM_DEFAULT_NAME_MANGLING_MODE").map({ unsafe String(cString: $0) }
    ),
      let mode = NameMangling(name)
    {
      settings.nameMangling = mode
    }
    return settings
  }
}

/// How a suspension treats I/O and file systems.
public struct SuspendOptions: OptionSet, Sendable {
  /// The set as bits.
  public let rawValue: UInt8
  /// A set from its bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Does not wait for I/O that the target has queued; it stays queued.
  public static let noFlush = SuspendOptions(rawValue: 1)
  /// Does not freeze a mounted file system.
  public static let noLockFS = SuspendOptions(rawValue: 2)
  /// Until the client disconnects: a server resumes the device when the connection that suspended
  /// it ends. The kernel ignores this option, and leaves the device suspended.
  public static let whileConnected = SuspendOptions(rawValue: 4)
}

/// The options of a query.
public struct QueryOptions: OptionSet, Sendable {
  /// The set as bits.
  public let rawValue: UInt8
  /// A set from its bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// Queries the inactive table instead of the live one.
  public static let inactive = QueryOptions(rawValue: 1)
  /// Does not commit a pool's metadata before its status.
  public static let noFlush = QueryOptions(rawValue: 2)
  /// Queries the read-ahead of the system too, for which the device's node may be opened.
  public static let readAhead = QueryOptions(rawValue: 4)
}

/// The parameters of a new device.
public struct DeviceCreation: Equatable, Sendable {
  /// Name, 1 to 127 bytes, without a slash.
  public var name: String
  /// Uuid of up to 128 bytes.
  public var uuid: String?
  /// The requested device number; nil lets the backend choose.
  public var major: UInt32?
  /// The requested minor number.
  public var minor: UInt32?
  /// A table to load and resume; nil creates a device without a table.
  public var table: [TableLine]?
  /// Whether the device is read-only.
  public var isReadOnly = false
  /// Options of its node.
  public var node = NodeOptions()

  /// A device called `name`.
  public init(name: String, uuid: String? = nil, table: [TableLine]? = nil) {
    self.name = name
    self.uuid = uuid
    self.table = table
  }
}

/// Options of a device's node; nil means the backend's default.
public struct NodeOptions: Equatable, Sendable {
  /// The time at which the node is made.
  public enum Moment: Sendable {
    case create, resume
  }
  /// The read-ahead of the system, in sectors of 512 bytes.
  public enum ReadAhead: Equatable, Sendable {
    case automatic
    case none
    case sectors(UInt32)
    case atLeast(sectors: UInt32)
  }
  /// The time at which the node is made.
  public var moment: Moment?
  /// The node's owner.
  public var owner: UInt32?
  /// The node's group.
  public var group: UInt32?
  /// The node's permissions.
  public var mode: UInt32?
  /// The read-ahead of the system.
  public var readAhead: ReadAhead?

  /// The backend's defaults.
  public init() {}
}
