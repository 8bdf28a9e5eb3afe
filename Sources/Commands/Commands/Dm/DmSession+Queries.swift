import BlockIO
import DeviceMapper
import Glibc

// Verbs that show devices.
extension DmSession {
  /// Runs `body` for the named device, or for every device.
  func each(_ operands: [String], _ body: (DeviceReference) throws -> Void) throws {
    if let device = optionalDevice(operands) { return try body(device) }
    let entries = try backend.list()
    guard !entries.isEmpty else { return try print("No devices found\n") }
    showsNames = true
    for entry in entries { try body(.name(entry.name)) }
  }

  /// The error of `info` and similar verbs for a device that does not exist.
  func doesNotExist() -> DmFailure { .failed("Device does not exist.") }

  // MARK: - info

  func info(_ operands: [String]) throws {
    try each(operands) { device in
      if let report {
        var options = queryOptions
        if report.needsReadAhead { options.insert(.readAhead) }
        guard let info = try backend.info(device, options) else { throw doesNotExist() }
        try report.add(info)
      } else {
        try showInfo(device)
      }
    }
  }

  /// Shows a device's state.
  func showInfo(_ device: DeviceReference) throws {
    guard let info = try backend.info(device, queryOptions.union(.readAhead)) else {
      throw doesNotExist()
    }
    try show(info)
  }

  private func show(_ info: DeviceInfo) throws {
    let state = info.isSuspended ? "SUSPENDED" : "ACTIVE"
    let readOnly = info.isReadOnly ? " (READ-ONLY)" : ""
    let deferred = info.isDeferredRemove ? " (DEFERRED REMOVE)" : ""
    let tables = [info.hasLiveTable ? "LIVE" : nil, info.hasInactiveTable ? "INACTIVE" : nil]
      .compactMap(\.self)
    var text = "Name:              \(info.name)\n"
    text += "State:             \(state)\(deferred)\(readOnly)\n"
    if let readAhead = info.readAhead { text += "Read Ahead:        \(readAhead)\n" }
    text += "Tables present:    \(tables.isEmpty ? "None" : tables.joined(separator: " & "))\n"
    if info.openCount != -1 { text += "Open count:        \(info.openCount)\n" }
    text += "Event number:      \(info.eventNumber)\n"
    text += "Major, minor:      \(info.number.major), \(info.number.minor)\n"
    text += "Number of targets: \(info.targetCount)\n"
    if !info.uuid.isEmpty { text += "UUID: \(info.uuid)\n" }
    try print(text + "\n")
  }

  // MARK: - status, table, ls

  func status(_ operands: [String]) throws {
    try each(operands) { device in
      guard let status = try backend.status(device, verboseOptions) else { throw doesNotExist() }
      try show(status)
    }
  }

  func table(_ operands: [String]) throws {
    try each(operands) { device in
      guard var table = try backend.table(device, verboseOptions) else {
        throw missing(.table, device)
      }
      if !arguments.has("showkeys") { table.lines = table.lines.map { withoutKeys($0) } }
      if arguments.has("concise") { try showConcise(table) } else { try show(table) }
    }
  }

  /// Query options, extended if the device's state is shown too.
  var verboseOptions: QueryOptions {
    isVerbose ? queryOptions.union(.readAhead) : queryOptions
  }

  /// Shows the lines of a table or status that have the selected type.
  func show(_ table: DeviceTable) throws {
    let wanted = arguments.text("target")
    let lines = table.lines.filter { wanted == nil || $0.type == wanted }
    if wanted != nil, lines.isEmpty { return }
    if isVerbose { try show(table.info) }
    let name = showsNames && !isVerbose ? "\(table.info.name): " : ""
    if lines.isEmpty { try print("\(name)\n") }
    for line in lines { try print("\(name)\(line)\n") }
    if isVerbose, showsNames { try print("\n") }
  }

  private func showConcise(_ table: DeviceTable) throws {
    let wanted = arguments.text("target")
    let lines = table.lines.filter { wanted == nil || $0.type == wanted }
    if wanted != nil, lines.isEmpty { return }
    let device = ConciseTable.Device(
      name: table.info.name, uuid: table.info.uuid, minor: table.info.number.minor,
      isReadOnly: table.info.isReadOnly, table: lines)
    try print((hasConcise ? ";" : "") + ConciseTable.text([device]))
    hasConcise = true
  }

  /// The line with zeros in place of keys. Names of keys in the kernel's keyring, which begin with
  /// a colon, are kept.
  private func withoutKeys(_ line: TableLine) -> TableLine {
    var words = line.parameters.split(separator: " ", omittingEmptySubsequences: false)
      .map { String($0) }
    switch line.type {
    case "crypt" where words.count > 1 && !words[1].hasPrefix(":"):
      words[1] = String(repeating: "0", count: words[1].utf8.count)
    case "integrity":
      for (index, word) in words.enumerated() {
        let parts = word.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3,
          ["internal_hash", "journal_crypt", "journal_mac"].contains(parts[0])
        else { continue }
        let zeros = String(repeating: "0", count: parts[2].utf8.count)
        words[index] = "\(parts[0]):\(parts[1]):\(zeros)"
      }
    default: return line
    }
    var line = line
    line.parameters = words.joined(separator: " ")
    return line
  }

  func list() throws {
    if arguments.has("tree") { return try DmTree(self).print() }
    let wanted = arguments.text("target")
    let entries = try backend.list()
    guard !entries.isEmpty else { return try print("No devices found\n") }
    for entry in entries {
      if let wanted {
        guard let table = try backend.status(.name(entry.name), queryOptions),
          table.lines.contains(where: { $0.type == wanted })
        else { continue }
      }
      if let command = arguments.text("exec") {
        try run(command, for: entry.name)
      } else if wanted != nil {
        try print("\(entry.name)\t(\(entry.number.major), \(entry.number.minor))\n")
      } else {
        try print("\(entry.name)\t(\(try name(entry.number) ?? "\(entry.number)"))\n")
      }
    }
  }

  /// The name that `-o` selects for a device number; nil without `-o`, and if there is no name.
  private func name(_ number: DeviceNumber) throws -> String? {
    switch arguments.text("options") {
    case "devname": try backend.blockDeviceName(number, prefersMapped: true)
    case "blkdevname": try backend.blockDeviceName(number, prefersMapped: false)
    default: nil
    }
  }

  /// Runs a command with the path of a device's node appended. Its exit status is ignored.
  private func run(_ command: String, for name: String) throws {
    try console.output.flush()
    let node = try backend.settings.deviceFolder.node(name)
    let words = command.split(separator: " ").map { String($0) } + [node]
    var pointers = unsafe words.map { unsafe strdup($0) } + [nil]
    defer { unsafe pointers.forEach { pointer in unsafe free(pointer) } }
    var child: pid_t = 0
    guard unsafe posix_spawnp(&child, words[0], nil, nil, &pointers, environ) == 0 else { return }
    var status: Int32 = 0
    while unsafe waitpid(child, &status, 0) < 0, errno == EINTR {}
  }

  // MARK: - The rest

  func dependencies(_ operands: [String]) throws {
    try each(operands) { device in
      guard let found = try backend.dependencies(device, queryOptions) else {
        throw missing(.deps, device)
      }
      if isVerbose { try showInfo(device) }
      let name = showsNames ? "\(found.info.name): " : ""
      let devices = try found.devices.map { number in
        " (\(try self.name(number) ?? "\(number.major), \(number.minor)"))"
      }
      try print("\(name)\(devices.count) dependencies\t:\(devices.joined())\n")
    }
  }

  func wait(_ operands: [String]) throws {
    var operands = operands[...]
    guard let device = optionDevice ?? operands.popFirst().map({ .name($0) }) else {
      throw DmFailure.failed("No device specified.")
    }
    let number = operands.first.map { UInt32(truncatingIfNeeded: leadingNumber($0)) } ?? 0
    guard try backend.wait(device, eventNumber: number, queryOptions) != nil else {
      throw missing(.wait, device)
    }
    if isVerbose { try showInfo(device) }
  }

  func targets() throws { for target in try backend.targets() { try show(target) } }

  func targetVersion(_ operands: [String]) throws {
    guard let type = operands.first else { return try targets() }
    guard let target = try backend.target(type) else {
      throw DeviceMapperError(.target, device: "\(type) ", code: EINVAL)
    }
    try show(target)
  }

  private func show(_ target: TargetVersion) throws {
    let gap = String(repeating: " ", count: max(0, 16 - target.name.utf8.count))
    let version = target.version
    try print("\(target.name)\(gap) v\(version.major).\(version.minor).\(version.patch)\n")
  }

  func version() throws {
    if let library = try backend.libraryVersion { try print("Library version:   \(library)\n") }
    try print("Driver version:    \(try backend.driverVersion())\n")
  }

  func splitName(_ operands: [String]) throws {
    guard let name = operands.first else { throw DmFailure.failed("No device specified.") }
    let isKnown = operands.count < 2 || operands[1].lowercased() == "lvm"
    try report?.add(
      DeviceInfo(
        name: name, uuid: isKnown ? "LVM-" : "", number: DeviceNumber(major: 0, minor: 0)))
  }
}
