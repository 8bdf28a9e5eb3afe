import DeviceMapper
public import ThinFormat
public import ThinTools

/// A snapshot to be taken.
public struct SnapshotVolume: Equatable, Sendable {
  /// Id of the thin device to snapshot.
  public var origin: ThinID
  /// Id of the snapshot.
  public var new: ThinID

  /// A snapshot `new` of `origin`.
  public init(origin: ThinID, new: ThinID) {
    self.origin = origin
    self.new = new
  }
}

extension PoolManager {
  /// Takes snapshots at the same moment. Every active origin is suspended, which flushes it and its
  /// file system, before the first snapshot is taken, and resumed after the last.
  ///
  /// On failure no snapshot is kept. If the process is killed, the next verb resumes the origins. A
  /// termination signal is honoured until the first snapshot is taken.
  /// - Parameter activate: a device to activate afterwards; if that fails, the snapshots are
  ///   deleted.
  public func snapshot(
    _ pool: LivePool, _ volumes: [SnapshotVolume], activate: ThinActivation? = nil
  ) throws(ToolError) {
    guard Set(volumes.map(\.new)).count == volumes.count else {
      throw ToolError(.refused, "two snapshots cannot have the same id")
    }
    try locked(pool) { () throws(ToolError) in
      var activate = activate
      if let activate { try requireFree(activate.name) }
      let thins = try activeThins(pool)
      let active = origins(of: thins)
      if let wanted = activate, wanted.origin.path == nil,
        let origin = volumes.first(where: { $0.new == wanted.id })?.origin
      {
        activate?.origin = active[origin].map { .path($0) } ?? wanted.origin
        if active[origin] == nil { try requireNoOrigin(pool, origin) }
      }
      let origins = try devicesToSuspend(thins, volumes)
      if origins.isEmpty {
        try takeSnapshots(pool, volumes)
      } else {
        try requireNoHeldWrites(pool, origins)
        let intent = Intent(
          pool: pool.name, action: "snapshot", devices: origins, created: volumes.map(\.new))
        try Interrupts.deferred { () throws(ToolError) in
          try withIntent(pool, intent) { stands throws(ToolError) in
            try snapshotSuspended(pool, volumes, origins, &stands)
          }
        }
      }
      recordOrigins(pool) { known in
        known.merge(active) { $1 }
        known.inherit(volumes)
      }
      guard let activate else { return }
      try undoing(pool, volumes.map(\.new)) { () throws(ToolError) in
        try self.activate(pool, activate)
      }
    }
  }

  /// Active devices with one of the origins in their table that are not suspended yet.
  private func devicesToSuspend(_ thins: [ActiveThin], _ volumes: [SnapshotVolume])
    throws(ToolError) -> [Intent.Device]
  {
    let origins = Set(volumes.map(\.origin))
    var devices: [Intent.Device] = []
    for thin in thins where origins.contains(thin.id) && !thin.info.isSuspended {
      // Resuming would make another program's table live.
      guard !thin.info.hasInactiveTable else {
        throw ToolError(
          .inUse,
          "cannot suspend \(thin.name): it has an inactive table; make that live with: dmthin "
            + "dm resume \(shellQuoted(thin.name)), or drop it with: dmthin dm clear "
            + shellQuoted(thin.name))
      }
      let device = Intent.Device(thin.info, thin.table)
      if !devices.contains(device) { devices.append(device) }
    }
    return devices
  }

  /// Suspending waits for all I/O, and writes to a full pool that queues never end.
  private func requireNoHeldWrites(_ pool: LivePool, _ origins: [Intent.Device])
    throws(ToolError)
  {
    guard case .working(let details) = try status(pool, flushes: false),
      details.mode == .outOfDataSpace, details.noSpace == .queue
    else { return }
    throw ToolError(
      .refused,
      "\(pool.name) is out of data space and queues writes, so suspending "
        + "\(origins.map(\.name).joined(separator: ", ")) might wait for ever; enlarge its data "
        + "device and run: dmthin pool grow \(shellQuoted(pool.name))")
  }

  /// - Parameter stands: set if an origin stays suspended.
  private func snapshotSuspended(
    _ pool: LivePool, _ volumes: [SnapshotVolume], _ origins: [Intent.Device],
    _ stands: inout Bool
  ) throws(ToolError) {
    var failed: ToolError?
    do throws(ToolError) {
      for origin in origins {
        if Interrupts.isPending { throw ToolError(.refused, "interrupted; no snapshot was taken") }
        try command("suspend \(origin.name)") { () throws(DeviceMapperError) in
          try backend.suspend(.number(origin.number), .whileConnected)
        }
      }
      if Interrupts.isPending { throw ToolError(.refused, "interrupted; no snapshot was taken") }
      try takeSnapshots(pool, volumes)
    } catch {
      failed = error
    }
    let stuck = resume(origins, looksFirst: failed != nil)
    stands = !stuck.isEmpty
    if let failed, stuck.isEmpty { throw failed }
    guard !stuck.isEmpty else { return }
    let ids = volumes.map { "\($0.new)" }.joined(separator: ", ")
    throw ToolError(
      .unexpected,
      ([failed?.message ?? "the snapshots were taken and are kept: \(ids)"] + stuck).joined(
        separator: "\n  "))
  }

  /// Resumes devices in reverse order. Returns messages about those that may still be suspended.
  /// - Parameter looksFirst: whether to query each device first, because some may not have been
  ///   suspended.
  private func resume(_ devices: [Intent.Device], looksFirst: Bool) -> [String] {
    var stuck: [String] = []
    for device in devices.reversed() {
      do throws(DeviceMapperError) {
        if looksFirst {
          _ = try settle(device)
        } else {
          try backend.resume(.number(device.number), [], node: NodeOptions())
        }
      } catch {
        stuck.append(
          "\(failure("resume \(device.name)", error).message)\n  \(standing(device))")
      }
    }
    return stuck
  }

  /// Sends the messages. If one is refused, the snapshots before it are deleted.
  private func takeSnapshots(_ pool: LivePool, _ volumes: [SnapshotVolume]) throws(ToolError) {
    var taken: [ThinID] = []
    do throws(ToolError) {
      for volume in volumes {
        try message(
          pool,
          .createSnapshot(
            ThinPoolMessage.id(volume.new), origin: ThinPoolMessage.id(volume.origin)),
          to: "make thin device \(volume.new) in \(pool.name), a snapshot of \(volume.origin)")
        taken.append(volume.new)
      }
    } catch {
      try undoing(pool, taken) { () throws(ToolError) in throw error }
    }
  }
}
