import Glibc

/// A device of any kind, by its number.
public struct DeviceNumber: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// Major number, of the driver.
  public var major: UInt32
  /// Minor number, of the device.
  public var minor: UInt32

  /// A device by its number.
  public init(major: UInt32, minor: UInt32) {
    self.major = major
    self.minor = minor
  }

  /// `254:0`, as in tables.
  public var description: String { "\(major):\(minor)" }

  /// By major, then by minor.
  public static func < (left: DeviceNumber, right: DeviceNumber) -> Bool {
    (left.major, left.minor) < (right.major, right.minor)
  }
}

/// The way a command names a device.
public enum DeviceReference: Hashable, Sendable, CustomStringConvertible {
  case name(String)
  case uuid(String)
  case number(DeviceNumber)

  /// Its form in messages.
  public var description: String {
    switch self {
    case .name(let name): name
    case .uuid(let uuid): uuid
    case .number(let number): "\(number)"
    }
  }
}

/// A line of a table, or of a status, in which the parameters are the target's status.
public struct TableLine: Hashable, Sendable, CustomStringConvertible {
  /// First sector of 512 bytes.
  public var start: UInt64
  /// Number of sectors.
  public var length: UInt64
  /// Name of the target type, like `thin-pool`.
  public var type: String
  /// Everything after the type, unchanged: trailing blanks matter.
  public var parameters: String

  /// A line.
  public init(start: UInt64, length: UInt64, type: String, parameters: String) {
    self.start = start
    self.length = length
    self.type = type
    self.parameters = parameters
  }

  /// The line as dmsetup prints it: without parameters it ends with a blank.
  public var description: String { "\(start) \(length) \(type) \(parameters)" }
}

/// A device's state.
public struct DeviceInfo: Equatable, Sendable {
  /// Name, not mangled.
  public var name: String
  /// Uuid; empty if it has none.
  public var uuid: String
  /// Device number.
  public var number: DeviceNumber
  /// The number of times it is open, by tables of other devices too; -1 if it was not requested.
  public var openCount: Int32
  /// Number of the last event; counts from 0 and wraps.
  public var eventNumber: UInt32
  /// The number of targets in the requested table.
  public var targetCount: Int32
  /// Whether I/O is suspended.
  public var isSuspended: Bool
  /// Whether it is read-only.
  public var isReadOnly: Bool
  /// Whether it has a live table.
  public var hasLiveTable: Bool
  /// Whether it has an inactive table.
  public var hasInactiveTable: Bool
  /// Whether it will be removed when it is closed.
  public var isDeferredRemove: Bool
  /// Whether its target has suspended I/O itself.
  public var isInternallySuspended: Bool
  /// The read-ahead of the system, in sectors of 512 bytes; nil if unknown.
  public var readAhead: UInt32?

  /// A device that is not suspended and has no tables.
  public init(
    name: String, uuid: String = "", number: DeviceNumber, openCount: Int32 = 0,
    eventNumber: UInt32 = 0, targetCount: Int32 = 0, isSuspended: Bool = false,
    isReadOnly: Bool = false, hasLiveTable: Bool = false, hasInactiveTable: Bool = false,
    isDeferredRemove: Bool = false, isInternallySuspended: Bool = false, readAhead: UInt32? = nil
  ) {
    self.name = name
    self.uuid = uuid
    self.number = number
    self.openCount = openCount
    self.eventNumber = eventNumber
    self.targetCount = targetCount
    self.isSuspended = isSuspended
    self.isReadOnly = isReadOnly
    self.hasLiveTable = hasLiveTable
    self.hasInactiveTable = hasInactiveTable
    self.isDeferredRemove = isDeferredRemove
    self.isInternallySuspended = isInternallySuspended
    self.readAhead = readAhead
  }
}

/// A device's state with the requested lines.
public struct DeviceTable: Equatable, Sendable {
  /// State at the same moment.
  public var info: DeviceInfo
  /// One for each target.
  public var lines: [TableLine]

  /// State and lines.
  public init(info: DeviceInfo, lines: [TableLine]) {
    self.info = info
    self.lines = lines
  }
}

/// A device's state with the devices that its table uses.
public struct DeviceDependencies: Equatable, Sendable {
  /// State at the same moment.
  public var info: DeviceInfo
  /// The devices that its table has open.
  public var devices: [DeviceNumber]

  /// State and devices.
  public init(info: DeviceInfo, devices: [DeviceNumber]) {
    self.info = info
    self.devices = devices
  }
}

/// A device in the list of all.
public struct DeviceEntry: Hashable, Sendable {
  /// Name, not mangled.
  public var name: String
  /// Device number.
  public var number: DeviceNumber
  /// Number of its last event; nil if the backend does not list it.
  public var eventNumber: UInt32?
  /// Uuid; nil if the backend does not list it.
  public var uuid: String?

  /// An entry.
  public init(
    name: String, number: DeviceNumber, eventNumber: UInt32? = nil, uuid: String? = nil
  ) {
    self.name = name
    self.number = number
    self.eventNumber = eventNumber
    self.uuid = uuid
  }
}

/// A target type and its version.
public struct TargetVersion: Hashable, Sendable {
  /// Name of the type.
  public var name: String
  /// Interface changes, additions, corrections.
  public var version: (major: UInt32, minor: UInt32, patch: UInt32) {
    (numbers[0], numbers[1], numbers[2])
  }
  private var numbers: [UInt32]

  /// A type.
  public init(name: String, major: UInt32, minor: UInt32, patch: UInt32) {
    self.name = name
    numbers = [major, minor, patch]
  }
}

/// A command that failed.
public struct DeviceMapperError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The operation that failed, named as in the library's messages.
  public enum Operation: String, Sendable {
    case create, reload, clear, suspend, resume, remove, rename, message, info, status, table, deps
    case removeAll = "remove_all"
    case wait = "waitevent"
    case list = "names"
    case targets = "versions"
    case target = "target-version"
    case version
    case makeNodes = "mknodes"
    case setGeometry = "setgeometry"
    case udevCookie = "udev cookie"
  }

  /// The operation that failed. A creation with a table may fail as `reload` or `resume`.
  public let operation: Operation
  /// The device in messages: name, a blank, and uuid or `(major:minor)` if known.
  public let device: String
  /// The system's error number.
  public let code: Int32
  /// The library's messages, in its order; empty stands for the library's usual line about a failed
  /// command of the driver.
  public let messages: [String]

  /// An error of `operation`.
  public init(
    _ operation: Operation, device: String, code: Int32, messages: [String] = []
  ) {
    self.operation = operation
    self.device = device
    self.code = code
    self.messages = messages
  }

  /// An error of `operation` with lines for users that explain the number.
  public init(
    _ operation: Operation, device: String, code: Int32, explanation: [String]
  ) {
    let line = Self.line(operation, device, code)
    self.init(
      operation, device: device, code: code,
      messages: explanation.isEmpty ? [] : [line] + explanation)
  }

  private static func line(_ operation: Operation, _ device: String, _ code: Int32) -> String {
    unsafe "device-mapper: \(operation.rawValue) ioctl on \(device) failed: "
      + String(cString: strerror(code))
  }

  /// Lines for users that explain the number; the kernel has none.
  public var explanation: [String] {
    messages.first == Self.line(operation, device, code) ? Array(messages.dropFirst()) : []
  }

  /// The explanation of the number, or else its meaning for a pool.
  public var reason: String {
    if !explanation.isEmpty { return explanation.joined(separator: "\n  ") }
    switch code {
    case EILSEQ:
      return "the pool's metadata is damaged; check it with: thin_check METADATA"
    case ENODATA: return "no thin device has that id; list them with: thin_ls METADATA"
    default: return unsafe String(cString: strerror(code))
    }
  }

  /// One or more lines in dmsetup's words, which programs match.
  public var description: String {
    messages.isEmpty
      ? Self.line(operation, device, code) : messages.joined(separator: "\n")
  }
}
