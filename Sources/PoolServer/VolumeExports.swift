import BlockServer
import DataPath
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

  /// Looks at the devices anew. There may be thousands, so it does next to nothing for one that is as it
  /// was.
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
      // What the table of another has open is not for clients.
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
