public import DeviceMapper
import Glibc
public import ThinTools

/// An active pool, as its table says.
public struct LivePool: Sendable {
  /// Its state when it was looked at.
  public var info: DeviceInfo
  /// Sectors of its table: those of the data device that it may use.
  public var sectors: UInt64
  /// The table's words; devices by number.
  public var target: ThinPoolTarget

  /// Its name.
  public var name: String { info.name }
  /// Its number.
  public var number: DeviceNumber { info.number }
  /// Number of the metadata device.
  public var metadata: DeviceNumber? { DeviceNumber(target.metadataDevice) }
  /// Number of the data device.
  public var data: DeviceNumber? { DeviceNumber(target.dataDevice) }

  /// The table line for `sectors` of data.
  func line(_ target: ThinPoolTarget, sectors: UInt64) -> TableLine {
    TableLine(start: 0, length: sectors, type: "thin-pool", parameters: target.parameters)
  }
}

/// An active device with a thin device of a pool in its table.
public struct ActiveThin: Sendable {
  /// Its state when it was looked at.
  public var info: DeviceInfo
  /// Sectors of its table.
  public var sectors: UInt64
  /// The table's words; devices by number.
  public var target: ThinTarget
  /// Its whole table: thin devices may be parts of a larger one.
  public var table: [TableLine]

  /// Its name.
  public var name: String { info.name }
  /// Id in the pool.
  public var id: UInt64 { UInt64(target.id) }
}

extension PoolManager {
  /// The active pool called `name`, or whose node `name` is.
  public func pool(_ name: String) throws(ToolError) -> LivePool {
    guard let pool = try findPool(reference(name)) else {
      throw ToolError(.notFound(.input), "there is no active device '\(name)'")
    }
    return pool
  }

  /// The pool that has `number`.
  public func pool(_ number: DeviceNumber) throws(ToolError) -> LivePool? {
    try findPool(.number(number))
  }

  /// Whether `name` is an active device that is a pool.
  public func isPool(_ name: String) -> Bool {
    guard let table = try? backend.table(reference(name), [.noFlush]) else { return false }
    return table.lines.first?.type == "thin-pool"
  }

  /// The device that the user means by a name or the path of its node.
  func reference(_ text: String) -> DeviceReference {
    guard text.contains("/") else { return .name(text) }
    if let number = try? devices.number(text) { return .number(number) }
    let prefix = backend.settings.deviceFolder.node("")
    return .name(text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text)
  }

  private func findPool(_ device: DeviceReference) throws(ToolError) -> LivePool? {
    let table = try command("find \(device)") { () throws(DeviceMapperError) in
      try backend.table(device, [.noFlush])
    }
    guard let table else { return nil }
    guard table.lines.count == 1, let line = table.lines.first, line.type == "thin-pool",
      let target = try? ThinPoolTarget(KernelText.words(line.parameters))
    else {
      let found = table.lines.first.map { "its target is \($0.type)" } ?? "it has no table"
      throw ToolError(.refused, "\(table.info.name) is no thin pool: \(found)")
    }
    return LivePool(info: table.info, sectors: line.length, target: target)
  }

  /// Every active pool, in the order of the backend.
  public func pools() throws(ToolError) -> [LivePool] {
    let entries = try command("list devices") { () throws(DeviceMapperError) in
      try backend.list()
    }
    var pools: [LivePool] = []
    for entry in entries {
      // One that went away since, or is something else, is not asked for.
      if let pool = try? findPool(.name(entry.name)) { pools.append(pool) }
    }
    return pools
  }

  /// Active devices that are thin devices of `pool`, in the order of the backend. What has thin
  /// devices as parts of its table comes once for each.
  public func activeThins(_ pool: LivePool) throws(ToolError) -> [ActiveThin] {
    let entries = try command("list devices") { () throws(DeviceMapperError) in
      try backend.list()
    }
    var thins: [ActiveThin] = []
    for entry in entries where entry.number != pool.number {
      let table = try command("look at \(entry.name)") { () throws(DeviceMapperError) in
        try backend.table(.number(entry.number), [.noFlush])
      }
      guard let table else { continue }
      for line in table.lines where line.type == "thin" {
        // On a failed pool tables say just "Fail".
        guard let target = try? ThinTarget(KernelText.words(line.parameters)),
          DeviceNumber(target.pool) == pool.number
        else { continue }
        thins.append(
          ActiveThin(info: table.info, sectors: line.length, target: target, table: table.lines))
      }
    }
    return thins
  }

  /// A pool's status.
  /// - Parameter flushes: whether the pool commits first, so that the numbers are those of this
  ///   moment.
  public func status(_ pool: LivePool, flushes: Bool = true) throws(ToolError) -> ThinPoolStatus {
    let found = try command("read the status of \(pool.name)") { () throws(DeviceMapperError) in
      try backend.status(.number(pool.number), flushes ? [] : [.noFlush])
    }
    guard let found else { throw ToolError(.notFound(.input), "\(pool.name) is gone") }
    guard let line = found.lines.first, let status = ThinPoolStatus(line.parameters) else {
      throw ToolError(
        .unexpected,
        "\(pool.name) has an unknown status: \(found.lines.first?.description ?? "nothing")")
    }
    // The commit may be what made the pool fail; the kernel says so from the next query on.
    if status == .error && flushes { return try self.status(pool, flushes: false) }
    return status
  }

  /// Sends a message to a pool.
  /// - Parameter what: what is asked, for the error, like `make thin device 5 in pool`.
  func message(_ pool: LivePool, _ message: ThinPoolMessage, to what: String) throws(ToolError) {
    do throws(DeviceMapperError) {
      // By name, which is how the library's messages then call it.
      _ = try backend.message(.name(pool.name), sector: 0, message.text)
    } catch {
      throw failure(what, error, hint: messageHint(pool, message, error.code))
    }
  }

  /// What a refused message means, where the number alone says too little.
  private func messageHint(_ pool: LivePool, _ message: ThinPoolMessage, _ code: Int32) -> String? {
    switch (code, message) {
    case (EEXIST, _): return "that id exists already"
    case (ENODATA, .createSnapshot(_, let origin)): return "there is no thin device \(origin)"
    case (ENODATA, _): return "there is no such thin device"
    case (EBUSY, .delete): return "it is active"
    case (EBUSY, .reserveMetadataSnapshot): return "the pool holds a metadata snapshot already"
    case (EINVAL, .releaseMetadataSnapshot): return "the pool holds no metadata snapshot"
    case (EOPNOTSUPP, _):
      return
        "the pool takes no changes in its present mode; see: dmthin pool doctor "
        + shellQuoted(pool.name)
    default: return nil
    }
  }
}

extension ThinPoolMessage {
  /// The id of a thin device, which commands have checked.
  static func id(_ id: UInt64) -> UInt32 { UInt32(clamping: id) }
}

extension PoolManager {
  /// Active thin devices of a pool, each with what it says of itself.
  public func thinStatuses(_ pool: LivePool) throws(ToolError)
    -> [(thin: ActiveThin, status: ThinStatus?)]
  {
    var result: [(thin: ActiveThin, status: ThinStatus?)] = []
    for thin in try activeThins(pool) {
      let found = try command("read the status of \(thin.name)") { () throws(DeviceMapperError) in
        try backend.status(.number(thin.info.number), [.noFlush])
      }
      // The part of the table that this thin device is.
      let index = thin.table.firstIndex { line in
        line.type == "thin" && (try? ThinTarget(KernelText.words(line.parameters))) == thin.target
      }
      let line = index.flatMap { index in
        found.flatMap { index < $0.lines.count ? $0.lines[index] : nil }
      }
      result.append((thin, line.flatMap { ThinStatus($0.parameters) }))
    }
    return result
  }
}
