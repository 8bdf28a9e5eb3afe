public import DeviceMapper
import Glibc

/// A type of target for tables of the userspace device-mapper. Each type is registered by a line in
/// `all` (TargetTypes.swift), and named nowhere else.
public final class TargetType: Sendable {
  /// Opens a device named in a table line.
  public typealias Opener = (_ text: String, _ access: DeviceAccess) throws(DeviceOpenError) -> Void

  /// Its name in tables.
  public let name: String
  /// The version of the kernel's target that it follows.
  public let version: TargetVersion
  /// Its restrictions on tables.
  public let traits: TargetTraits
  private let parser: @Sendable (TableLine, Opener?) throws(TargetError) -> any TargetGrammar
  private let maker: @Sendable (TargetPlace) throws(TargetError) -> TargetDriver

  /// A type with its grammar, and a function that makes its targets from parsed lines with their
  /// open devices.
  init<Grammar: TargetGrammar>(
    _ name: String, version: (major: UInt32, minor: UInt32, patch: UInt32),
    _ grammar: Grammar.Type, traits: TargetTraits = [],
    make: @escaping @Sendable (DriverContext<Grammar>) throws(TargetError) -> TargetDriver
  ) {
    self.name = name
    self.version = TargetVersion(
      name: name, major: version.major, minor: version.minor, patch: version.patch)
    self.traits = traits
    parser = { (line, opener) throws(TargetError) in
      guard let opener else { return try Grammar(line) }
      return try Grammar(line) { (request) throws(DeviceOpenError) in
        try opener(request.text, request.access)
      }
    }
    maker = { (place) throws(TargetError) in
      var devices = DevicesBelow<Grammar.Role>()
      do throws(TargetError) {
        let target = try Grammar(place.line) { (request) throws(DeviceOpenError) in
          devices.add(try place.open(request.text, request.access), as: request.role)
        }
        return try make(DriverContext(target: target, place: place, devices: devices))
      } catch {
        devices.close()
        throw error
      }
    }
  }

  /// Parses a table line, with those of the constructor's checks, in the kernel's order, that need
  /// no devices.
  /// - Parameter opener: opens devices when the constructor would; nil opens nothing.
  public func parse(_ line: TableLine, opener: Opener? = nil) throws(TargetError)
    -> any TargetGrammar
  { try parser(line, opener) }

  /// Makes a target. If it is refused, the devices that it opened are closed.
  func make(_ place: TargetPlace) throws(TargetError) -> TargetDriver { try maker(place) }

  private static let byName = Dictionary(all.map { ($0.name, $0) }) { first, _ in first }

  /// The type called `name` in tables.
  public static func named(_ name: String) -> TargetType? { byName[name] }
}

/// The place of a new target.
struct TargetPlace {
  let type: TargetType
  let line: TableLine
  unowned let device: MappedDevice
  /// Whether the table is read-only.
  let isReadOnly: Bool

  func open(_ text: String, _ access: DeviceAccess) throws(DeviceOpenError) -> OpenDevice {
    let mapper = device.mapper
    switch access {
    case .read: return try mapper.open(text, readOnly: true, user: device)
    case .readWrite: return try mapper.open(text, readOnly: false, user: device)
    case .table: return try mapper.open(text, readOnly: isReadOnly, user: device)
    case .readBeforeWrite:
      do throws(DeviceOpenError) {
        return try mapper.open(text, readOnly: false, user: device)
      } catch {
        guard error.code == EACCES || error.code == EROFS || error.code == EPERM else {
          throw error
        }
        return try mapper.open(text, readOnly: true, user: device)
      }
    }
  }
}

/// The open devices of a table line, by role.
struct DevicesBelow<Role: Hashable & Sendable> {
  /// The devices in the order in which they were opened.
  private(set) var all: [OpenDevice] = []
  private var roles: [Role: Int] = [:]

  mutating func add(_ device: OpenDevice, as role: Role) {
    roles[role] = all.count
    all.append(device)
  }

  /// The device of an optional role.
  subscript(role: Role) -> OpenDevice? { roles[role].map { all[$0] } }

  func close() { for device in all.reversed() { device.close() } }
}

/// The input for making a driver: a parsed line and its open devices.
struct DriverContext<Grammar: TargetGrammar> {
  let target: Grammar
  let place: TargetPlace
  let devices: DevicesBelow<Grammar.Role>

  var line: TableLine { place.line }
  var device: MappedDevice { place.device }

  /// The device of a required role.
  func device(_ role: Grammar.Role) throws(TargetError) -> OpenDevice {
    guard let device = devices[role] else { throw TargetError("no device is its \(role)") }
    return device
  }
}
