import ThinFormat

/// The expected content of a pool, in dictionaries, for comparison with engine and metadata.
struct ModelState {
  struct Device {
    /// Raw mappings by virtual block.
    var mappings: [UInt64: UInt64] = [:]
    var details: DeviceDetails
  }

  var devices: [ThinID: Device] = [:]
  /// The devices of the metadata snapshot.
  var held: [ThinID: Device]?
  var time: UInt32 = 0
  var transactionID: UInt64 = 0
  var dataBlockCount: UInt64 = 0
  /// The number of mappings of each data block, those of the metadata snapshot included.
  private(set) var references: [UInt64: Int] = [:]

  mutating func refer(to dataBlock: UInt64) { references[dataBlock, default: 0] += 1 }

  mutating func release(_ dataBlock: UInt64) {
    let count = references[dataBlock] ?? 0
    references[dataBlock] = count > 1 ? count - 1 : nil
  }

  mutating func refer(to device: Device) {
    for raw in device.mappings.values { refer(to: Mapping(rawValue: raw).dataBlock) }
  }

  mutating func release(_ device: Device) {
    for raw in device.mappings.values { release(Mapping(rawValue: raw).dataBlock) }
  }

  mutating func create(_ id: ThinID) {
    devices[id] = Device(
      details: DeviceDetails(
        mappedBlocks: 0, transactionID: transactionID, creationTime: time, snapshottedTime: time))
  }

  mutating func snapshot(_ id: ThinID, of origin: ThinID) {
    guard var copy = devices[origin] else { return }
    time += 1
    devices[origin]?.details.snapshottedTime = time
    copy.details.transactionID = transactionID
    copy.details.creationTime = time
    copy.details.snapshottedTime = time
    devices[id] = copy
    refer(to: copy)
  }

  mutating func delete(_ id: ThinID) {
    if let device = devices.removeValue(forKey: id) { release(device) }
  }

  mutating func map(_ id: ThinID, _ virtualBlock: UInt64, to dataBlock: UInt64) {
    refer(to: dataBlock)
    let raw = Mapping(dataBlock: dataBlock, time: time).rawValue
    if let old = devices[id]?.mappings.updateValue(raw, forKey: virtualBlock) {
      release(Mapping(rawValue: old).dataBlock)
    } else {
      devices[id]?.details.mappedBlocks += 1
    }
  }

  mutating func unmap(_ id: ThinID, _ range: Range<UInt64>) {
    for block in range {
      guard let old = devices[id]?.mappings.removeValue(forKey: block) else { continue }
      release(Mapping(rawValue: old).dataBlock)
      devices[id]?.details.mappedBlocks -= 1
    }
  }

  mutating func reserve() {
    held = devices
    for device in devices.values { refer(to: device) }
  }

  mutating func releaseHeld() {
    for device in (held ?? [:]).values { release(device) }
    held = nil
  }

  /// The mapping of a block of a device, and whether a snapshot of the device was taken since.
  func lookup(_ id: ThinID, _ virtualBlock: UInt64) -> (dataBlock: UInt64, isShared: Bool)? {
    guard let device = devices[id], let raw = device.mappings[virtualBlock] else { return nil }
    let mapping = Mapping(rawValue: raw)
    return (mapping.dataBlock, device.details.snapshottedTime > mapping.time)
  }
}
