/// A pool as plain dictionaries, parsed from a dump in XML by simple means. The results of tools
/// are compared with counts made here.
public struct DumpedPool: Equatable, Sendable {
  /// The place of a virtual block.
  public struct Place: Hashable, Sendable {
    /// Block of the data device.
    public var dataBlock: UInt64
    /// Time of the mapping.
    public var time: UInt64

    /// A place.
    public init(dataBlock: UInt64, time: UInt64) {
      self.dataBlock = dataBlock
      self.time = time
    }
  }

  /// A thin device.
  public struct Device: Equatable, Sendable {
    /// Attributes of the device's element, except its id.
    public var attributes: [String: String]
    /// By virtual block.
    public var mappings: [UInt64: Place]
  }

  /// Attributes of the first element.
  public var attributes: [String: String] = [:]
  /// By id.
  public var devices: [UInt64: Device] = [:]

  /// Reads a dump.
  public init(xml: String) {
    var definitions: [String: [UInt64: Place]] = [:]
    var definition: String?
    var device: UInt64?
    for line in xml.split(separator: "\n") {
      let (element, values) = Self.parse(line)
      func number(_ name: String) -> UInt64 { values[name].flatMap { UInt64($0) } ?? 0 }
      var found: [UInt64: Place] = [:]
      switch element {
      case "superblock": attributes = values
      case "def": definition = values["name"]
      case "/def": definition = nil
      case "device":
        device = number("dev_id")
        var rest = values
        rest["dev_id"] = nil
        devices[number("dev_id")] = Device(attributes: rest, mappings: [:])
      case "/device": device = nil
      case "ref": found = definitions[values["name"] ?? ""] ?? [:]
      case "single_mapping":
        found[number("origin_block")] = Place(
          dataBlock: number("data_block"), time: number("time"))
      case "range_mapping":
        for i in 0..<number("length") {
          found[number("origin_begin") + i] = Place(
            dataBlock: number("data_begin") + i, time: number("time"))
        }
      default: break
      }
      if let device {
        devices[device]?.mappings.merge(found) { _, new in new }
      } else if let definition {
        definitions[definition, default: [:]].merge(found) { _, new in new }
      }
    }
  }

  private static func parse(_ line: Substring) -> (element: String, values: [String: String]) {
    var values: [String: String] = [:]
    let body = line.drop { $0 == " " || $0 == "<" }
    let element = body.prefix { $0 != " " && $0 != ">" }
    let parts = body.dropFirst(element.count).split(
      separator: "\"", omittingEmptySubsequences: false)
    var i = 0
    while i + 1 < parts.count {
      values[String(parts[i].drop { $0 == " " }.dropLast())] = String(parts[i + 1])
      i += 2
    }
    return (String(element), values)
  }

  /// The number of exclusive blocks of each device.
  public var exclusiveCounts: [UInt64: UInt64] {
    var users: [UInt64: Int] = [:]
    for device in devices.values {
      for place in device.mappings.values { users[place.dataBlock, default: 0] += 1 }
    }
    return devices.mapValues { device in
      UInt64(device.mappings.values.count { users[$0.dataBlock] == 1 })
    }
  }
}

extension DumpedPool {
  /// A row of `thin_rmap`: data blocks that map to virtual blocks of a device.
  public struct ReverseRow: Hashable {
    /// The id of the thin device.
    public var device: UInt64
    /// The data blocks.
    public var data: Range<UInt64>
    /// The virtual block of the first one.
    public var virtual: UInt64

    /// A row.
    public init(device: UInt64, data: Range<UInt64>, virtual: UInt64) {
      (self.device, self.data, self.virtual) = (device, data, virtual)
    }
  }

  /// The rows that the mappings to data blocks of `regions`, or to all if there are none, make: each as long
  /// as it can be, ordered by begin, end and device.
  public func reverseRows(_ regions: [Range<UInt64>]) -> [ReverseRow] {
    var rows: [ReverseRow] = []
    for (id, device) in devices {
      var row: ReverseRow?
      for (virtual, mapping) in device.mappings.sorted(by: { $0.key < $1.key })
      where regions.isEmpty || regions.contains(where: { $0.contains(mapping.dataBlock) }) {
        if let last = row, last.data.upperBound == mapping.dataBlock,
          last.virtual + UInt64(last.data.count) == virtual
        {
          row?.data = last.data.lowerBound..<(mapping.dataBlock + 1)
          continue
        }
        if let row { rows.append(row) }
        row = ReverseRow(
          device: id, data: mapping.dataBlock..<(mapping.dataBlock + 1), virtual: virtual)
      }
      if let row { rows.append(row) }
    }
    return rows.sorted {
      ($0.data.lowerBound, $0.data.upperBound, $0.device, $0.virtual)
        < ($1.data.lowerBound, $1.data.upperBound, $1.device, $1.virtual)
    }
  }
}
