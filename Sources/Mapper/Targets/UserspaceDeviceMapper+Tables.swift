import DeviceMapper

// Tables are checked line by line, as in the kernel; each target is made once its line has passed.
extension UserspaceDeviceMapper {
  /// Makes a table. If it is refused, the devices that it opened are closed.
  func makeTable(_ lines: [TableLine], for device: MappedDevice, readOnly: Bool)
    throws(TargetError) -> LiveTable
  {
    var drivers: [TargetDriver] = []
    do throws(TargetError) {
      try TableRules.check(
        lines, isReadOnly: readOnly, live: device.live?.immutableType,
        traits: { TargetType.named($0)?.traits }
      ) { line throws(TargetError) in
        guard let type = TargetType.named(line.type) else {
          throw TargetError("\(line.type): unknown target type")
        }
        let place = TargetPlace(type: type, line: line, device: device, isReadOnly: readOnly)
        drivers.append(try type.make(place))
      }
      if !readOnly && !isReadOnly {
        for keeper in kept.values { try keeper.judge(drivers, of: device) }
      }
    } catch {
      for driver in drivers { driver.close() }
      throw error
    }
    let table = LiveTable(drivers, isReadOnly: readOnly || isReadOnly)
    // Later tables are checked when they are resumed.
    guard device.live == nil else { return table }
    do throws(TargetError) {
      try table.checkAreas()
    } catch {
      table.close()
      throw error
    }
    return table
  }
}
