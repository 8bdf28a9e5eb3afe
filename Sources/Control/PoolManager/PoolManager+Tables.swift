public import DeviceMapper
import Glibc
public import ThinTools

/// The result of extending a pool, in blocks.
public struct PoolGrowth: Equatable, Sendable {
  /// Data blocks before and after.
  public var data: (before: UInt64, after: UInt64)
  /// Metadata blocks of 4096 bytes before and after.
  public var metadata: (before: UInt64, after: UInt64)

  /// Whether nothing changed.
  public var isNone: Bool { data.before == data.after && metadata.before == metadata.after }

  /// Whether both are equal.
  public static func == (left: PoolGrowth, right: PoolGrowth) -> Bool {
    left.data == right.data && left.metadata == right.metadata
  }
}

extension PoolManager {
  /// Gives a device a new table. It keeps the old one until the new one is live, and gets it back
  /// if it does not run with the new one.
  /// - Parameter what: the operation, for errors, like `resize thin1`.
  func swapTable(
    _ pool: LivePool, _ device: DeviceInfo, from old: [TableLine], to new: [TableLine],
    _ what: String
  ) throws(ToolError) {
    let reference = DeviceReference.number(device.number)
    // A device may be suspended for a reason; the new table becomes live at its resume.
    let waits = device.isSuspended
    guard !waits || !device.hasInactiveTable else {
      throw ToolError(
        .inUse,
        "cannot \(what): \(device.name) is suspended and has an inactive table; "
          + "show it with: dmthin dm table --inactive \(shellQuoted(device.name))")
    }
    let entry = Intent.Device(device, old, swaps: true)
    let intent = Intent(pool: pool.name, action: what, devices: waits ? [] : [entry])
    try withIntent(pool, intent) { stands throws(ToolError) in
      do throws(DeviceMapperError) {
        try backend.load(reference, new, readOnly: device.isReadOnly)
      } catch {
        let error = failure("\(what): the new table was refused", error)
        throw waits ? error : putBack(entry, error, &stands)
      }
      guard !waits else {
        return note("\(device.name) is suspended; the change takes effect when it is resumed")
      }
      do throws(DeviceMapperError) {
        // With an inactive table this suspends, exchanges the tables and resumes, all in the
        // kernel.
        try backend.resume(reference, [], node: NodeOptions())
      } catch {
        let hint =
          error.code == ENOSPC
          ? "the metadata has no room to record it; enlarge the metadata device first" : nil
        throw putBack(entry, failure(what, error, hint: hint), &stands)
      }
    }
  }

  /// Resumes the device with its old table after a failed load or resume.
  private func putBack(_ device: Intent.Device, _ error: ToolError, _ stands: inout Bool)
    -> ToolError
  {
    do throws(DeviceMapperError) {
      _ = try settle(device)
      let now = try backend.table(.number(device.number), [.noFlush])
      let isOld = now?.lines == device.oldTable
      return ToolError(
        error.cause, "\(error.message)\n  the \(isOld ? "old" : "new") table is in use")
    } catch let undo {
      stands = true
      return ToolError(
        error.cause,
        "\(error.message)\n  \(failure("put the old table back", undo).message)\n  "
          + standing(device))
    }
  }

  /// Changes the size of an active thin device.
  /// - Parameter shrinks: whether it may become smaller, which hides blocks beyond the new end.
  public func resizeThin(_ name: String, sectors: UInt64, shrinks: Bool = false)
    throws(ToolError)
  {
    let thin = try thin(name)
    guard thin.table.count == 1, let pool = try pool(numberOf: thin) else {
      throw ToolError(
        .refused, "\(thin.name) is made of several targets; resize it with dmsetup reload")
    }
    guard sectors > 0 else { throw ToolError(.refused, "a thin device has at least one sector") }
    guard sectors >= thin.sectors || shrinks else {
      throw ToolError(
        .refused,
        "\(thin.name) has \(thin.sectors) sectors, and a smaller size would hide the rest; shrink the "
          + "file system first, and give --shrink")
    }
    guard sectors != thin.sectors else { return }
    try locked(pool) { () throws(ToolError) in
      var line = thin.table[0]
      line.length = sectors
      try swapTable(pool, thin.info, from: thin.table, to: [line], "resize \(thin.name)")
    }
  }

  private func pool(numberOf thin: ActiveThin) throws(ToolError) -> LivePool? {
    guard let number = DeviceNumber(thin.target.pool) else { return nil }
    return try pool(number)
  }

  /// The active thin device with this name or node.
  public func thin(_ name: String) throws(ToolError) -> ActiveThin {
    let found = try command("find \(name)") { () throws(DeviceMapperError) in
      try backend.table(reference(name), [.noFlush])
    }
    guard let found else {
      throw ToolError(.notFound(.input), "no active device is called '\(name)'")
    }
    guard let line = found.lines.first, line.type == "thin",
      let target = try? ThinTarget(KernelText.words(line.parameters))
    else {
      throw ToolError(
        .refused,
        "\(found.info.name) is not a thin device"
          + (found.lines.first.map { ": its table is '\($0)'" } ?? ""))
    }
    return ActiveThin(
      info: found.info, sectors: line.length, target: target, table: found.lines)
  }

  // MARK: - The pool's own table

  /// Extends a pool to the present size of its data and metadata devices.
  public func grow(_ pool: LivePool) throws(ToolError) -> PoolGrowth {
    try locked(pool) { () throws(ToolError) in
      let before = try working(pool, to: "grow")
      guard let data = pool.data, let sectors = devices.sectors(data, backend) else {
        throw ToolError(.notFound(.input), "the data device of \(pool.name) is missing")
      }
      guard sectors >= pool.sectors else {
        throw ToolError(
          .refused,
          "the data device of \(pool.name) has \(sectors) sectors, the pool \(pool.sectors): pools "
            + "do not shrink, so it must not become smaller")
      }
      // A partial block is of no use, and its size differs from machine to machine.
      let whole = max(pool.sectors, sectors - sectors % pool.target.blockSectors)
      let line = pool.line(pool.target, sectors: whole)
      try swapTable(
        pool, pool.info, from: [pool.line(pool.target, sectors: pool.sectors)], to: [line],
        "grow \(pool.name)")
      let after: ThinPoolStatus.Details
      do throws(ToolError) {
        after = try working(pool, to: "look at")
      } catch {
        throw ToolError(error.cause, "\(pool.name) was extended, but: \(error.message)")
      }
      return PoolGrowth(
        data: (before.data.total, after.data.total),
        metadata: (before.metadata.total, after.metadata.total))
    }
  }

  /// Changes features and the low water mark of an active pool.
  public func changeFeatures(
    _ pool: LivePool, enable: Set<ThinPoolTarget.Feature>, disable: Set<ThinPoolTarget.Feature>,
    lowWaterBlocks: UInt64? = nil
  ) throws(ToolError) {
    var target = pool.target
    target.features.formUnion(enable)
    target.features.subtract(disable)
    target.lowWaterBlocks = lowWaterBlocks ?? target.lowWaterBlocks
    guard target != pool.target else { return }
    let discards = ThinPoolTarget.Feature.ignoreDiscard
    guard target.features.contains(discards) == pool.target.features.contains(discards) else {
      throw ToolError(
        .refused,
        "the kernel does not change ignore_discard of an active pool; deactivate \(pool.name) and "
          + "activate it again, with the feature or without")
    }
    guard target.features.count <= 4 else {
      throw ToolError(.refused, "the kernel accepts at most four features")
    }
    try locked(pool) { () throws(ToolError) in
      if target.features.contains(.readOnly) == false { _ = try working(pool, to: "change") }
      try swapTable(
        pool, pool.info, from: [pool.line(pool.target, sectors: pool.sectors)],
        to: [pool.line(target, sectors: pool.sectors)], "change the features of \(pool.name)")
    }
  }

  /// The status of a pool that can be given a new table.
  private func working(_ pool: LivePool, to verb: String) throws(ToolError)
    -> ThinPoolStatus.Details
  {
    let doctor = "see: dmthin pool doctor \(shellQuoted(pool.name))"
    guard case .working(let details) = try status(pool) else {
      throw ToolError(.refused, "cannot \(verb) \(pool.name), which has failed; \(doctor)")
    }
    guard !details.needsCheck else {
      throw ToolError(
        .refused, "cannot \(verb) \(pool.name), whose metadata needs a check; \(doctor)")
    }
    return details
  }
}
