import DeviceMapper

/// A column of `dmthin dm info -c`.
struct DmField: Sendable {
  /// The data of a row: its device, and related devices.
  struct Row {
    let info: DeviceInfo
    let mangling: NameMangling
    /// Devices below it and above it, with their names.
    var below: [DmRelative] = []
    var above: [DmRelative] = []
    var blockName: String?
  }

  let name: String
  let heading: String
  let width: Int
  let isNumber: Bool
  let help: String
  let value: @Sendable (Row) -> String

  init(
    _ name: String, _ heading: String, width: Int, isNumber: Bool = false, help: String,
    value: @escaping @Sendable (Row) -> String
  ) {
    self.name = name
    self.heading = heading
    self.width = width
    self.isNumber = isNumber
    self.help = help
    self.value = value
  }

  /// The default columns.
  static let standard = [
    "name", "major", "minor", "attr", "open", "segments", "events", "uuid",
  ]
  /// The columns for the parts of a logical volume's name.
  static let nameParts = ["vg_name", "lv_name", "lv_layer"]

  /// The columns that need other devices.
  static let relations: Set<String> = [
    "device_count", "devs_used", "devnos_used", "blkdevs_used", "device_ref_count",
    "names_using_dev", "devnos_using_dev",
  ]

  static let all: [DmField] = identity + state + relatives + parts

  /// The field of this name, in upper or lower case.
  static func named(_ name: String) -> DmField? {
    all.first { $0.name.lowercased() == name.lowercased() }
  }

  private static let identity: [DmField] = [
    DmField("name", "Name", width: 16, help: "Name.") { $0.info.name },
    DmField("mangled_name", "MangledName", width: 16, help: "Name as it is stored.") {
      mangled($0.info.name, $0.mangling)
    },
    DmField("unmangled_name", "UnmangledName", width: 16, help: "Name as users write it.") {
      NameMangling.decoded($0.info.name)
    },
    DmField("uuid", "UUID", width: 32, help: "Uuid.") { $0.info.uuid },
    DmField("mangled_uuid", "MangledUUID", width: 32, help: "Uuid as it is stored.") {
      mangled($0.info.uuid, $0.mangling)
    },
    DmField("unmangled_uuid", "UnmangledUUID", width: 32, help: "Uuid as users write it.") {
      NameMangling.decoded($0.info.uuid)
    },
    DmField("read_ahead", "RAhead", width: 6, isNumber: true, help: "Sectors read ahead.") {
      "\($0.info.readAhead ?? 0)"
    },
  ]

  private static let state: [DmField] = [
    DmField("blkdevname", "BlkDevName", width: 16, help: "The system's name of the device.") {
      $0.blockName ?? ""
    },
    DmField(
      "attr", "Stat", width: 4,
      help: "(L)ive table, (I)nactive table, (s)uspended, (r)ead-only or read-(w)rite."
    ) { row in
      (row.info.hasLiveTable ? "L" : "-") + (row.info.hasInactiveTable ? "I" : "-")
        + (row.info.isSuspended ? "s" : "-") + (row.info.isReadOnly ? "r" : "w")
    },
    DmField("tables_loaded", "Tables", width: 6, help: "Which tables there are.") { row in
      switch (row.info.hasLiveTable, row.info.hasInactiveTable) {
      case (true, true): "Both"
      case (true, false): "Live"
      case (false, true): "Inactive"
      case (false, false): "None"
      }
    },
    DmField("suspended", "Suspended", width: 9, help: "Whether I/O is held back.") {
      $0.info.isSuspended ? "Suspended" : "Active"
    },
    DmField("readonly", "Read-only", width: 9, help: "Whether writes are refused.") {
      $0.info.isReadOnly ? "Read-only" : "Writeable"
    },
    DmField("devno", "DevNo", width: 5, help: "Device number.") { "\($0.info.number)" },
    DmField("major", "Maj", width: 3, isNumber: true, help: "Major device number.") {
      "\($0.info.number.major)"
    },
    DmField("minor", "Min", width: 3, isNumber: true, help: "Minor device number.") {
      "\($0.info.number.minor)"
    },
    DmField("open", "Open", width: 4, isNumber: true, help: "How many have it open.") {
      "\($0.info.openCount)"
    },
    DmField("segments", "Targ", width: 4, isNumber: true, help: "Targets of its table.") {
      "\($0.info.targetCount)"
    },
    DmField("events", "Event", width: 6, isNumber: true, help: "Number of the last event.") {
      "\($0.info.eventNumber)"
    },
  ]

  private static let relatives: [DmField] = [
    DmField("device_count", "#Devs", width: 5, isNumber: true, help: "Devices below it.") {
      "\($0.below.count)"
    },
    DmField("devs_used", "DevNamesUsed", width: 16, help: "Their device-mapper names.") {
      $0.below.compactMap(\.name).joined(separator: ",")
    },
    DmField("devnos_used", "DevNosUsed", width: 16, help: "Their numbers.") {
      $0.below.map { "\($0.number)" }.joined(separator: ",")
    },
    DmField("blkdevs_used", "BlkDevNamesUsed", width: 16, help: "The system's names of them.") {
      $0.below.compactMap(\.blockName).joined(separator: ",")
    },
    DmField("device_ref_count", "#Refs", width: 5, isNumber: true, help: "Devices above it.") {
      "\($0.above.count)"
    },
    DmField("names_using_dev", "RefNames", width: 8, help: "Their names.") {
      $0.above.compactMap(\.name).joined(separator: ",")
    },
    DmField("devnos_using_dev", "RefDevNos", width: 9, help: "Their numbers.") {
      $0.above.map { "\($0.number)" }.joined(separator: ",")
    },
  ]

  private static let parts: [DmField] = [
    DmField("subsystem", "Subsys", width: 6, help: "What manages it, as its uuid begins.") {
      subsystem($0.info)
    },
    DmField("vg_name", "VG", width: 4, help: "Volume group, of a logical volume.") {
      volumeParts($0.info)[0]
    },
    DmField("lv_name", "LV", width: 4, help: "Logical volume.") { volumeParts($0.info)[1] },
    DmField("lv_layer", "LVLayer", width: 7, help: "Layer of a logical volume.") {
      volumeParts($0.info)[2]
    },
  ]

  private static func mangled(_ name: String, _ mangling: NameMangling) -> String {
    do throws(NameMangling.MixedName) {
      return try (mangling == .none ? .hex : mangling).mangled(name)
    } catch {
      return name
    }
  }

  private static func subsystem(_ info: DeviceInfo) -> String {
    guard let dash = info.uuid.firstIndex(of: "-") else { return "" }
    return String(info.uuid[..<dash])
  }

  /// Volume group, logical volume and layer: single dashes separate them, double ones are dashes.
  private static func volumeParts(_ info: DeviceInfo) -> [String] {
    guard subsystem(info) == "LVM" else { return ["", "", ""] }
    var parts = [""]
    var rest = Substring(info.name)
    while let character = rest.popFirst() {
      if character == "-", rest.first == "-" {
        parts[parts.count - 1].append("-")
        rest = rest.dropFirst()
      } else if character == "-", parts.count < 3 {
        parts.append("")
      } else {
        parts[parts.count - 1].append(character)
      }
    }
    return parts + Array(repeating: "", count: 3 - parts.count)
  }

  /// What `help -c` prints.
  static var help: String {
    let width = all.map(\.name.count).max() ?? 0
    return "Fields:\n"
      + all.map { field in
        let gap = String(repeating: " ", count: width - field.name.count)
        return "  \(field.name)\(gap)  \(field.help)\n"
      }.joined()
  }
}

/// A device that stands below or above another.
struct DmRelative: Sendable {
  let number: DeviceNumber
  /// Its device-mapper name, if it has one.
  let name: String?
  let blockName: String?
}
