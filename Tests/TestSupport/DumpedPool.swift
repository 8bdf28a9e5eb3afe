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
