import Glibc

/// Whatever executes device-mapper's commands: the kernel, or a server in user space that answers
/// like it. Verbs of `dmthin dm` and `dmthin pool` know nothing else.
///
/// A backend is used by one thread at a time. Queries return nil for a device that does not exist;
/// commands throw ENXIO. Names and uuids are as users write them: mangling (`NameMangling`) happens
/// inside, as `settings` says. Whoever waits for device nodes to appear does so before returning.
public protocol DeviceMapperBackend: AnyObject {
  /// How commands are carried out; may be changed between commands.
  var settings: BackendSettings { get set }
  /// Told what went wrong in a command that went on all the same, in lines for the user.
  var warn: (String) -> Void { get set }

  /// Makes a device. With a table also loads and resumes it; if that fails the device is removed
  /// again before this throws.
  func create(_ request: DeviceCreation) throws(DeviceMapperError)
  /// Puts a table into the inactive slot, replacing what was there.
  func load(_ device: DeviceReference, _ table: [TableLine], readOnly: Bool)
    throws(DeviceMapperError)
  /// Drops the inactive table; success where there is none.
  func clear(_ device: DeviceReference) throws(DeviceMapperError)
  /// Suspends; success where it is suspended already.
  func suspend(_ device: DeviceReference, _ options: SuspendOptions) throws(DeviceMapperError)
  /// Makes the inactive table live, if there is one, and resumes.
  /// - Parameter options: for the suspension that swapping a live table takes.
  func resume(_ device: DeviceReference, _ options: SuspendOptions, node: NodeOptions)
    throws(DeviceMapperError)
  /// Removes a device that nobody has open.
  /// - Parameters:
  ///   - deferred: one that is open goes away when it is closed, and this succeeds.
  ///   - retry: tries for some five seconds while it is open.
  func remove(_ device: DeviceReference, deferred: Bool, retry: Bool) throws(DeviceMapperError)
  /// Removes every device that nobody has open.
  /// - Parameter deferred: the others when they are closed.
  func removeAll(deferred: Bool) throws(DeviceMapperError)
  /// Gives another name.
  func rename(_ device: DeviceReference, to name: String) throws(DeviceMapperError)
  /// Gives a uuid to a device that has none.
  func setUUID(_ device: DeviceReference, to uuid: String) throws(DeviceMapperError)
  /// Sends a message to the target that holds a sector of the live table, and returns the answer of
  /// those messages that have one.
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
  /// The devices that a table has opened, in the order of the backend.
  func dependencies(_ device: DeviceReference, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceDependencies?
  /// Blocks until the event number differs from `eventNumber`, or the device is removed.
  /// EINTR is thrown when a signal came.
  func wait(_ device: DeviceReference, eventNumber: UInt32, _ options: QueryOptions)
    throws(DeviceMapperError) -> DeviceTable?
  /// Every device, in the order of the backend (the kernel's: ascending by name).
  func list() throws(DeviceMapperError) -> [DeviceEntry]
  /// Target types that are there, in the order of the backend.
  func targets() throws(DeviceMapperError) -> [TargetVersion]
  /// One target type; loads what provides it. Nil where there is none.
  func target(_ type: String) throws(DeviceMapperError) -> TargetVersion?
  /// The library's version, like `1.02.185 (2022-05-18)`; nil where there is no library.
  var libraryVersion: String? { get }
  /// The driver's version, like `4.47.0`.
  func driverVersion() throws(DeviceMapperError) -> String

  /// Makes and removes nodes in the folder for them until they are those of the devices that exist; nil
  /// stands for every device.
  func makeNodes(_ device: DeviceReference?) throws(DeviceMapperError)
  /// What the system calls a block device of any kind: `dm-0`, `sda`. Nil where there is none.
  /// - Parameter prefersMapped: the device-mapper name where it is one, like `vg-pool`.
  func blockDeviceName(_ number: DeviceNumber, prefersMapped: Bool) -> String?

  /// Whether tables take files by path as well as block devices, because it is not the system that opens
  /// them.
  var takesFiles: Bool { get }
  /// The path by which a device or file below a table was opened, where only the backend knows.
  func path(of number: DeviceNumber) -> String?
}

extension DeviceMapperBackend {
  /// Block devices only.
  public var takesFiles: Bool { false }
  /// The system knows.
  public func path(of number: DeviceNumber) -> String? { nil }
}

/// How a backend carries out commands; what does not apply to it is ignored.
public struct BackendSettings: Equatable, Sendable {
  /// How names and uuids with bytes that udev does not allow are stored.
  public var nameMangling = NameMangling.auto
  /// Where nodes of devices are.
  public var deviceFolder = DeviceFolder.system
  /// Lets udev's rules make the nodes.
  public var usesUdevRules = true
  /// Waits for udev after commands that change nodes.
  public var waitsForUdev = true
  /// Makes nodes itself where udev did not, with a warning.
  public var verifiesUdev = false
  /// A cookie to gather udev's events under, which the caller waits for; nil makes one each time.
  public var udevCookie: UInt32?
  /// Has the library check more than the driver needs.
  public var checks = false
  /// Does not ask for open counts.
  public var skipsOpenCount = false
  /// How talkative the library is on standard error: 0 to 7 as dmsetup counts `-v`.
  public var verbosity = 0

  /// Settings of dmsetup without options and environment.
  public init() {}

  /// Settings that the environment asks of every program: DM_DEV_DIR names the folder of nodes, and
  /// DM_DEFAULT_NAME_MANGLING_MODE how names are stored; a mode that there is not is passed over.
  public static func fromEnvironment() throws(DeviceFolder.Invalid) -> BackendSettings {
    var settings = BackendSettings()
    settings.deviceFolder = try .fromEnvironment()
    if let name = getenv("DM_DEFAULT_NAME_MANGLING_MODE").map({ String(cString: $0) }),
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
  /// Does not wait for I/O that the target has pushed back; it is queued.
  public static let noFlush = SuspendOptions(rawValue: 1)
  /// Does not freeze a mounted file system.
  public static let noLockFS = SuspendOptions(rawValue: 2)
  /// For as long as the one who asks lives: a server resumes the device when the connection that
  /// suspended it has gone. The kernel does not know this, and leaves it suspended.
  public static let whileConnected = SuspendOptions(rawValue: 4)
}

/// What a query looks at.
public struct QueryOptions: OptionSet, Sendable {
  /// The set as bits.
  public let rawValue: UInt8
  /// A set from its bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// The inactive table instead of the live one.
  public static let inactive = QueryOptions(rawValue: 1)
  /// Does not commit the metadata of a pool for the sake of its status.
  public static let noFlush = QueryOptions(rawValue: 2)
  /// Finds out how far ahead the system reads too, for which the device's node may be opened.
  public static let readAhead = QueryOptions(rawValue: 4)
}

/// A device to be made.
public struct DeviceCreation: Equatable, Sendable {
  /// Name, 1 to 127 bytes, without a slash.
  public var name: String
  /// Uuid of up to 128 bytes.
  public var uuid: String?
  /// The wanted device number; the backend chooses where it is nil.
  public var major: UInt32?
  /// The wanted minor.
  public var minor: UInt32?
  /// A table to load and resume; nil makes a device without.
  public var table: [TableLine]?
  /// Whether the device refuses writes.
  public var isReadOnly = false
  /// About its node.
  public var node = NodeOptions()

  /// A device of `name`.
  public init(name: String, uuid: String? = nil, table: [TableLine]? = nil) {
    self.name = name
    self.uuid = uuid
    self.table = table
  }
}

/// What a device's node is to be; nil means the backend's habit.
public struct NodeOptions: Equatable, Sendable {
  /// When the node is made.
  public enum Moment: Sendable {
    case create, resume
  }
  /// How far ahead the system reads, in sectors of 512 bytes.
  public enum ReadAhead: Equatable, Sendable {
    case automatic
    case none
    case sectors(UInt32)
    case atLeast(sectors: UInt32)
  }
  /// When the node is made.
  public var moment: Moment?
  /// The node's owner.
  public var owner: UInt32?
  /// The node's group.
  public var group: UInt32?
  /// The node's permissions.
  public var mode: UInt32?
  /// How far ahead the system reads.
  public var readAhead: ReadAhead?

  /// The backend's habits.
  public init() {}
}
