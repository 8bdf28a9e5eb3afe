import DeviceMapper
import Glibc

/// `dmthin dm ls --tree`: which devices stand on which.
struct DmTree {
  /// What `-o` says of the tree.
  struct Options {
    var showsNumber = true
    var showsBlockName = false
    var showsState = false
    var showsOpenCount = false
    var showsAccess = false
    var showsUUID = false
    var isInverted = false
    /// Nil leaves it to the locale.
    var isASCII: Bool?

    /// Understands a list of words, separated by commas.
    init(_ text: String?) throws(DmFailure) {
      guard let text else { return }
      for word in text.split(separator: ",") {
        switch word {
        case "device": showsNumber = true
        case "nodevice": showsNumber = false
        case "blkdevname": showsBlockName = true
        case "active": showsState = true
        case "open": showsOpenCount = true
        case "rw": showsAccess = true
        case "uuid": showsUUID = true
        case "inverted": isInverted = true
        case "ascii": isASCII = true
        case "utf", "vt100": isASCII = false
        case "compact", "notrunc": break
        default: throw .commandLine("Tree options not recognised: \(text).")
        }
      }
    }
  }

  private struct Node {
    var info: DeviceInfo?
    var below: [DeviceNumber] = []
    var above: [DeviceNumber] = []
  }

  private let session: DmSession
  private let options: Options
  private let isASCII: Bool
  private var nodes: [DeviceNumber: Node] = [:]
  /// Devices in the order in which they were met.
  private var order: [DeviceNumber] = []

  /// Asks about every device.
  init(_ session: DmSession) throws {
    self.session = session
    options = try Options(session.arguments.text("options"))
    setlocale(LC_CTYPE, "")
    let codeset = nl_langinfo(Int32(CODESET)).map { String(cString: $0) }
    isASCII = options.isASCII ?? (codeset != "UTF-8")
    let backend = try session.backend
    for entry in try backend.list() {
      guard let found = try backend.dependencies(.name(entry.name), session.queryOptions) else {
        continue
      }
      let number = found.info.number
      // Its lower devices come first where they were not met before, as in a walk downwards.
      meet(number)
      nodes[number]?.info = found.info
      nodes[number]?.below = found.devices
      for device in found.devices {
        meet(device)
        nodes[device]?.above.append(number)
      }
    }
  }

  private mutating func meet(_ number: DeviceNumber) {
    guard nodes[number] == nil else { return }
    nodes[number] = Node()
    order.append(number)
  }

  /// Prints the tree.
  func print() throws {
    guard !order.isEmpty else { return try session.print("No devices found\n") }
    for number in order {
      guard let node = nodes[number], (options.isInverted ? node.below : node.above).isEmpty
      else { continue }
      try print(number, line: "", prefix: "", depth: 0)
    }
  }

  /// - Parameters:
  ///   - line: what stands before the label; `prefix`: before those of its children.
  ///   - depth: how far below a root; the driver allows no circles, but answers come from several
  ///     moments.
  private func print(_ number: DeviceNumber, line: String, prefix: String, depth: Int) throws {
    guard let node = nodes[number] else { return }
    let text = try label(number, node.info)
    // A device that is not of device-mapper may have nothing to show; then it has no line either.
    if !text.isEmpty { try session.print(line + text + "\n") }
    let children = options.isInverted ? node.above : node.below
    guard depth < 64 else { return }
    for (index, child) in children.enumerated() {
      let isLast = index == children.count - 1
      let branch =
        isASCII ? (isLast ? " `-" : " |-") : (isLast ? " \u{2514}\u{2500}" : " \u{251c}\u{2500}")
      let below = isLast ? "   " : isASCII ? " | " : " \u{2502} "
      try print(child, line: prefix + branch, prefix: prefix + below, depth: depth + 1)
    }
  }

  private func label(_ number: DeviceNumber, _ info: DeviceInfo?) throws -> String {
    var text = info?.name ?? ""
    if options.showsBlockName,
      let name = try session.backend.blockDeviceName(number, prefersMapped: false)
    {
      text += " <\(name)>"
    }
    if options.showsNumber { text += " (\(number))" }
    guard let info else { return text }
    var parts: [String] = []
    if options.showsState { parts.append(info.isSuspended ? "SUSPENDED" : "ACTIVE") }
    if options.showsAccess { parts.append(info.isReadOnly ? "RO" : "RW") }
    if options.showsOpenCount { parts.append("\(info.openCount)") }
    if options.showsUUID { parts.append(info.uuid) }
    return parts.isEmpty ? text : text + " [\(parts.joined(separator: ", "))]"
  }
}
