import BlockIO
import DeviceMapper
import Glibc

// Verbs that change devices.
extension DmSession {
  func create(_ operands: [String]) throws {
    if arguments.has("concise") { return try createConcise(operands) }
    guard let name = operands.first else {
      throw DmFailure.failed("Please provide a name for the new device.")
    }
    var request = DeviceCreation(name: name)
    if !arguments.has("notable") { request.table = try givenTable(operands.dropFirst().first) }
    request.uuid = arguments.text("uuid")
    request.major = arguments.number("major").map { UInt32(truncatingIfNeeded: $0) }
    request.minor = arguments.number("minor").map { UInt32(truncatingIfNeeded: $0) }
    try create(request)
  }

  private func create(_ request: DeviceCreation) throws {
    var request = request
    request.isReadOnly = request.isReadOnly || arguments.has("readonly")
    request.node = nodeOptions
    try backend.create(request)
    if isVerbose { try showInfo(.name(request.name)) }
  }

  private func createConcise(_ operands: [String]) throws {
    let excluded = ["table", "notable", "minor", "uuid", "inactive"]
    guard !excluded.contains(where: arguments.has) else {
      throw DmFailure.failed(
        "--concise is incompatible with --[no]table, --minor, --uuid and --inactive.")
    }
    guard operands.count <= 1 else {
      throw DmFailure.failed("dmsetup create --concise takes at most one argument")
    }
    var text: String
    if let given = operands.first {
      text = given
    } else {
      text = try readAll(0, name: "standard input")
      while text.hasSuffix("\n") { text.removeLast() }
    }
    try ConciseTable.parse(text) {
      (result: Result<ConciseTable.Device, ConciseTable.FormatError>)
        throws(any Error) in
      switch result {
      case .failure(let error): throw DmFailure(lines: error.messages + ["Command failed."])
      case .success(let device):
        var request = DeviceCreation(name: device.name, table: device.table)
        if !device.uuid.isEmpty { request.uuid = device.uuid }
        request.minor = device.minor
        request.isReadOnly = device.isReadOnly
        try self.create(request)
      }
    }
  }

  /// The table from an option, a file or standard input.
  private func givenTable(_ file: String?) throws -> [TableLine] {
    do throws(TableText.FormatError) {
      if let text = arguments.text("table") { return try TableText.parse(text) }
    } catch {
      throw DmFailure.failed(error.description)
    }
    let (text, source): (String, String)
    if let file {
      let descriptor = unsafe open(file, O_RDONLY | O_CLOEXEC)
      guard descriptor >= 0 else {
        throw DmFailure.failed("Couldn't open '\(file)' for reading.")
      }
      defer { close(descriptor) }
      (text, source) = (try readAll(descriptor, name: file), file)
    } else {
      (text, source) = (try readAll(0, name: "standard input"), "on stdin")
    }
    do throws(TableText.FormatError) {
      return try TableText.parse(text, source: source)
    } catch {
      throw DmFailure.failed(error.description)
    }
  }

  private func readAll(_ descriptor: Int32, name: String) throws -> String {
    /// Larger than a table with the most lines that the driver accepts.
    let bytesMax = 256 << 20
    let bytes = try WholeFile.bytes(of: descriptor, path: name, upTo: bytesMax)
    return String(decoding: bytes, as: UTF8.self)
  }

  func load(_ operands: [String]) throws {
    var operands = operands[...]
    guard let device = optionDevice ?? operands.popFirst().map({ .name($0) }) else {
      throw DmFailure.failed("Please specify device.")
    }
    guard operands.count <= 1 else { throw DmFailure.failed("Too many command line arguments.") }
    let table = try givenTable(operands.first)
    try backend.load(device, table, readOnly: arguments.has("readonly"))
    if isVerbose { try showInfo(device) }
  }

  private var nodeOptions: NodeOptions {
    var node = NodeOptions()
    if arguments.has("addnodeoncreate") { node.moment = .create }
    if arguments.has("addnodeonresume") { node.moment = .resume }
    node.owner = arguments.number("uid").map { UInt32(truncatingIfNeeded: $0) }
    node.group = arguments.number("gid").map { UInt32(truncatingIfNeeded: $0) }
    node.mode = arguments.text("mode").flatMap { UInt32($0, radix: 8) }
    guard let text = arguments.text("readahead") else { return node }
    let value = leadingNumber(text)
    let sectors = UInt32(truncatingIfNeeded: value)
    switch text {
    case "auto": node.readAhead = .automatic
    case "none": node.readAhead = NodeOptions.ReadAhead.none
    case _ where value < 0: node.readAhead = .automatic
    case _ where text.hasPrefix("+"): node.readAhead = .atLeast(sectors: sectors)
    default: node.readAhead = .sectors(sectors)
    }
    return node
  }

  func suspend(_ operands: [String]) throws {
    let device = try device(operands)
    try backend.suspend(device, suspendOptions)
    if isVerbose { try showInfo(device) }
  }

  func resume(_ operands: [String]) throws {
    let device = try device(operands)
    try backend.resume(device, suspendOptions, node: nodeOptions)
    if isVerbose { try showInfo(device) }
  }

  func clear(_ operands: [String]) throws {
    let device = try device(operands)
    try backend.clear(device)
    if isVerbose { try showInfo(device) }
  }

  func remove(_ operands: [String]) throws {
    let device = try device(operands)
    if arguments.has("force"), case .name = device { _ = try failAllIO(device) }
    try backend.remove(
      device, deferred: arguments.has("deferred"), retry: arguments.has("retry"))
  }

  func removeAll() throws {
    let deferred = arguments.has("deferred")
    try backend.removeAll(deferred: deferred)
    guard arguments.has("force") else { return }
    let left = try backend.list()
    guard !left.isEmpty else { return }
    for entry in left { _ = try failAllIO(.name(entry.name)) }
    try backend.removeAll(deferred: deferred)
    let count = try backend.list().count
    // As in dmsetup, this is not a failure.
    if count > 0 { console.note("Unable to remove \(count) device(s).") }
  }

  func wipeTable(_ operands: [String]) throws {
    guard let name = operands.first else { throw DmFailure.failed("No device specified.") }
    guard try failAllIO(.name(name)) else { throw DmFailure.failed() }
  }

  /// Replaces a table by one that fails all I/O. Prints errors; returns whether it succeeded.
  private func failAllIO(_ device: DeviceReference) throws -> Bool {
    let backend = try backend
    var length: UInt64 = 0
    do {
      guard let table = try backend.table(device, []) else { throw missing(.table, device) }
      length = table.lines.last.map { $0.start &+ $0.length } ?? 0
    } catch let error as DeviceMapperError {
      console.note(error.description)
    }
    let line = TableLine(start: 0, length: length, type: "error", parameters: "")
    do throws(DeviceMapperError) {
      try backend.load(device, [line], readOnly: arguments.has("readonly"))
    } catch {
      console.note(error.description)
      return false
    }
    do throws(DeviceMapperError) {
      try backend.resume(device, suspendOptions, node: NodeOptions())
      return true
    } catch {
      console.note(error.description)
      // The live table stays, and the inactive one is dropped.
      try? backend.clear(device)
      return false
    }
  }

  func rename(_ operands: [String]) throws {
    guard let new = operands.last else { throw DmFailure.failed("No device specified.") }
    let named = operands.count == 2 ? operands.first.map { DeviceReference.name($0) } : nil
    guard let device = named ?? optionDevice else {
      throw DmFailure.failed("No device specified.")
    }
    if arguments.has("setuuid") {
      try backend.setUUID(device, to: new)
    } else {
      try backend.rename(device, to: new)
    }
  }

  func message(_ operands: [String]) throws {
    var operands = operands[...]
    guard let device = optionDevice ?? operands.popFirst().map({ .name($0) }) else {
      throw DmFailure.failed("No device specified.")
    }
    guard let sector = operands.popFirst().flatMap({ Self.sector($0) }) else {
      throw DmFailure.failed("Invalid sector.")
    }
    if operands.isEmpty { console.note("No message supplied.") }
    if let answer = try backend.message(
      device, sector: sector, operands.joined(separator: " "))
    {
      try print(answer.hasSuffix("\n") ? answer : answer + "\n")
    }
  }

  /// The number at the start of a text.
  private static func sector(_ text: String) -> UInt64? {
    let digits = text.utf8.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    return digits.isEmpty ? nil : UInt64(Substring(digits)) ?? .max
  }

  func makeNodes(_ operands: [String]) throws {
    try backend.makeNodes(optionalDevice(operands))
  }
}
