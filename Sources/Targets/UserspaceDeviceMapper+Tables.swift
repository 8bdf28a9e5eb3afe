import DeviceMapper
import Glibc

// Tables: checked line by line, as the kernel does it, each target made when its turn has come.
extension UserspaceDeviceMapper {
  /// Target types, the most recent first.
  static let versions = [
    TargetVersion(name: "thin", major: 1, minor: 22, patch: 0),
    TargetVersion(name: "thin-pool", major: 1, minor: 22, patch: 0),
    TargetVersion(name: "zero", major: 1, minor: 1, patch: 0),
    TargetVersion(name: "striped", major: 1, minor: 6, patch: 0),
    TargetVersion(name: "linear", major: 1, minor: 4, patch: 0),
    TargetVersion(name: "error", major: 1, minor: 5, patch: 0),
  ]

  /// Makes a table; the devices that it opened are closed again if it is refused.
  func makeTable(_ lines: [TableLine], for device: MappedDevice, readOnly: Bool)
    throws(TargetError) -> LiveTable
  {
    var drivers: [TargetDriver] = []
    do throws(TargetError) {
      let types = Self.versions.map(\.name)
      try TableRules.check(
        lines, isReadOnly: readOnly, live: device.live?.immutableType,
        traits: { types.contains($0) ? TargetTraits.of($0) : nil }
      ) { line throws(TargetError) in
        drivers.append(try makeDriver(line, for: device, readOnly: readOnly))
      }
      if !readOnly && !isReadOnly { try requireApart(drivers, of: device) }
      let table = LiveTable(drivers, isReadOnly: readOnly || isReadOnly)
      // Later tables are looked at when they are resumed.
      if device.live == nil { try table.checkAreas() }
      return table
    } catch {
      for driver in drivers { driver.close() }
      throw error
    }
  }

  /// The metadata of a pool that is to be read-only, which a later table may allow to be written: it is
  /// only then that it is. What cannot be opened for writing is opened for reading.
  private func openMetadata(_ text: String, user: MappedDevice) throws(DeviceOpenError)
    -> OpenDevice
  {
    do throws(DeviceOpenError) {
      return try open(text, readOnly: false, user: user)
    } catch {
      guard error.code == EACCES || error.code == EROFS || error.code == EPERM else { throw error }
      return try open(text, readOnly: true, user: user)
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
        opened.append(
          line.type == "thin-pool" && request.access == .read
            ? try self.openMetadata(request.text, user: device)
            : try self.open(request.text, readOnly: forReading, user: device))
      }
      let context = DriverContext(
        target: target, line: line, device: device, opened: opened, isReadOnly: readOnly)
      switch target {
      case .linear(let linear): return LinearDriver(context, linear)
      case .striped(let striped): return StripedDriver(context, striped)
      case .zero: return ZeroDriver(context)
      case .error: return ErrorDriver(context)
      case .thinPool(let pool):
        try requireOwn(opened[0], opened[1], of: device)
        return try ThinPoolDriver(context, pool)
      case .thin(let thin):
        if thin.externalOrigin != nil { try requireForeign(opened[0]) }
        return try ThinDriver(context, thin)
      default: throw TargetError("\(line.type): unknown target type")
      }
    } catch {
      for device in opened.reversed() { device.close() }
      throw error
    }
  }
}
