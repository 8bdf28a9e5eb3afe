import DataPath
import DeviceMapper

/// A table with its running targets.
final class LiveTable {
  let drivers: [TargetDriver]
  let isReadOnly: Bool
  let byteCount: UInt64
  /// The driver, if there is only one.
  let single: TargetDriver?
  let takesDiscards: Bool
  /// The drivers' largest logical block size in bytes, cached when the table is made because every
  /// request needs it.
  let logicalBlockBytes: Int
  let discardBytes: Int
  /// Devices of this device-mapper that this table has open in excess. A table counts as one user
  /// of a device, even if several of its lines name it.
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

  /// The type of the immutable target, if there is one.
  var immutableType: String? {
    single.flatMap { $0.type.traits.contains(.immutable) ? $0.type.name : nil }
  }

  /// The devices of all targets, the one opened last first, without repetition.
  var dependencies: [DeviceNumber] {
    var seen: Set<DeviceNumber> = []
    var order: [DeviceNumber] = []
    for device in drivers.flatMap(\.opened) where seen.insert(device.number).inserted {
      order.append(device.number)
    }
    return order.reversed()
  }

  /// Requires that the devices are as large as the table says.
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
