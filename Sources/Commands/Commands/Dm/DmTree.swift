import DeviceMapper
import Glibc

/// `dmthin dm ls --tree`: shows which devices depend on which.
struct DmTree {
  /// The tree options of `-o`.
  struct Options {
    var showsNumber = true
    var showsBlockName = false
    var showsState = false
    var showsOpenCount = false
    var showsAccess = false
    var showsUUID = false
    var isInverted = false
    /// Nil selects it by the locale.
    var style: Style?
    var isCompact = false
    /// Whether lines end at the terminal's edge.
    var isTruncated = true

    /// Whether attributes follow each device, in brackets.
    var showsAttributes: Bool { showsState || showsOpenCount || showsAccess || showsUUID }

    /// Parses a list of words, separated by commas.
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
        case "ascii": style = .ascii
        case "utf": style = .utf
        case "vt100": style = .vt100
        case "compact": isCompact = true
        case "notrunc": isTruncated = false
        default: throw .commandLine("Tree options not recognised: \(text).")
        }
      }
    }
  }

  /// How lines between devices are drawn.
  enum Style {
    case ascii, utf, vt100

    /// Lines, by the letters of vt100's line-drawing characters: q is a horizontal line, x a
    /// vertical one, t and m are branches, m the last one of a device, w is where they begin.
    func drawn(_ letters: String) -> String {
      if self == .vt100 { return "\u{1b}(0\u{0f}\(letters)\u{1b}(B" }
      return letters.reduce(into: "") { text, letter in
        switch letter {
        case "q": text += self == .ascii ? "-" : "\u{2500}"
        case "x": text += self == .ascii ? "|" : "\u{2502}"
        case "t": text += self == .ascii ? "|" : "\u{251c}"
        case "m": text += self == .ascii ? "`" : "\u{2514}"
        case "w": text += self == .ascii ? "+" : "\u{252c}"
        default: text.append(letter)
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
  private let style: Style
  /// The width of a line in characters.
  private let lineMax: Int
  private var nodes: [DeviceNumber: Node] = [:]
  /// Devices in the order in which the walk reached them.
  private var order: [DeviceNumber] = []

  /// Queries all devices.
  init(_ session: DmSession) throws {
    self.session = session
    options = try Options(session.arguments.text("options"))
    unsafe setlocale(LC_CTYPE, "")
    let codeset = unsafe nl_langinfo(Int32(CODESET)).map { unsafe String(cString: $0) }
    style = options.style ?? (codeset == "UTF-8" ? .utf : .ascii)
    lineMax = options.isTruncated ? Self.terminalWidth : .max
    let backend = try session.backend
    for entry in try backend.list() {
      guard let found = try backend.dependencies(.name(entry.name), session.queryOptions) else {
        continue
      }
      let number = found.info.number
      // The devices below it come first if they are new, as in a walk downwards.
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

  /// The width of the output's terminal, or a default.
  private static var terminalWidth: Int {
    var size = winsize()
    guard unsafe ioctl(1, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 3 else { return 80 }
    return Int(size.ws_col)
  }

  /// Prints the tree.
  func print() throws {
    guard !order.isEmpty else { return try session.print("No devices found\n") }
    for number in order {
      guard let node = nodes[number], (options.isInverted ? node.below : node.above).isEmpty
      else { continue }
      // As in dmsetup, a device's attributes need a line of their own.
      if options.isCompact, !options.showsAttributes {
        var lines = [""]
        try addCompact(number, Position(column: 0, bars: []), &lines, depth: 0)
        for line in lines { try printLine(line) }
      } else {
        try print(number, line: "", prefix: "", depth: 0)
      }
    }
  }

  /// Prints a line, truncated at the terminal's width.
  private func printLine(_ line: String) throws {
    guard line.unicodeScalars.count > lineMax else { return try session.print(line + "\n") }
    try session.print(
      String(String.UnicodeScalarView(line.unicodeScalars.prefix(lineMax - 1))) + "...\n")
  }

  /// - Parameters:
  ///   - line: the text before the label; `prefix`: before those of its children.
  ///   - depth: levels below a root. The driver allows no cycles, but the answers are from different
  ///     moments.
  private func print(_ number: DeviceNumber, line: String, prefix: String, depth: Int) throws {
    guard let node = nodes[number] else { return }
    let text = try label(number, node.info)
    // A device outside device-mapper may have nothing to show; then its line is left out.
    if !text.isEmpty { try printLine(line + text) }
    let children = options.isInverted ? node.above : node.below
    guard depth < Self.depthMax else { return }
    for (index, child) in children.enumerated() {
      let isLast = index == children.count - 1
      let branch = " " + style.drawn(isLast ? "mq" : "tq")
      let below = isLast ? "   " : " \(style.drawn("x")) "
      try print(child, line: prefix + branch, prefix: prefix + below, depth: depth + 1)
    }
  }

  // MARK: - Compact

  private static let depthMax = 64

  /// The position of a device: the column of its label, and those of the lines to its left.
  private struct Position {
    var column: Int
    var bars: [Int]
  }

  /// Adds a device and the devices below it: the first child on the same line, each other one on a
  /// new line.
  private func addCompact(
    _ number: DeviceNumber, _ position: Position, _ lines: inout [String], depth: Int
  ) throws {
    guard let node = nodes[number], depth < Self.depthMax else { return }
    let text = try label(number, node.info)
    lines[lines.count - 1] += text
    let end = position.column + text.unicodeScalars.count
    let children = try (options.isInverted ? node.above : node.below).filter {
      try !label($0, nodes[$0]?.info).isEmpty
    }
    for (index, child) in children.enumerated() {
      let isLast = index == children.count - 1
      var below = Position(column: end + 3, bars: position.bars)
      if !isLast { below.bars.append(end + 1) }
      if index == 0 {
        let line = style.drawn(children.count == 1 ? "qqq" : "qwq")
        lines[lines.count - 1] += line
        // Dmsetup counts this line twice, the second time with the bytes that switch a terminal;
        // its later lines are indented by that much more.
        below.column += line.unicodeScalars.count
      } else {
        lines.append(indentation(position.bars, upTo: end + 1) + style.drawn(isLast ? "mq" : "tq"))
      }
      try addCompact(child, below, &lines, depth: depth + 1)
    }
  }

  private func indentation(_ bars: [Int], upTo column: Int) -> String {
    var text = ""
    var at = 0
    for bar in bars {
      text += String(repeating: " ", count: max(0, bar - at)) + style.drawn("x")
      at = bar + 1
    }
    return text + String(repeating: " ", count: max(0, column - at))
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
