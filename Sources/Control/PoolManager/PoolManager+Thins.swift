import DeviceMapper
import Glibc
public import ThinFormat
public import ThinTools

/// The parameters for activating a thin device.
public struct ThinActivation: Sendable {
  /// The device's name.
  public var name: String
  /// Id in the pool.
  public var id: ThinID
  /// Sectors of 512 bytes.
  public var sectors: UInt64
  /// The external origin.
  public var origin: ExternalOrigin
  /// Whether the device refuses writes.
  public var isReadOnly = false
  /// The uuid; nil for none.
  public var uuid: String?

  /// An activation of `id` as `name`.
  public init(
    name: String, id: ThinID, sectors: UInt64, origin: ExternalOrigin = .unstated
  ) {
    self.name = name
    self.id = id
    self.sectors = sectors
    self.origin = origin
  }
}

extension PoolManager {
  /// Makes thin devices without blocks, and activates one if asked to. On failure none is kept.
  public func createThin(
    _ pool: LivePool, _ ids: ClosedRange<ThinID>, activate: ThinActivation? = nil
  ) throws(ToolError) {
    try locked(pool) { () throws(ToolError) in
      if let activate { try requireFree(activate.name) }
      var made: [ThinID] = []
      do throws(ToolError) {
        for id in ids {
          try message(
            pool, .createThin(ThinPoolMessage.id(id)), to: "make thin device \(id) in \(pool.name)")
          made.append(id)
        }
        recordOrigins(pool) { $0.forget(ids) }
        if let activate { try self.activate(pool, activate) }
      } catch {
        try undoing(pool, made) { () throws(ToolError) in throw error }
      }
    }
  }

  /// Deletes thin devices in order, and stops at the first that cannot be deleted.
  /// - Parameter deactivates: whether to remove their active devices first.
  public func delete(_ pool: LivePool, _ ids: ClosedRange<ThinID>, deactivates: Bool = false)
    throws(ToolError)
  {
    try locked(pool) { () throws(ToolError) in
      var done: [String] = []
      var deleted: ClosedRange<ThinID>?
      defer { if let deleted { recordOrigins(pool) { $0.forget(deleted) } } }
      do throws(ToolError) {
        if deactivates {
          for thin in try activeThins(pool) where ids.contains(thin.id) {
            if done.contains(thin.name) { continue }
            try remove(thin.name)
            done.append(thin.name)
          }
        }
        for id in ids {
          try delete(pool, id)
          deleted = ids.lowerBound...id
        }
      } catch {
        var text = error.message
        if !done.isEmpty { text += "\n  already deactivated: \(done.joined(separator: ", "))" }
        if let deleted {
          text += "\n  already deleted: \(deleted.lowerBound) to \(deleted.upperBound)"
        }
        throw ToolError(error.cause, text)
      }
    }
  }

  private func delete(_ pool: LivePool, _ id: ThinID) throws(ToolError) {
    do throws(ToolError) {
      try message(
        pool, .delete(ThinPoolMessage.id(id)), to: "delete thin device \(id) of \(pool.name)")
    } catch {
      guard error.isInUse else { throw error }
      let names = try activeThins(pool).filter { $0.id == id }.map(\.name)
      guard !names.isEmpty else { throw error }
      let commands = names.map { "dmthin pool deactivate \(shellQuoted($0))" }
      throw ToolError(
        .inUse,
        "\(error.message)\n  active as \(names.joined(separator: ", ")); first run: "
          + commands.joined(separator: "; "))
    }
  }

  /// Sets the pool's transaction id.
  public func setTransactionID(_ pool: LivePool, from current: UInt64, to new: UInt64)
    throws(ToolError)
  {
    try locked(pool) { () throws(ToolError) in
      do throws(ToolError) {
        try message(
          pool, .setTransactionID(current: current, new: new),
          to: "set the transaction id of \(pool.name)")
      } catch {
        guard case .working(let details) = try? status(pool, flushes: false),
          details.transactionID != current
        else { throw error }
        throw ToolError(
          .refused,
          "\(error.message)\n  the transaction id is \(details.transactionID), not "
            + "\(current)")
      }
    }
  }

  /// Activates an existing thin device.
  public func activateThin(_ pool: LivePool, _ activation: ThinActivation) throws(ToolError) {
    try locked(pool) { () throws(ToolError) in
      try requireFree(activation.name)
      try activate(pool, activation)
    }
  }

  func activate(_ pool: LivePool, _ activation: ThinActivation) throws(ToolError) {
    var target = ThinTarget(pool: "\(pool.number)", id: ThinPoolMessage.id(activation.id))
    switch activation.origin {
    case .path(let path): target.externalOrigin = try devices.word(path, backend)
    case .unstated: try requireNoOrigin(pool, activation.id)
    case .none: break
    }
    guard activation.sectors > 0 else {
      throw ToolError(.refused, "a thin device has at least one sector")
    }
    var request = DeviceCreation(
      name: activation.name, uuid: activation.uuid,
      table: [
        TableLine(
          start: 0, length: activation.sectors, type: "thin", parameters: target.parameters)
      ])
    request.isReadOnly = activation.isReadOnly
    do throws(DeviceMapperError) {
      try backend.create(request)
    } catch {
      throw failure(
        "activate thin device \(activation.id) of \(pool.name) as \(activation.name)", error,
        hint: error.code == ENODATA ? "no thin device has that id" : nil)
    }
    recordOrigins(pool) { $0[activation.id] = activation.origin.path.map { Self.fullPath($0) } }
  }

  // MARK: - External origins

  private func originRecords(_ pool: LivePool) -> OriginRecords? {
    guard let metadata = pool.metadata else { return nil }
    // A server assigns its own numbers to files.
    return backend.path(of: metadata).map { OriginRecords(metadata: $0) }
      ?? OriginRecords(metadata: metadata)
  }

  /// Records which devices have origins; warns if that fails.
  func recordOrigins(_ pool: LivePool, _ change: (inout OriginRecords.Origins) -> Void) {
    do throws(ToolError) {
      try originRecords(pool)?.update(change)
    } catch {
      warn(error.message)
    }
  }

  /// Refuses a device that had an origin at its last activation: without it, unmapped blocks would
  /// read as zeros, and file systems would be damaged.
  func requireNoOrigin(_ pool: LivePool, _ id: ThinID) throws(ToolError) {
    guard let path = originRecords(pool)?.load()[id] else { return }
    throw ToolError(
      .refused,
      OriginRecords.need("thin device \(id) of \(pool.name)", path)
        + "\n  give --external-origin \(shellQuoted(path)), or --no-external-origin if it no longer "
        + "needs one")
  }

  /// The origins of active thin devices, by id.
  func origins(of thins: [ActiveThin]) -> OriginRecords.Origins {
    var origins: OriginRecords.Origins = [:]
    for thin in thins { origins[thin.id] = origin(of: thin) }
    return origins
  }

  /// A path of the external origin of an active thin device; nil if it has none.
  public func origin(of thin: ActiveThin) -> String? {
    thin.target.externalOrigin.map { text in
      DeviceNumber(text).map { devices.path($0, backend) } ?? text
    }
  }

  private static func fullPath(_ path: String) -> String {
    guard !path.hasPrefix("/"), let folder = unsafe getcwd(nil, 0) else { return path }
    defer { unsafe free(folder) }
    return unsafe "\(String(cString: folder))/\(path)"
  }

  /// Removes a device.
  func remove(_ name: String, deferred: Bool = false, retry: Bool = true) throws(ToolError) {
    do throws(DeviceMapperError) {
      try backend.remove(.name(name), deferred: deferred, retry: retry)
    } catch {
      throw failure(
        "deactivate \(name)", error,
        hint: error.code == EBUSY ? "it is open; close or unmount what uses it" : nil)
    }
  }

  /// Deactivates an active thin device or pool.
  /// - Parameters:
  ///   - all: whether to deactivate a pool's active thin devices too.
  ///   - deferred: whether an open device is removed when it is closed.
  public func deactivate(_ name: String, all: Bool = false, deferred: Bool = false)
    throws(ToolError)
  {
    guard
      let found = try command(
        "find \(name)", { () throws(DeviceMapperError) in try backend.table(reference(name), []) })
    else { throw ToolError(.notFound(.input), "no active device is called '\(name)'") }
    if found.lines.first?.type == "thin-pool" {
      let pool = try pool(found.info.name)
      return try locked(pool) { () throws(ToolError) in
        try deactivatePool(pool, all: all, deferred: deferred)
      }
    }
    // The table of a failed pool is just "Fail".
    guard let line = found.lines.first(where: { $0.type == "thin" }) else {
      throw ToolError(.refused, "\(found.info.name) is neither a thin device nor a pool")
    }
    let number = (try? ThinTarget(KernelText.words(line.parameters))).flatMap {
      DeviceNumber($0.pool)
    }
    guard let number, let pool = try pool(number) else {
      recover()
      return try remove(found.info.name, deferred: deferred)
    }
    try locked(pool) { () throws(ToolError) in try remove(found.info.name, deferred: deferred) }
  }

  private func deactivatePool(_ pool: LivePool, all: Bool, deferred: Bool) throws(ToolError) {
    let names = try activeThins(pool).reduce(into: [String]()) { names, thin in
      if !names.contains(thin.name) { names.append(thin.name) }
    }
    if !names.isEmpty && !all {
      throw ToolError(
        .inUse,
        "\(pool.name) has active thin devices: \(names.joined(separator: ", ")); "
          + "deactivate them first, or give --all")
    }
    var removed: [String] = []
    do throws(ToolError) {
      for name in names {
        try remove(name, deferred: deferred)
        removed.append(name)
      }
      try remove(pool.name, deferred: deferred)
    } catch {
      guard !removed.isEmpty else { throw error }
      throw ToolError(
        error.cause, "\(error.message)\n  already deactivated: \(removed.joined(separator: ", "))")
    }
  }

  /// Runs `body` after thin devices were made; deletes them again if it fails.
  func undoing<R>(_ pool: LivePool, _ ids: [ThinID], _ body: () throws(ToolError) -> R)
    throws(ToolError) -> R
  {
    do throws(ToolError) {
      return try body()
    } catch {
      var text = error.message
      for id in ids.reversed() {
        do throws(ToolError) {
          try message(pool, .delete(ThinPoolMessage.id(id)), to: "delete thin device \(id) again")
        } catch let undo {
          text +=
            "\n  \(undo.message)\n  it still exists; delete it with: dmthin pool delete "
            + "\(shellQuoted(pool.name)) \(id)"
        }
      }
      throw ToolError(error.cause, text)
    }
  }

  /// Refuses a name that is taken, before anything is done.
  func requireFree(_ name: String) throws(ToolError) {
    let taken = try command("look for \(name)") { () throws(DeviceMapperError) in
      try backend.info(.name(name), [])
    }
    if taken != nil { throw ToolError(.inUse, "a device called '\(name)' is already active") }
  }
}
