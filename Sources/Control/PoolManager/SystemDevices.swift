import BlockIO
import CDMThin
public import DeviceMapper
import Glibc
public import ThinTools

/// Resolves paths and numbers of block devices given to verbs: those of the system, unless a
/// backend has its own.
public struct BlockDevices: Sendable {
  /// The number of the block device at a path.
  public var number: @Sendable (_ path: String) throws(ToolError) -> DeviceNumber
  /// Size in sectors of 512 bytes; nil for a missing device.
  public var sectors: @Sendable (DeviceNumber) -> UInt64?
  /// A path that opens the device.
  public var path: @Sendable (DeviceNumber, any DeviceMapperBackend) -> String

  /// Those of the system.
  public static let system = BlockDevices(
    number: { path throws(ToolError) in try SystemDevices.number(path) },
    sectors: { SystemDevices.sectors($0) }, path: { SystemDevices.path($0, $1) })

  /// Custom functions, for tests.
  public init(
    number: @escaping @Sendable (String) throws(ToolError) -> DeviceNumber,
    sectors: @escaping @Sendable (DeviceNumber) -> UInt64?,
    path: @escaping @Sendable (DeviceNumber, any DeviceMapperBackend) -> String
  ) {
    self.number = number
    self.sectors = sectors
    self.path = path
  }
}

extension BlockDevices {
  /// The word for `path` in a table line: its number, or the full path if the backend accepts
  /// files.
  func word(_ path: String, _ backend: any DeviceMapperBackend) throws(ToolError) -> String {
    guard backend.takesFiles else { return "\(try number(path))" }
    guard let full = unsafe realpath(path, nil) else {
      throw ToolError(
        .unsuitable(.input), unsafe "cannot open '\(path)': \(String(cString: strerror(errno)))")
    }
    defer { unsafe free(full) }
    return unsafe NameMangling.word(String(cString: full))
  }

  /// Size in sectors of 512 bytes of a device or file used by a table; nil if it is missing.
  func sectors(_ number: DeviceNumber, _ backend: any DeviceMapperBackend) -> UInt64? {
    guard let path = backend.path(of: number) else { return sectors(number) }
    var info = stat()
    guard unsafe stat(path, &info) == 0 else { return nil }
    guard info.st_mode & S_IFMT == S_IFREG else { return sectors(number) }
    return UInt64(max(0, info.st_size)) / 512
  }
}

/// Resolves block devices of the system.
enum SystemDevices {
  /// The number of the block device at `path`.
  static func number(_ path: String) throws(ToolError) -> DeviceNumber {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else {
      throw ToolError(
        .unsuitable(.input), unsafe "cannot open '\(path)': \(String(cString: strerror(errno)))")
    }
    guard info.st_mode & S_IFMT == S_IFBLK else {
      let what = info.st_mode & S_IFMT == S_IFREG ? "a file" : "not a block device"
      let help =
        info.st_mode & S_IFMT == S_IFREG
        ? ": the kernel requires a block device; attach it with: losetup --find --show \(path)" : ""
      throw ToolError(.unsuitable(.input), "'\(path)' is \(what)\(help)")
    }
    return DeviceNumber(major: gnu_dev_major(info.st_rdev), minor: gnu_dev_minor(info.st_rdev))
  }

  /// Size in sectors of 512 bytes; nil for a missing device.
  static func sectors(_ number: DeviceNumber) -> UInt64? {
    WholeFile.systemText("/sys/dev/block/\(number)/size").flatMap { UInt64($0) }
  }

  /// A path that opens the device.
  static func path(_ number: DeviceNumber, _ backend: any DeviceMapperBackend) -> String {
    if let path = backend.path(of: number) { return path }
    if let name = backend.blockDeviceName(number, prefersMapped: true) {
      let folder = backend.settings.deviceFolder
      for path in [folder.node(name), "\(folder.path)/\(name)", "/dev/\(name)"]
      where (try? self.number(path)) == number {
        return path
      }
    }
    return "/dev/block/\(number)"
  }

  /// Whether a device belongs to device-mapper.
  static func isMapped(_ number: DeviceNumber) -> Bool {
    WholeFile.systemText("/sys/dev/block/\(number)/dm/name") != nil
  }
}

extension DeviceNumber {
  /// Parses `major:minor`.
  init?(_ text: String) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2, let major = UInt32(parts[0]), let minor = UInt32(parts[1]) else {
      return nil
    }
    self.init(major: major, minor: minor)
  }
}
