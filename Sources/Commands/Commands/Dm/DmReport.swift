import DeviceMapper

/// Collects the rows of `dmthin dm info -c` and prints them.
final class DmReport {
  private let session: DmSession
  private let fields: [DmField]
  private let keys: [(field: DmField, isReverse: Bool)]
  private let condition: DmCondition?
  private let showsSelected: Bool
  private var rows: [(row: DmField.Row, isSelected: Bool)] = []
  private var relations: [DeviceNumber: (below: [DmRelative], above: [DmRelative])]?

  /// A report with the columns that the options select.
  init(_ session: DmSession) throws {
    self.session = session
    let arguments = session.arguments
    let isName = arguments.operands.first == "splitname"
    let standard = isName ? DmField.nameParts : DmField.standard
    var names = standard
    if let text = arguments.text("options") {
      let words = text.drop { $0 == "+" }.split(separator: ",").map { String($0) }
      names = (text.hasPrefix("+") ? standard : []) + words
    }
    showsSelected = names.contains("selected")
    fields = try names.flatMap { name throws(DmFailure) in
      try Self.fields(name, complaint: "Unrecognised field: ")
    }
    keys = try (arguments.text("sort") ?? "").split(separator: ",").map { word in
      let name = word.drop { $0 == "-" || $0 == "+" }
      guard let field = DmField.named(String(name)) else {
        throw DmFailure(lines: [DmField.help, "dm_report: Unrecognised field: \(name)"])
      }
      return (field, word.hasPrefix("-"))
    }
    condition = try arguments.text("select").map { text throws(DmFailure) in
      try DmCondition(text)
    }
  }

  private static func fields(_ name: String, complaint: String) throws(DmFailure) -> [DmField] {
    switch name {
    case "all": return DmField.all
    case "name_all": return Array(DmField.all.prefix(7))
    case "info_all": return Array(DmField.all.dropFirst(7).prefix(11))
    case "deps_all":
      return ["device_count", "devnos_used", "blkdevs_used"].compactMap(DmField.named)
    case "tree_all":
      return ["devs_used", "device_ref_count", "names_using_dev", "devnos_using_dev"]
        .compactMap(DmField.named)
    case "splitname_all": return Array(DmField.all.suffix(4))
    case "selected":
      return [
        DmField("selected", "Selected", width: 8, isNumber: true, help: "Whether -S holds.") { _ in
          ""
        }
      ]
    case "help", "?": throw DmFailure(lines: [DmField.help])
    default:
      guard let field = DmField.named(name) else {
        throw DmFailure(lines: [DmField.help, complaint + name])
      }
      return [field]
    }
  }

  private func uses(_ names: Set<String>) -> Bool {
    let selected = condition?.fieldNames ?? []
    return fields.contains { names.contains($0.name) }
      || keys.contains { names.contains($0.field.name) } || !selected.isDisjoint(with: names)
  }

  /// Whether rows need the read-ahead setting.
  var needsReadAhead: Bool { uses(["read_ahead"]) }

  /// Adds a device.
  func add(_ info: DeviceInfo) throws {
    let backend = session.arguments.operands.first == "splitname" ? nil : try session.backend
    var row = DmField.Row(info: info, mangling: backend?.settings.nameMangling ?? .auto)
    if let backend {
      if uses(["blkdevname"]) {
        guard let name = backend.blockDeviceName(info.number, prefersMapped: false) else {
          throw DmFailure.failed(
            "Could not resolve block device name for \(info.number).",
            "_do_report_object: report function failed for field blkdevname")
        }
        row.blockName = name
      }
      if uses(DmField.relations), let found = try relations(backend)[info.number] {
        (row.below, row.above) = found
      }
    }
    let isSelected = condition?.holds(row) ?? true
    if isSelected || showsSelected { rows.append((row, isSelected)) }
  }

  private func relations(_ backend: any DeviceMapperBackend) throws
    -> [DeviceNumber: (below: [DmRelative], above: [DmRelative])]
  {
    if let relations { return relations }
    var result: [DeviceNumber: (below: [DmRelative], above: [DmRelative])] = [:]
    let entries = try backend.list()
    let names = Dictionary(
      entries.map { ($0.number, $0.name) }, uniquingKeysWith: { first, _ in first })
    for entry in entries {
      guard let found = try backend.dependencies(.name(entry.name), session.queryOptions) else {
        continue
      }
      let own = DmRelative(number: entry.number, name: entry.name, blockName: nil)
      for number in found.devices {
        let below = DmRelative(
          number: number, name: names[number],
          blockName: backend.blockDeviceName(number, prefersMapped: false))
        result[entry.number, default: ([], [])].below.append(below)
        result[number, default: ([], [])].above.append(own)
      }
    }
    relations = result
    return result
  }

  // MARK: - Printing

  /// Prints the collected rows.
  func print() throws {
    guard !rows.isEmpty else { return }
    let arguments = session.arguments
    let showsHeadings = !arguments.has("noheadings")
    let isAligned =
      showsHeadings && !arguments.has("separator") && !arguments.has("nameprefixes")
      && !arguments.has("rows")
    let separator = arguments.text("separator") ?? (showsHeadings ? " " : ":")
    var cells = sortedRows().map { row, isSelected in
      fields.map { $0.name == "selected" ? (isSelected ? "1" : "0") : $0.value(row) }
    }
    if arguments.has("nameprefixes") {
      cells = cells.map { zip(fields, $0).map { prefixed($0, $1) } }
    }
    if showsHeadings { cells.insert(fields.map(\.heading), at: 0) }
    if isAligned {
      let widths = fields.indices.map { column in
        max(fields[column].width, cells.map { $0[column].count }.max() ?? 0)
      }
      for (line, row) in cells.enumerated() {
        let padded = row.indices.map { column in
          let gap = String(repeating: " ", count: widths[column] - row[column].count)
          return fields[column].isNumber && line > 0 ? gap + row[column] : row[column] + gap
        }
        try session.print(padded.joined(separator: separator) + "\n")
      }
    } else if arguments.has("rows") {
      for column in fields.indices {
        try session.print(cells.map { $0[column] }.joined(separator: separator) + "\n")
      }
    } else {
      for row in cells { try session.print(row.joined(separator: separator) + "\n") }
    }
  }

  private func prefixed(_ field: DmField, _ value: String) -> String {
    let quote = session.arguments.has("unquoted") ? "" : "'"
    return "DM_\(field.name.uppercased())=\(quote)\(value)\(quote)"
  }

  /// Rows sorted by the selected keys; rows with equal keys keep their order.
  private func sortedRows() -> [(row: DmField.Row, isSelected: Bool)] {
    rows.enumerated().sorted { left, right in
      for (field, isReverse) in keys {
        let (a, b) = (field.value(left.element.row), field.value(right.element.row))
        if a == b { continue }
        let isLess =
          field.isNumber
          ? (Int64(a) ?? 0) < (Int64(b) ?? 0) : a.utf8.lexicographicallyPrecedes(b.utf8)
        return isLess != isReverse
      }
      return left.offset < right.offset
    }.map(\.element)
  }
}
