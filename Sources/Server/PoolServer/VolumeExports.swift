import DataPath
import EventLoop
import Targets

/// Updates the exports to follow the devices: every device with a table is exported, except pools
/// and devices that other tables have open.
///
/// `changed` requests an update, which happens once, at the end of the pass.
final class VolumeExports: PassHook {
  /// An exported device. It is open while clients use it, under any name.
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

  /// Devices may have been added, removed or changed.
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

  /// Updates the exports. There may be thousands of devices, so an unchanged one costs next to
  /// nothing.
  func update() {
    var present: Set<ObjectIdentifier> = []
    var wanted: [(volume: Volume, summary: String)] = []
    var withdrawn: Set<String> = []
    func withdraw(_ volume: Volume) {
      if let export = volume.export { withdrawn.insert(export.name) }
      volume.export = nil
    }
    mapper.forEachDevice { device in
      let key = ObjectIdentifier(device)
      present.insert(key)
      let volume = volumes[key] ?? Volume(device)
      volumes[key] = volume
      // A device that another table has open is not exported.
      let isFree = device.openCount <= (volume.opened == nil ? 0 : 1)
      let summary = isFree ? device.summary : nil
      if let export = volume.export, export.name != device.name || export.summary != summary {
        withdraw(volume)
      }
      if let summary, volume.export == nil { wanted.append((volume, summary)) }
    }
    for (key, volume) in volumes where !present.contains(key) {
      withdraw(volume)
      volumes[key] = nil
    }
    exports.remove(withdrawn)
    wanted.sort { $0.volume.device.name < $1.volume.device.name }
    for (volume, summary) in wanted { offer(volume, summary) }
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
