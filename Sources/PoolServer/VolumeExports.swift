import BlockServer
import DataPath
import DeviceMapper
import Targets

/// Keeps what clients are offered in step with the devices there are: every device with a table is
/// exported, except pools and what tables of others have open.
///
/// `changed` says that there may be something new; it is looked at once, at the end of the pass.
final class VolumeExports: PassHook {
  /// A device that has been offered. It is open for as long as clients use it, by whatever name.
  private final class Volume {
    let device: MappedDevice
    var export: Export?
    var users = 0
    var opened: OpenDevice?

    init(_ device: MappedDevice) { self.device = device }
  }

  let exports = ExportList()
  private let loop: EventLoop
  private let mapper: UserspaceDeviceMapper
  private var volumes: [ObjectIdentifier: Volume] = [:]
  private var isStale = false

  init(_ mapper: UserspaceDeviceMapper, _ loop: EventLoop) {
    self.mapper = mapper
    self.loop = loop
    super.init()
    loop.add(self)
  }

  /// Devices may have come, gone or changed.
  func changed() {
    guard !isStale else { return }
    isStale = true
    loop.passAgain()
  }

  override func endOfPass() {
    guard isStale else { return }
    isStale = false
    update()
  }

  /// Looks at the devices anew.
  func update() {
    let devices = mapper.all
    let present = Set(devices.map { ObjectIdentifier($0) })
    for (key, volume) in volumes where !present.contains(key) {
      withdraw(volume)
      volumes[key] = nil
    }
    // A name can go from one device to another: first away with old ones.
    var wanted: [(volume: Volume, summary: String)] = []
    for device in devices {
      let volume = volumes[ObjectIdentifier(device)] ?? Volume(device)
      volumes[ObjectIdentifier(device)] = volume
      let summary = describe(volume)
      if volume.export?.name != device.name || summary == nil { withdraw(volume) }
      if let summary, volume.export == nil { wanted.append((volume, summary)) }
    }
    for (volume, summary) in wanted { offer(volume, summary) }
  }

  /// A line about a device that clients are offered; nil for others.
  private func describe(_ volume: Volume) -> String? {
    let table = mapper.table(.number(volume.device.number), [])
    guard let table, let line = table.lines.first,
      !table.lines.contains(where: { $0.type == "thin-pool" }),
      volume.device.openCount <= (volume.opened == nil ? 0 : 1)
    else { return nil }
    guard line.type == "thin", let id = line.parameters.split(separator: " ").dropFirst().first
    else { return "\(line.type) device" }
    return "thin device \(id)"
  }

  private func withdraw(_ volume: Volume) {
    if let export = volume.export { exports.remove(export.name) }
    volume.export = nil
  }

  private func offer(_ volume: Volume, _ summary: String) {
    let export = Export(
      name: volume.device.name, summary: summary, destination: volume.device
    ) { [unowned self] begins in begins ? open(volume) : close(volume) }
    volume.export = export
    exports.add(export)
  }

  private func open(_ volume: Volume) -> Bool {
    let device = volume.device
    if volume.users == 0 {
      volume.opened = try? mapper.open(
        device.name, readOnly: mapper.isReadOnly || device.isReadOnly)
    }
    guard volume.opened != nil else { return false }
    volume.users += 1
    return true
  }

  private func close(_ volume: Volume) -> Bool {
    volume.users -= 1
    guard volume.users == 0 else { return true }
    volume.opened?.close()
    volume.opened = nil
    changed()
    return true
  }
}
