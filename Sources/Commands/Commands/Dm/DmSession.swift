import BlockIO
import DeviceMapper
import Glibc
import ServerControl

/// One run of `dmthin dm`: its options, and the backend.
final class DmSession {
  let arguments: DmArguments
  let console: Console
  /// Whether several devices are shown, each line starting with its name.
  var showsNames = false
  /// The report shared by all devices of a run; see `DmReport`.
  var report: DmReport?
  /// Whether the output of a concise table has begun.
  var hasConcise = false
  /// The cookie under which udev's events are gathered: from the option, or else from the
  /// environment.
  var cookie: UInt32?
  private let program: String
  private var made: (any DeviceMapperBackend)?

  init(_ arguments: DmArguments, program: String, console: Console) {
    self.arguments = arguments
    self.program = program
    self.console = console
  }

  /// The backend, made on first use, because help does not need it.
  var backend: any DeviceMapperBackend {
    get throws {
      if let made { return made }
      let backend = try makeBackend()
      backend.settings = try settings()
      backend.settings.udevCookie = cookie
      backend.warn = { [console] in console.note($0) }
      made = backend
      return backend
    }
  }

  private func makeBackend() throws(DmFailure) -> any DeviceMapperBackend {
    let name = arguments.text("backend")
    if let name, !["kernel", "userspace"].contains(name) {
      throw .commandLine("Unknown backend '\(name)': kernel and userspace are known.")
    }
    let choice = BackendChoice(backend: name, control: arguments.text("control"))
    if case .userspace(let control) = choice { return UserspaceClient(path: control) }
    guard let backend = console.makeDeviceMapper?() else {
      throw .failed("This program has no device-mapper in it.")
    }
    return backend
  }

  private func settings() throws(DmFailure) -> BackendSettings {
    var settings: BackendSettings
    do throws(DeviceFolder.Invalid) {
      settings = try .fromEnvironment()
    } catch {
      throw .invalidDeviceFolder
    }
    if let name = arguments.text("manglename") {
      guard let mode = NameMangling(name) else {
        throw .commandLine("Unknown name mangling mode.")
      }
      settings.nameMangling = mode
    }
    settings.usesUdevRules = !arguments.has("noudevrules")
    settings.waitsForUdev = !arguments.has("noudevsync")
    settings.verifiesUdev = arguments.has("verifyudev")
    settings.checks = arguments.has("checks")
    settings.skipsOpenCount = arguments.has("noopencount")
    settings.verbosity = max(0, arguments.count("verbose") - 1)
    return settings
  }

  // MARK: - Command line

  /// Parses the command line and runs the verb, once per device if there are several.
  func run() throws {
    try checkOptions()
    if arguments.has("version") { return try version() }
    guard let name = arguments.operands.first else {
      if arguments.has("help") { return try help([]) }
      throw DmFailure(lines: [Self.usage(program)])
    }
    if arguments.has("help") { return try help([]) }
    guard let verb = DmVerb.named(name) else {
      throw DmFailure(lines: ["Unknown command.", Self.usage(program)])
    }
    let operands = Array(arguments.operands.dropFirst())
    guard verb.operands.contains(operands.count) else {
      throw DmFailure(lines: ["Incorrect number of arguments.", Self.usage(program)])
    }
    takeCookie(Self.environmentCookie)
    try repeating {
      guard verb.repeats, operands.count > 1 else { return try verb.action(self, operands) }
      showsNames = true
      for operand in operands { try verb.action(self, [operand]) }
    }
  }

  /// Runs a verb as often as a report is wanted, and prints the report, even after an error.
  private func repeating(_ body: () throws -> Void) throws {
    guard isReport else { return try finishingConcise(body) }
    var left = arguments.number("count") ?? (arguments.has("interval") ? 0 : 1)
    let isEndless = left == 0
    while true {
      let report = try DmReport(self)
      self.report = report
      defer { self.report = nil }
      do {
        try body()
      } catch {
        try report.print()
        throw error
      }
      try report.print()
      left -= 1
      guard isEndless || left > 0 else { return }
      try print("\n")
      try console.output.flush()
      sleep(UInt32(clamping: max(1, arguments.number("interval") ?? 1)))
    }
  }

  private func finishingConcise(_ body: () throws -> Void) throws {
    defer { if hasConcise { try? print("\n") } }
    try body()
  }

  private func checkOptions() throws(DmFailure) {
    _ = try settings()
    takeCookie(arguments.text("udevcookie"))
    if arguments.has("major") != arguments.has("minor") {
      throw .commandLine("Please specify both major number and minor number.")
    }
    if let mode = arguments.text("mode"), UInt32(mode, radix: 8) == nil {
      throw .commandLine("Invalid argument for --mode: \(mode). ")
    }
    if let value = arguments.number("readahead"), value < -1 {
      throw .commandLine("Negative read ahead value (\(value)) is not understood.")
    }
    if arguments.has("table"), arguments.has("notable") {
      throw .commandLine("--table and --notable are incompatible.")
    }
    if arguments.has("addnodeonresume"), arguments.has("addnodeoncreate") {
      throw .commandLine("--addnodeonresume and --addnodeoncreate are incompatible.")
    }
    guard let options = arguments.text("options"), !isReport else { return }
    if arguments.has("tree") {
      _ = try DmTree.Options(options)
    } else if !["devno", "devname", "blkdevname"].contains(options) {
      throw .commandLine("Option not recognised: \(options).")
    }
  }

  /// Whether the verb prints columns.
  var isReport: Bool {
    let verb = arguments.operands.first
    return arguments.has("columns") || verb == "splitname"
  }

  /// The device of a verb that requires one: its operand, or the one that options name.
  func device(_ operands: [String]) throws(DmFailure) -> DeviceReference {
    guard let device = optionalDevice(operands) else { throw .failed("No device specified.") }
    return device
  }

  /// The device of a verb that works without one.
  func optionalDevice(_ operands: [String]) -> DeviceReference? {
    operands.first.map { .name($0) } ?? optionDevice
  }

  /// The device that options name.
  var optionDevice: DeviceReference? {
    if let uuid = arguments.text("uuid") { return .uuid(uuid) }
    guard let major = arguments.number("major"), let minor = arguments.number("minor") else {
      return nil
    }
    return .number(
      DeviceNumber(
        major: UInt32(truncatingIfNeeded: major), minor: UInt32(truncatingIfNeeded: minor)))
  }

  var isVerbose: Bool { arguments.has("verbose") }
  var suspendOptions: SuspendOptions {
    var options: SuspendOptions = []
    if arguments.has("noflush") { options.insert(.noFlush) }
    if arguments.has("nolockfs") { options.insert(.noLockFS) }
    return options
  }
  var queryOptions: QueryOptions {
    var options: QueryOptions = []
    if arguments.has("inactive") { options.insert(.inactive) }
    if arguments.has("noflush") { options.insert(.noFlush) }
    return options
  }

  /// An error of a command for a device that does not exist, in the library's words.
  func missing(_ operation: DeviceMapperError.Operation, _ device: DeviceReference)
    -> DeviceMapperError
  {
    let name =
      switch device {
      case .name(let name): "\(name) "
      case .uuid(let uuid): " \(uuid)"
      case .number(let number): " (\(number))"
      }
    return DeviceMapperError(operation, device: name, code: ENXIO)
  }

  func print(_ text: String) throws { try console.output.write(text) }

  // MARK: - Help

  /// `help`.
  func help(_ operands: [String]) throws {
    try print(Self.usage(program) + "\n")
    if isReport { try print("\n" + DmField.help) }
  }

  /// A summary of all verbs.
  static func usage(_ program: String) -> String {
    var text = "Usage: \(program) VERB [OPTIONS] ...\n\nVerbs:\n"
    for verb in DmVerb.all {
      for line in verb.synopsis.split(separator: "\n", omittingEmptySubsequences: false) {
        text += "    \(verb.names.joined(separator: "|")) \(line)\n"
      }
    }
    return text + "\nA DEVICE is a name, or in its place -u UUID, or -j MAJOR -m MINOR."
  }
}
