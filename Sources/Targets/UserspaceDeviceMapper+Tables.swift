import DeviceMapper
import Glibc

// Tables: checked line by line, as the kernel does it, each target made when its turn has come.
extension UserspaceDeviceMapper {
  private static let targetsMax = 1_048_576
  /// Sectors in the largest device that there can be.
  private static let sectorsMax: UInt64 = 18_014_398_509_481_983

  private static func isKnown(_ type: String) -> Bool { versions.contains { $0.name == type } }

  /// Target types, the most recent first.
  static let versions = [
    TargetVersion(name: "thin", major: 1, minor: 22, patch: 0),
    TargetVersion(name: "thin-pool", major: 1, minor: 22, patch: 0),
    TargetVersion(name: "zero", major: 1, minor: 1, patch: 0),
    TargetVersion(name: "striped", major: 1, minor: 6, patch: 0),
    TargetVersion(name: "linear", major: 1, minor: 4, patch: 0),
    TargetVersion(name: "error", major: 1, minor: 5, patch: 0),
  ]

  /// What can be said against a line before its constructor runs.
  private func check(_ line: TableLine, after previous: TableLine?, isReadOnly: Bool)
    throws(TargetError)
  {
    if let previous, previous.type == "thin-pool" {
      throw TargetError("target type \(previous.type) must appear alone in table")
    }
    guard line.length > 0 else { throw TargetError("zero-length target") }
    let (end, overflow) = line.start.addingReportingOverflow(line.length)
    guard !overflow, end <= Self.sectorsMax else { throw TargetError("too large device") }
    guard Self.isKnown(line.type) else {
      throw TargetError("\(line.type): unknown target type")
    }
    if line.type == "thin-pool" {
      if previous != nil {
        throw TargetError("singleton target type must appear alone in table")
      }
      if isReadOnly {
        throw TargetError("target type may not be included in a read-only table")
      }
    }
    guard line.start == previous.map({ $0.start + $0.length }) ?? 0 else {
      throw TargetError("Gap in table")
    }
  }

  /// Makes a table; the devices that it opened are closed again if it is refused.
  func makeTable(_ lines: [TableLine], for device: MappedDevice, readOnly: Bool)
    throws(TargetError) -> LiveTable
  {
    guard !lines.isEmpty else { throw TargetError("populate_table: no targets specified") }
    guard lines.count <= Self.targetsMax else { throw TargetError("too many targets", code: ENOMEM) }
    var drivers: [TargetDriver] = []
    do throws(TargetError) {
      var previous: TableLine?
      for line in lines {
        try check(line, after: previous, isReadOnly: readOnly)
        drivers.append(try makeDriver(line, for: device, readOnly: readOnly))
        previous = line
      }
      let table = LiveTable(drivers, isReadOnly: readOnly || isReadOnly)
      if let live = device.live, live.single?.line.type == "thin-pool" {
        guard lines.contains(where: { $0.type == "error" || $0.type == "thin-pool" }) else {
          throw TargetError("can't replace immutable target type thin-pool")
        }
      }
      if device.live == nil { try table.checkAreas() }
      return table
    } catch {
      for driver in drivers { driver.close() }
      throw error
    }
  }

  private func makeDriver(_ line: TableLine, for device: MappedDevice, readOnly: Bool)
    throws(TargetError) -> TargetDriver
  {
    var opened: [OpenDevice] = []
    do throws(TargetError) {
      let target = try Target(line) { (request) throws(DeviceOpenError) in
        let forReading =
          request.access == .read || (request.access == .table && readOnly)
        opened.append(try self.open(request.text, readOnly: forReading, user: device))
      }
      let context = DriverContext(
        target: target, line: line, device: device, opened: opened, isReadOnly: readOnly)
      switch target {
      case .linear(let linear): return LinearDriver(context, linear)
      case .striped(let striped): return StripedDriver(context, striped)
      case .zero: return ZeroDriver(context)
      case .error: return ErrorDriver(context)
      case .thinPool(let pool): return try ThinPoolDriver(context, pool)
      case .thin(let thin): return try ThinDriver(context, thin)
      default: throw TargetError("\(line.type): unknown target type")
      }
    } catch {
      for device in opened.reversed() { device.close() }
      throw error
    }
  }
}
