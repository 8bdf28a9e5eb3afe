import DeviceMapper

/// A table whose targets work.
final class LiveTable {
  let drivers: [TargetDriver]
  let isReadOnly: Bool
  let byteCount: UInt64
  /// The only driver, where there is but one.
  let single: TargetDriver?
  let takesDiscards: Bool
  /// The largest of the drivers' in bytes, as they were when the table was made: asked at every request.
  let logicalBlockBytes: Int
  let discardBytes: Int
  /// Devices of this device-mapper that it has open once more than it counts for: a table counts as one
  /// user of a device, however often its lines name it.
  private let repeated: [MappedDevice]

  init(_ drivers: [TargetDriver], isReadOnly: Bool) {
    self.drivers = drivers
    self.isReadOnly = isReadOnly
    byteCount = drivers.last?.endByte ?? 0
    single = drivers.count == 1 ? drivers.first : nil
    takesDiscards = drivers.allSatisfy { $0.takesDiscards }
    logicalBlockBytes = drivers.map(\.logicalBlockBytes).max() ?? 512
    discardBytes = drivers.map(\.discardBytes).max() ?? 0
    var seen: Set<DeviceNumber> = []
    repeated = drivers.flatMap(\.opened).compactMap { device in
      guard let mapped = device.mapped, !seen.insert(device.number).inserted else { return nil }
      return mapped
    }
    for device in repeated { device.openCount -= 1 }
  }

  /// The driver of a byte below `byteCount`.
  func driver(at offset: UInt64) -> TargetDriver {
    var low = 0
    var high = drivers.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if drivers[middle].startByte <= offset { low = middle } else { high = middle }
    }
    return drivers[low]
  }

  /// The type that only its like may replace, if there is one.
  var immutableType: String? {
    single.flatMap { $0.type.traits.contains(.immutable) ? $0.type.name : nil }
  }

  /// Devices below, the one opened last first, each once.
  var dependencies: [DeviceNumber] {
    var seen: Set<DeviceNumber> = []
    var order: [DeviceNumber] = []
    for device in drivers.flatMap(\.opened) where seen.insert(device.number).inserted {
      order.append(device.number)
    }
    return order.reversed()
  }

  /// Whether the devices below are as large as the table has them.
  func checkAreas() throws(TargetError) {
    for driver in drivers {
      for area in driver.areas {
        area.device.destination.refreshSize()
        let size = area.device.sectorCount
        guard area.start <= size, area.length <= size - area.start else {
          throw TargetError(
            "\(area.device.number) too small for target: start=\(area.start), len=\(area.length), "
              + "dev_size=\(size)")
        }
      }
    }
  }

  func close() {
    for device in repeated { device.openCount += 1 }
    for driver in drivers { driver.close() }
  }
}
