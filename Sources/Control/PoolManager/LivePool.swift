public import DeviceMapper
import Glibc
public import ThinFormat
public import ThinTools

/// An active pool, described by its table.
public struct LivePool: Sendable {
  /// Its state at the time of the query.
  public var info: DeviceInfo
  /// Sectors of its table: the part of the data device that it may use.
  public var sectors: UInt64
  /// The parsed table; devices by number.
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

/// An active device whose table has a thin device of a pool.
public struct ActiveThin: Sendable {
  /// Its state at the time of the query.
  public var info: DeviceInfo
  /// Sectors of its table.
  public var sectors: UInt64
  /// The parsed table; devices by number.
  public var target: ThinTarget
  /// Its whole table: a thin device may be one part of a larger device.
  public var table: [TableLine]

  /// Its name.
  public var name: String { info.name }
  /// Id in the pool.
  public var id: ThinID { ThinID(UInt64(target.id)) }
}

extension PoolManager {
  /// The active pool with this name or node.
  public func pool(_ name: String) throws(ToolError) -> LivePool {
    guard let pool = try findPool(reference(name)) else {
      throw ToolError(.notFound(.input), "no active device is called '\(name)'")
    }
    return pool
  }

  /// The pool that has `number`.
  public func pool(_ number: DeviceNumber) throws(ToolError) -> LivePool? {
    try findPool(.number(number))
  }

  /// Whether `name` is an active pool.
  public func isPool(_ name: String) -> Bool {
    guard let table = try? backend.table(reference(name), [.noFlush]) else { return false }
    return table.lines.first?.type == "thin-pool"
  }

  /// The device with this name or node.
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
      throw ToolError(.refused, "\(table.info.name) is not a thin pool: \(found)")
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
      // Devices that were removed meanwhile, or are not pools, are skipped.
      if let pool = try? findPool(.name(entry.name)) { pools.append(pool) }
    }
    return pools
  }

  /// The active thin devices of `pool`, in the order of the backend. A device with several thin
  /// devices in its table is listed once for each.
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
        // The table of a failed pool is just "Fail".
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
  /// - Parameter flushes: whether to commit the pool first, so that the numbers are up to date.
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
    // The commit may have made the pool fail; the kernel reports that from the next query on.
    if status == .error && flushes { return try self.status(pool, flushes: false) }
    return status
  }

  /// Sends a message to a pool.
  /// - Parameter what: the operation, for the error, like `make thin device 5 in pool`.
  func message(_ pool: LivePool, _ message: ThinPoolMessage, to what: String) throws(ToolError) {
    do throws(DeviceMapperError) {
      // By name, because the library's messages then use the name.
      _ = try backend.message(.name(pool.name), sector: 0, message.text)
    } catch {
      throw failure(what, error, hint: messageHint(pool, message, error.code))
    }
  }

  /// An explanation of a refused message whose error number alone is not clear.
  private func messageHint(_ pool: LivePool, _ message: ThinPoolMessage, _ code: Int32) -> String? {
    switch (code, message) {
    case (EEXIST, _): return "that id already exists"
    case (ENODATA, .createSnapshot(_, let origin)): return "thin device \(origin) does not exist"
    case (ENODATA, _): return "that thin device does not exist"
    case (EBUSY, .delete): return "it is active"
    case (EBUSY, .reserveMetadataSnapshot): return "the pool already holds a metadata snapshot"
    case (EINVAL, .releaseMetadataSnapshot): return "the pool holds no metadata snapshot"
    case (EOPNOTSUPP, _):
      return
        "the pool accepts no changes in its present mode; see: dmthin pool doctor "
        + shellQuoted(pool.name)
    default: return nil
    }
  }
}

extension ThinPoolMessage {
  /// The id of a thin device as messages and tables have it; commands have checked its range.
  static func id(_ id: ThinID) -> UInt32 { UInt32(clamping: id.rawValue) }
}

extension PoolManager {
  /// Active thin devices of a pool, each with its status.
  public func thinStatuses(_ pool: LivePool) throws(ToolError)
    -> [(thin: ActiveThin, status: ThinStatus?)]
  {
    var result: [(thin: ActiveThin, status: ThinStatus?)] = []
    for thin in try activeThins(pool) {
      let found = try command("read the status of \(thin.name)") { () throws(DeviceMapperError) in
        try backend.status(.number(thin.info.number), [.noFlush])
      }
      // The part of the table with this thin device.
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
