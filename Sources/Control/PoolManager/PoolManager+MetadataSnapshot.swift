import DeviceMapper
import Glibc
public import ThinFormat
public import ThinTools

/// A request to hold a pool's metadata snapshot.
public struct LeaseRequest: Sendable {
  /// The owner's name, as the owner gives it.
  public var owner: String
  /// The process whose end ends the lease; nil if only a release or the time limit ends it.
  public var holder: ProcessIdentity?
  /// The duration in seconds; nil for no limit.
  public var seconds: UInt64?
  /// Whether to replace a metadata snapshot whose lease holds, or that has no lease.
  public var takesOver = false

  /// A lease for `owner`.
  public init(owner: String) { self.owner = owner }
}

extension PoolManager {
  /// Makes a metadata snapshot of the pool, and records its owner. An existing one is replaced if
  /// its lease has ended.
  /// - Returns: the block of its superblock, for tools that take `--metadata-snap=BLOCK`.
  public func reserveMetadataSnapshot(_ pool: LivePool, _ request: LeaseRequest)
    throws(ToolError) -> MetadataBlock
  {
    try locked(pool) { () throws(ToolError) in
      let held = try heldRoot(pool)
      if let held {
        try requireTakeover(pool, held, request)
        try release(pool)
      }
      do throws(ToolError) {
        return try reserve(pool, request)
      } catch {
        guard held != nil else { throw error }
        throw ToolError(
          error.cause, "\(error.message)\n  the previous one was released")
      }
    }
  }

  private func reserve(_ pool: LivePool, _ request: LeaseRequest) throws(ToolError) -> MetadataBlock
  {
    try message(
      pool, .reserveMetadataSnapshot, to: "make a metadata snapshot of \(pool.name)")
    do throws(ToolError) {
      guard let root = try heldRoot(pool) else {
        throw ToolError(
          .unexpected, "\(pool.name) does not report the block of its metadata snapshot")
      }
      let lease = Lease(
        owner: request.owner, holder: request.holder, boot: ProcessIdentity.currentBoot,
        taken: Lease.now(), seconds: request.seconds, heldRoot: root)
      try runFolder.save(lease.text, key(pool), .lease)
      return root
    } catch {
      // Without a lease its owner would be unknown.
      throw released(pool, error)
    }
  }

  private func release(_ pool: LivePool) throws(ToolError) {
    try message(
      pool, .releaseMetadataSnapshot, to: "release the metadata snapshot of \(pool.name)")
    runFolder.remove(key(pool), .lease)
  }

  /// Undoes a reservation.
  /// - Returns: `error`, extended if that fails too.
  private func released(_ pool: LivePool, _ error: ToolError) -> ToolError {
    do throws(ToolError) {
      try release(pool)
      return error
    } catch let undo {
      return ToolError(
        error.cause,
        "\(error.message)\n  \(undo.message)\n  the metadata snapshot is still held; release it with: "
          + "dmthin pool release-metadata-snap \(shellQuoted(pool.name))")
    }
  }

  /// Releases the metadata snapshot.
  /// - Parameters:
  ///   - owner: the required owner of the lease; nil for any whose lease has ended or is not known.
  ///   - force: whether to release it even if another owner's lease holds.
  public func releaseMetadataSnapshot(_ pool: LivePool, owner: String?, force: Bool = false)
    throws(ToolError)
  {
    try locked(pool) { () throws(ToolError) in
      let held = try heldRoot(pool)
      if let held, let lease = try lease(pool), lease.owner != owner, !force,
        lease.fault(now: Lease.now(), heldRoot: held) == nil
      {
        throw ToolError(
          .inUse,
          "\(describe(lease, pool)); give --owner \(shellQuoted(lease.owner)) if it is yours, "
            + "or --force")
      }
      try release(pool)
    }
  }

  private func requireTakeover(_ pool: LivePool, _ held: MetadataBlock, _ request: LeaseRequest)
    throws(ToolError)
  {
    guard let lease = try lease(pool) else {
      guard request.takesOver else {
        throw ToolError(
          .inUse,
          "\(pool.name) holds a metadata snapshot that this program did not make, so its owner is "
            + "unknown; if it is not in use, give --take-over")
      }
      return note("took the metadata snapshot over from an unknown owner")
    }
    if let fault = lease.fault(now: Lease.now(), heldRoot: held) {
      return note("took the metadata snapshot over from '\(lease.owner)': \(fault)")
    }
    guard request.takesOver else {
      throw ToolError(
        .inUse, "\(describe(lease, pool)); if it is no longer in use, give --take-over")
    }
    note("took the metadata snapshot over from '\(lease.owner)', whose lease had not ended")
  }

  /// The recorded lease on a pool's metadata snapshot, if there is one.
  /// - Throws: if another user could have written the record.
  public func lease(_ pool: LivePool) throws(ToolError) -> Lease? {
    try runFolder.load(key(pool), .lease).flatMap { Lease($0) }
  }

  /// The lease for verbs that only show it. If another user could have written the record, it warns
  /// and returns nil.
  public func knownLease(_ pool: LivePool) -> Lease? {
    do throws(ToolError) {
      return try lease(pool)
    } catch {
      warn(error.message)
      return nil
    }
  }

  /// A sentence on the owner and the age of the metadata snapshot.
  func describe(_ lease: Lease, _ pool: LivePool) -> String {
    var text =
      "'\(lease.owner)' holds the metadata snapshot of \(pool.name), for \(duration(lease.age()))"
    if let holder = lease.holder { text += ", while process \(holder.id) runs" }
    if let seconds = lease.seconds { text += ", for at most \(duration(seconds))" }
    return text
  }

  private func heldRoot(_ pool: LivePool) throws(ToolError) -> MetadataBlock? {
    guard case .working(let details) = try status(pool) else {
      throw ToolError(
        .refused,
        "\(pool.name) has failed; see: dmthin pool doctor \(shellQuoted(pool.name))")
    }
    return details.heldRoot.map { MetadataBlock($0) }
  }
}

/// A duration for users: `40 seconds`, `3 hours`.
func duration(_ seconds: UInt64) -> String {
  for (unit, name) in [(86400, "days"), (3600, "hours"), (60, "minutes")] as [(UInt64, String)]
  where seconds >= 2 * unit {
    return "\(seconds / unit) \(name)"
  }
  return "\(seconds) seconds"
}
