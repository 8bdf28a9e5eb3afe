import BlockIO
import DataPath
import DeviceMapper
import Glibc

/// Bytes of a file or disk that something below a table stands on.
private struct Footing {
  /// A file by file system and inode, a block device by number.
  enum Place: Equatable {
    case file(device: UInt64, inode: UInt64)
    case device(DeviceNumber)
  }

  var place: Place
  var range: Range<UInt64>

  func overlaps(_ other: Footing) -> Bool {
    place == other.place && range.overlaps(other.range)
  }

  /// Where the bytes of a device that is no userspace device are: those of a loop device are a file's.
  init(_ opened: OpenDevice, _ range: Range<UInt64>) {
    self.range = range
    place = .device(opened.number)
    if opened.number.major == UserspaceDeviceMapper.fileMajor {
      if let file = Self.file(opened.text) { place = file }
    } else if opened.number.major == 7 {
      let folder = "/sys/dev/block/\(opened.number)/loop"
      guard let path = WholeFile.systemText("\(folder)/backing_file"), let file = Self.file(path)
      else { return }
      let shift = WholeFile.systemText("\(folder)/offset").flatMap { UInt64($0) } ?? 0
      let start = range.lowerBound &+ shift
      place = file
      self.range = start..<max(start, range.upperBound &+ shift)
    }
  }

  private static func file(_ path: String) -> Place? {
    var info = stat()
    guard stat(path, &info) == 0 else { return nil }
    return .file(device: UInt64(info.st_dev), inode: UInt64(info.st_ino))
  }
}

extension OpenDevice {
  /// What it stands on, through linear and striped devices.
  fileprivate func footings(_ range: Range<UInt64>? = nil, depth: Int = 0) -> [Footing] {
    let whole = range ?? 0..<direct.byteCount
    guard let mapped else { return [Footing(self, whole)] }
    guard depth < 32 else { return [] }
    return (mapped.live?.drivers ?? []).flatMap { $0.footings(whole, depth: depth) }
  }

  fileprivate func overlaps(_ other: OpenDevice) -> Bool { footings().overlap(other.footings()) }

  /// Whether it is `device`, or a table below it names that.
  fileprivate func stands(on device: MappedDevice) -> Bool {
    guard let mapped else { return false }
    return mapped === device
      || mapped.tables.contains { table in
        table.drivers.contains { $0.opened.contains { $0.stands(on: device) } }
      }
  }
}

extension [Footing] {
  fileprivate func overlap(_ others: [Footing]) -> Bool {
    contains { mine in others.contains { mine.overlaps($0) } }
  }
}

extension TargetDriver {
  /// What the bytes `whole` of its device stand on by way of it, where it is linear or striped.
  fileprivate func footings(_ whole: Range<UInt64>, depth: Int) -> [Footing] {
    guard self is LinearDriver || self is StripedDriver else { return [] }
    let part = whole.clamped(to: startByte..<max(startByte, endByte))
    if part.isEmpty { return [] }
    return areas.flatMap { area -> [Footing] in
      var (lower, upper) = (area.start &* 512, (area.start &+ area.length) &* 512)
      if self is LinearDriver {
        upper = lower &+ (part.upperBound - startByte)
        lower = lower &+ (part.lowerBound - startByte)
      }
      return area.device.footings(lower..<max(lower, upper), depth: depth + 1)
    }
  }

  /// The same of all its bytes.
  fileprivate var footings: [Footing] { footings(startByte..<max(startByte, endByte), depth: 0) }
}

extension MappedDevice {
  fileprivate var tables: [LiveTable] { [live, inactive].compactMap { $0 } }
}

extension UserspaceDeviceMapper {
  /// Refuses what would have two of a pool's roles on the same bytes: the kernel does not look, and one
  /// overwrites the other.
  func requireOwn(_ metadata: OpenDevice, _ data: OpenDevice, of device: MappedDevice)
    throws(TargetError)
  {
    func refusal(_ text: String) -> TargetError {
      TargetError("Error opening data device", explanation: [text])
    }
    if metadata.overlaps(data) {
      throw refusal("metadata and data of a pool cannot be on the same bytes: \(metadata.text)")
    }
    for pool in pools.values where pool.device !== device {
      for theirs in [pool.metadataOpened, pool.dataOpened] {
        for mine in [metadata, data] where mine.overlaps(theirs) {
          // The kernel has words of its own for metadata that another pool has.
          if mine === metadata && theirs === metadata { continue }
          throw refusal(
            "\(mine.text) is, or is part of, \(theirs.text) of pool \(pool.device.name)")
        }
      }
    }
    let footings = [metadata, data].map { ($0, $0.footings()) }
    for other in devices.values where other !== device {
      for table in other.tables where !table.isReadOnly {
        for driver in table.drivers {
          for (mine, place) in footings
          where driver.footings.overlap(place) && !mine.stands(on: other) {
            throw refusal(Self.sharing(other, mine, of: device))
          }
        }
      }
    }
  }

  private static func sharing(_ other: MappedDevice, _ theirs: OpenDevice, of pool: MappedDevice)
    -> String
  {
    "\(other.name) would be written through to \(theirs.text) of pool \(pool.name), beside the pool: make "
      + "\(other.name) read-only, or give it a range that the pool does not have"
  }

  /// Refuses a table by which what a pool holds could be written past the pool. What the pool itself
  /// stands on is no such device.
  func requireApart(_ drivers: [TargetDriver], of device: MappedDevice) throws(TargetError) {
    for driver in drivers where !pools.isEmpty {
      let footings = driver.footings
      if footings.isEmpty { continue }
      for pool in pools.values {
        for theirs in [pool.metadataOpened, pool.dataOpened]
        where footings.overlap(theirs.footings()) && !theirs.stands(on: device) {
          throw TargetError(
            "Device lookup failed", explanation: [Self.sharing(device, theirs, of: pool.device)])
        }
      }
    }
  }

  /// Refuses an external origin that is the metadata or data of a pool: it would show what other volumes
  /// hold.
  func requireForeign(_ origin: OpenDevice) throws(TargetError) {
    for pool in pools.values {
      for theirs in [pool.metadataOpened, pool.dataOpened] where origin.overlaps(theirs) {
        throw TargetError(
          "Error opening origin device",
          explanation: [
            "\(origin.text) cannot be an external origin: it is, or is part of, \(theirs.text) of pool "
              + "\(pool.device.name), which holds what other volumes have"
          ])
      }
    }
  }
}
