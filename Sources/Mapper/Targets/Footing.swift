import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc

/// Bytes of a file or disk to which a device ultimately maps.
struct Footing {
  /// A file, or a block device or another kind of disk by number.
  enum Place: Equatable {
    case file(FileIdentity)
    case device(DeviceNumber)
  }

  var place: Place
  var range: Range<UInt64>

  func overlaps(_ other: Footing) -> Bool {
    place == other.place && range.overlaps(other.range)
  }

  /// The bytes of a device outside the userspace device-mapper; those of a loop device are its
  /// file's.
  init(_ opened: OpenDevice, _ range: Range<UInt64>) {
    self.range = range
    place = .device(opened.number)
    if case .file(let identity) = opened.identity, !identity.isBlockDevice {
      place = .file(identity)
    } else if opened.number.major == 7 {
      let folder = "/sys/dev/block/\(opened.number)/loop"
      guard let path = WholeFile.systemText("\(folder)/backing_file"),
        let file = FileIdentity(path: path)
      else { return }
      let shift = WholeFile.systemText("\(folder)/offset").flatMap { UInt64($0) } ?? 0
      let start = range.lowerBound &+ shift
      place = .file(file)
      self.range = start..<max(start, range.upperBound &+ shift)
    }
  }
}

extension OpenDevice {
  /// The bytes to which it maps, through all userspace devices.
  func footings(_ range: Range<UInt64>? = nil, depth: Int = 0) -> [Footing] {
    let whole = range ?? 0..<direct.byteCount
    guard let mapped else { return [Footing(self, whole)] }
    guard depth < 32 else { return [] }
    return (mapped.live?.drivers ?? []).flatMap { $0.footings(whole, depth: depth) }
  }

  /// Whether it has bytes in common with `other`.
  func overlaps(_ other: OpenDevice) -> Bool { footings().overlap(other.footings()) }

  /// Whether it is `device`, or a table below it uses that.
  func stands(on device: MappedDevice) -> Bool {
    guard let mapped else { return false }
    return mapped === device
      || mapped.tables.contains { table in
        table.drivers.contains { $0.opened.contains { $0.stands(on: device) } }
      }
  }
}

extension [Footing] {
  func overlap(_ others: [Footing]) -> Bool {
    contains { mine in others.contains { mine.overlaps($0) } }
  }
}

extension TargetDriver {
  /// The bytes to which the bytes `whole` of its device map through it.
  fileprivate func footings(_ whole: Range<UInt64>, depth: Int) -> [Footing] {
    let part = whole.clamped(to: startByte..<max(startByte, endByte))
    if part.isEmpty { return [] }
    return rangesBelow(part).flatMap { $0.footings($1, depth: depth + 1) }
  }

  /// The bytes to which all its bytes map.
  var footings: [Footing] { footings(startByte..<max(startByte, endByte), depth: 0) }
}

extension MappedDevice {
  var tables: [LiveTable] { [live, inactive].compactMap { $0 } }
}
