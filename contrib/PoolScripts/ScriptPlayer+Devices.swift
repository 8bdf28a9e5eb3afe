import DeviceMapper

/// Creating and changing devices.
extension ScriptPlayer {
  /// The device under the data device.
  static let below = "below"

  /// `SECTORS LOWWATER [FEATURE...]`
  func poolLine(_ words: [String]) -> TableLine {
    let features = words.dropFirst(2)
    let all = ["\(features.count)"] + features
    return TableLine(
      start: 0, length: UInt64(words.first ?? "") ?? 0, type: "thin-pool",
      parameters: "\(world.metadataName) \(poolDataName ?? world.dataName) \(blockSectors) "
        + "\(words.count > 1 ? words[1] : "0") \(all.joined(separator: " "))")
  }

  /// `NAME ID SECTORS [ORIGIN]`
  func thinLine(_ line: ScriptLine) -> TableLine {
    let origin = line.words.count > 3 ? " \(world.originName(line.word(3)))" : ""
    return TableLine(
      start: 0, length: UInt64(line.number(2)), type: "thin",
      parameters: "/dev/mapper/pool \(line.word(1))\(origin)")
  }

  func create(_ name: String, _ line: TableLine) throws(DeviceMapperError) {
    try dm.create(DeviceCreation(name: name, table: [line]))
  }

  func load(_ name: String, _ lines: [TableLine]) throws(DeviceMapperError) {
    try dm.load(.name(name), lines, readOnly: false)
  }

  func names() -> [String] { (try? dm.list().map(\.name)) ?? [] }

  func isSuspended(_ name: String) -> Bool {
    guard let info = try? dm.info(.name(name), []) else { return true }
    return info.isSuspended
  }

  func control(_ line: ScriptLine) {
    let name = line.word(0)
    // The kernel would wait for ever, for the pool or for requests that wait for space.
    if name != "pool" && line.verb != "activate"
      && (isSuspended("pool") && line.verb != "deactivate" || pendingWrites > 0)
    {
      return tell("skipped")
    }
    let options: SuspendOptions = line.words.last == "noflush" ? .noFlush : []
    tell(
      attempt { () throws(DeviceMapperError) in
        switch line.verb {
        case "activate": try create(name, thinLine(line))
        case "resize":
          try load(name, [thinLine(line)])
          try dm.suspend(.name(name), options)
          try dm.resume(.name(name), [], node: NodeOptions())
        case "deactivate": try dm.remove(.name(name), deferred: false, retry: false)
        case "suspend":
          try dm.suspend(.name(name), options)
          if name == "pool" { wasCommitted() }
        default:
          let swaps = (try dm.info(.name(name), []))?.hasInactiveTable ?? false
          if name == "pool" && swaps {
            (failsWhenFull, passesDown) = (nextFailsWhenFull, nextPassesDown)
          }
          try dm.resume(.name(name), [], node: NodeOptions())
          if name == "pool" && swaps { wasCommitted() }
          if pendingWrites > 0 { world.settle() }
        }
      })
  }

  /// A device over the data device, of the same size: its two halves exchanged, or stripes and the
  /// remainder; or a slow device, or one that will fail later.
  func putBelow(_ line: ScriptLine) throws(DeviceMapperError) {
    func target(_ start: Int, _ length: Int, _ type: String, _ parameters: String) -> TableLine {
      TableLine(
        start: UInt64(start), length: UInt64(length), type: type, parameters: parameters)
    }
    let (name, part) = (world.dataName, max(1, line.number(1)))
    let all = deviceSectors
    var table: [TableLine]
    if line.word(0) == "delay" {
      table = [target(0, all, "delay", "\(name) 0 0 \(name) 0 \(line.number(1))")]
    } else if line.word(0) == "flakey" {
      table = [target(0, all, "flakey", "\(name) 0 \(line.number(1)) 1 1 drop_writes")]
    } else if line.word(0) == "striped" {
      let width = all / 2 / part * part
      table = [target(0, 2 * width, "striped", "2 \(part) \(name) 0 \(name) \(width)")]
      if 2 * width < all {
        table.append(target(2 * width, all - 2 * width, "linear", "\(name) \(2 * width)"))
      }
    } else {
      table = [
        target(0, part, "linear", "\(name) \(all - part)"),
        target(part, all - part, "linear", "\(name) 0"),
      ]
    }
    try dm.create(DeviceCreation(name: Self.below, table: table))
    poolDataName = "/dev/mapper/\(Self.below)"
  }
}
