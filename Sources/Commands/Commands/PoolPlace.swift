import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import ServerControl
import ThinFormat
import ThinTools

/// The pool that a POOL argument selects.
enum PoolPlace {
  /// An active pool.
  case live(PoolManager, LivePool)
  /// The metadata device or file of a pool that is not active.
  case offline(String)

  /// Resolves the argument and `--backend`.
  ///
  /// With the backend auto, the path of anything but an active pool is metadata. A name without a
  /// slash is an active pool, unless a file of that name exists.
  init(_ arguments: ParsedArguments, console: Console) throws {
    let text = arguments.positionals[0]
    switch BackendChoice(arguments) {
    case .offline: self = .offline(text)
    case .automatic: self = try Self.automatic(text, arguments, console)
    case .kernel, .userspace:
      let manager = try PoolSites(arguments, console).all()[0].manager
      self = .live(manager, try manager.pool(Self.mappedName(text)))
    }
  }

  private static func automatic(_ text: String, _ arguments: ParsedArguments, _ console: Console)
    throws -> PoolPlace
  {
    let sites = PoolSites(arguments, console)
    var info = stat()
    let exists = unsafe stat(text, &info) == 0
    let isFile = exists && info.st_mode & S_IFMT != S_IFBLK
    // Without device-mapper, and for the path of a file, there is no active pool to look for.
    guard console.makeDeviceMapper != nil, !(isFile && text.contains("/")) else {
      return .offline(text)
    }
    if exists {
      guard let site = try? sites.site(of: text), site.manager.isPool(text) else {
        return .offline(text)
      }
      if isFile {
        throw ToolError(
          .refused,
          "'\(text)' is the name of an active pool and of a file; give --backend \(site.backend) for "
            + "the pool, or ./\(text) for the file")
      }
      return .live(site.manager, try site.manager.pool(text))
    }
    if text.hasPrefix("/") || text.hasPrefix(".") { return .offline(text) }
    let name = mappedName(text)
    let manager = try sites.site(of: name).manager
    return .live(manager, try manager.pool(name))
  }

  /// The device-mapper name of lvm2's pool `vg/pool`; any other text unchanged.
  static func mappedName(_ text: String) -> String {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else { return text }
    let doubled = parts.map { $0.split(separator: "-", omittingEmptySubsequences: false) }
      .map { $0.joined(separator: "--") }
    return "\(doubled[0])-\(doubled[1])-tpool"
  }
}

/// The selected device-mapper backend.
enum BackendChoice: Equatable {
  /// The one that has the pool, or metadata at rest, depending on the argument.
  /// - Parameter control: a server's control socket to search too.
  case automatic(control: String?)
  case kernel
  case offline
  /// A running `dmthin serve`, by its control socket.
  case userspace(control: String)

  /// The default control socket of a server.
  static let defaultControl = "/run/dmthin/control"

  /// Resolves `--backend` and `--control`, or else the environment: a control socket in
  /// DMTHIN_CONTROL has the same effect as `--control`.
  init(backend: String?, control: String?) {
    let environment = unsafe getenv("DMTHIN_CONTROL").map { unsafe String(cString: $0) }
    let path = control ?? environment.flatMap { $0.isEmpty ? nil : $0 }
    switch backend ?? (path == nil ? "auto" : "userspace") {
    case "kernel": self = .kernel
    case "offline": self = .offline
    case "userspace": self = .userspace(control: path ?? Self.defaultControl)
    default: self = .automatic(control: control)
    }
  }

  init(_ arguments: ParsedArguments) {
    self.init(backend: arguments.text("backend"), control: arguments.text("control"))
  }
}

extension PoolManager {
  /// A manager over the kernel's device-mapper that prints through `console`.
  static func makeForKernel(_ console: Console) throws(ToolError) -> PoolManager {
    guard let make = console.makeDeviceMapper else {
      throw ToolError(.refused, "this program has no device-mapper; use dmthin")
    }
    let backend = make()
    do throws(DeviceFolder.Invalid) {
      backend.settings = try .fromEnvironment()
    } catch {
      throw ToolError(.refused, error.description)
    }
    return self.make(backend, RunFolder(), console)
  }

  /// A manager over `backend` that prints through `console`.
  static func make(
    _ backend: any DeviceMapperBackend, _ folder: RunFolder, _ console: Console
  ) -> PoolManager {
    let manager = PoolManager(backend, runFolder: folder)
    manager.note = { [unowned console] in console.note("note: \($0)") }
    manager.warn = { [unowned console] in console.warning($0) }
    manager.backend.warn = { [unowned console] in console.warning($0) }
    return manager
  }
}

extension OptionSpec {
  /// The option for the place of a pool, active or not.
  static let poolBackend = OptionSpec(
    "backend",
    value: .required(placeholder: "WHERE", .choice(["auto", "kernel", "userspace", "offline"])),
    help: """
      Where the pool is: kernel, if active there; userspace, if a dmthin serve has it; offline, if \
      it is not active and its metadata is given. Default: auto, which looks in all three.
      """)

  /// The option for the place of an active pool.
  static let liveBackend = OptionSpec(
    "backend", value: .required(placeholder: "WHERE", .choice(["auto", "kernel", "userspace"])),
    help: """
      Which device-mapper: the kernel's, or userspace for that of a running dmthin serve. Default: \
      auto, the one that has the device.
      """)

  /// The option for the place where a new pool becomes active.
  static let newPoolBackend = OptionSpec(
    "backend", value: .required(placeholder: "WHERE", .choice(["auto", "kernel", "userspace"])),
    help: """
      Which device-mapper: the kernel's, or userspace for that of a running dmthin serve. Default: \
      auto, the kernel's if it has or can load the thin-pool target, and accepts the devices; \
      otherwise that of dmthin serve, which is started if needed and ends with its last device.
      """)

  /// The option to use the kernel only.
  static let noFallback = OptionSpec(
    "no-fallback", help: "Fail if the kernel cannot activate the pool.",
    conflicts: ["backend", "control"])

  /// The option to select a server.
  static let control = OptionSpec(
    "control", value: .required(placeholder: "PATH", .path),
    help: """
      The control socket of a running dmthin serve. Implies --backend userspace, as a path in \
      DMTHIN_CONTROL does. Default: /run/dmthin/control. With auto, all sockets in /run/dmthin, or \
      in the folder in DMTHIN_RUN, are searched.
      """)

  /// An option for thin devices with names; the help ends with the rule for sizes.
  public static func volume(_ help: String, form: String) -> OptionSpec {
    OptionSpec(
      "volume",
      value: .required(
        placeholder: form,
        .checked { text in
          do throws(VolumeSpec.Malformed) {
            _ = try VolumeSpec(text)
            return nil
          } catch {
            return error.description
          }
        }),
      help: "\(help) May be repeated. \(DeviceSize.rule)", isRepeatable: true)
  }

  /// An option for a size; the help ends with the rule for sizes.
  static func size(_ name: String, _ help: String, isRequired: Bool = false) -> OptionSpec {
    OptionSpec(
      name, value: .required(placeholder: "SIZE", .checked { sizeFault($0) }),
      help: "\(help) \(DeviceSize.rule)",
      isRequired: isRequired)
  }
}

extension PositionalSpec {
  /// An operand for a size; the help ends with the rule for sizes.
  static func size(_ help: String) -> PositionalSpec {
    PositionalSpec("SIZE", help: "\(help) \(DeviceSize.rule)")
  }

  /// The operand for an active pool.
  static let activePool = PositionalSpec(
    "POOL", help: "Name of an active pool, the path of its node, or VG/LV for one of lvm2.")
  /// The operand for a pool, active or not.
  static let pool = PositionalSpec(
    "POOL",
    help: "Name of an active pool, or metadata device or file of a pool that is not active.")
}

private func sizeFault(_ text: String) -> String? {
  do throws(DeviceSize.Malformed) {
    _ = try DeviceSize.sectors(text)
    return nil
  } catch {
    return error.description
  }
}

/// Parses an operand that is a size with a unit. Returns sectors.
func parsedSectors(_ text: String, _ operand: String) throws(UsageError) -> UInt64 {
  do throws(DeviceSize.Malformed) {
    return try DeviceSize.sectors(text)
  } catch {
    throw UsageError("invalid value '\(text)' for '<\(operand)>': \(error)")
  }
}

/// Parses an operand that is a whole number of at most `max`.
func number(_ text: String, _ operand: String, max: UInt64) throws(UsageError) -> UInt64 {
  guard let number = UInt64(text), number <= max else {
    throw UsageError(
      "invalid value '\(text)' for '<\(operand)>': expected a whole number from 0 to \(max)")
  }
  return number
}

/// Parses the id of a thin device.
func thinID(_ text: String, _ operand: String) throws(UsageError) -> ThinID {
  ThinID(try number(text, operand, max: Limits.deviceIDMax))
}

/// Parses a range `FIRST-LAST` of numbers, or a single number.
func idRange(_ text: String, _ operand: String, max: UInt64) throws(UsageError) -> [UInt64] {
  let parts = text.split(separator: "-", omittingEmptySubsequences: false).map { String($0) }
  guard parts.count == 2 else {
    let only = try number(text, operand, max: max)
    return [only, only]
  }
  let ends = (try number(parts[0], operand, max: max), try number(parts[1], operand, max: max))
  guard ends.0 <= ends.1 else {
    throw UsageError("invalid value '\(text)' for '<\(operand)>': the first comes after the last")
  }
  return [ends.0, ends.1]
}
