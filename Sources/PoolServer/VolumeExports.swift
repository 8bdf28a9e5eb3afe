import BlockServer
import DeviceMapper
import Targets

/// Keeps what clients are offered in step with the devices there are: every device with a table is
/// exported, except pools and what tables of others have open.
final class VolumeExports {
  let exports = ExportList()
  private let mapper: UserspaceDeviceMapper
  private let isReadOnly: Bool
  private var known: [ObjectIdentifier: Volume] = [:]

  private final class Volume {
    let device: MappedDevice
    let name: String
    /// Open for as long as clients use it.
    var opened: OpenDevice?

    init(_ device: MappedDevice) {
      self.device = device
      name = device.name
    }
  }

  init(_ mapper: UserspaceDeviceMapper, isReadOnly: Bool) {
    self.mapper = mapper
    self.isReadOnly = isReadOnly
  }

  /// Looks at the devices anew.
  func update() {
    var gone = known
    for device in mapper.all {
      let key = ObjectIdentifier(device)
      if let volume = gone[key], volume.name == device.name { gone[key] = nil }
    }
    for (key, volume) in gone {
      exports.remove(volume.name)
      known[key] = nil
    }
    for device in mapper.all {
      let key = ObjectIdentifier(device)
      let ownOpen: Int32 = known[key]?.opened == nil ? 0 : 1
      let isOffered = describe(device, ownOpen)
      if known[key] == nil, let summary = isOffered {
        offer(device, summary)
      } else if known[key] != nil, isOffered == nil {
        exports.remove(device.name)
        known[key] = nil
      }
    }
  }

  /// A line about a device that clients are offered; nil for others.
  private func describe(_ device: MappedDevice, _ ownOpen: Int32) -> String? {
    guard let table = mapper.table(.number(device.number), []), !table.lines.isEmpty,
      !table.lines.contains(where: { $0.type == "thin-pool" }),
      table.info.openCount <= ownOpen
    else { return nil }
    let line = table.lines[0]
    guard line.type == "thin", let id = line.parameters.split(separator: " ").dropFirst().first
    else { return "\(line.type) device" }
    return "thin device \(id)"
  }

  private func offer(_ device: MappedDevice, _ summary: String) {
    let volume = Volume(device)
    known[ObjectIdentifier(device)] = volume
    let export = Export(
      name: device.name, summary: summary, destination: device, isReadOnly: isReadOnly
    ) { [unowned self] isOpen in
      guard isOpen else {
        volume.opened?.close()
        volume.opened = nil
        return true
      }
      let readOnly = isReadOnly || device.isReadOnly
      volume.opened = try? mapper.open(device.name, readOnly: readOnly)
      return volume.opened != nil
    }
    exports.add(export)
  }
}
