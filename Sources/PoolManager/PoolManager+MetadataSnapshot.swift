import DeviceMapper
import Glibc
public import ThinTools

/// A request to hold a pool's metadata snapshot.
public struct LeaseRequest: Sendable {
  /// Who takes it, in their own words.
  public var owner: String
  /// A process with whose end the lease ends; nil where it ends by release or time alone.
  public var holder: ProcessIdentity?
  /// Seconds after which others may take over; nil for never.
  public var seconds: UInt64?
  /// Take it even where the present lease still counts, or where there is none to tell whose it is.
  public var takesOver = false

  /// A lease for `owner`.
  public init(owner: String) { self.owner = owner }
}

extension PoolManager {
  /// Has the pool hold a metadata snapshot, and writes down whose it is. One that is held already is
  /// replaced where its lease counts no more.
  /// - Returns: the block of its superblock, for tools that take `--metadata-snap=BLOCK`.
  public func reserveMetadataSnapshot(_ pool: LivePool, _ request: LeaseRequest)
    throws(ToolError) -> UInt64
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
          error.cause, "\(error.message)\n  the one that was held before has been released")
      }
    }
  }

  private func reserve(_ pool: LivePool, _ request: LeaseRequest) throws(ToolError) -> UInt64 {
    try message(
      pool, .reserveMetadataSnapshot, to: "make a metadata snapshot of \(pool.name)")
    do throws(ToolError) {
      guard let root = try heldRoot(pool) else {
        throw ToolError(.unexpected, "\(pool.name) does not say where its metadata snapshot is")
      }
      let lease = Lease(
        owner: request.owner, holder: request.holder, boot: ProcessIdentity.currentBoot,
        taken: Lease.now(), seconds: request.seconds, heldRoot: root)
      try runFolder.save(lease.text, key(pool), .lease)
      return root
    } catch {
      // Without a lease nobody would know whose it is.
      throw released(pool, error)
    }
  }

  private func release(_ pool: LivePool) throws(ToolError) {
    try message(
      pool, .releaseMetadataSnapshot, to: "release the metadata snapshot of \(pool.name)")
    runFolder.remove(key(pool), .lease)
  }

  /// Takes a reservation back.
  /// - Returns: `error`, and where that fails what stands.
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

  /// Gives the metadata snapshot up.
  /// - Parameters:
  ///   - owner: whose lease it has to be; nil for any that does not count any more or is not known.
  ///   - force: also where another's lease still counts.
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
          "\(describe(lease, pool)); give --owner \(shellQuoted(lease.owner)) if that is you, "
            + "or --force")
      }
      try release(pool)
    }
  }

  private func requireTakeover(_ pool: LivePool, _ held: UInt64, _ request: LeaseRequest)
    throws(ToolError)
  {
    guard let lease = try lease(pool) else {
      guard request.takesOver else {
        throw ToolError(
          .inUse,
          "\(pool.name) holds a metadata snapshot that was not made here, so that nothing tells whose "
            + "it is; if nobody reads it, give --take-over")
      }
      return note("took the metadata snapshot over from an unknown owner")
    }
    if let fault = lease.fault(now: Lease.now(), heldRoot: held) {
      return note("took the metadata snapshot over from '\(lease.owner)': \(fault)")
    }
    guard request.takesOver else {
      throw ToolError(
        .inUse, "\(describe(lease, pool)); if it is not needed any more, give --take-over")
    }
    note("took the metadata snapshot over from '\(lease.owner)', whose lease still counted")
  }

  /// The lease on a pool's metadata snapshot, if one was written down here.
  /// - Throws: where others could have written it.
  public func lease(_ pool: LivePool) throws(ToolError) -> Lease? {
    try runFolder.load(key(pool), .lease).flatMap { Lease($0) }
  }

  /// The same for those who only tell: where others could have written it, that is warned of, and there
  /// is none.
  public func knownLease(_ pool: LivePool) -> Lease? {
    do throws(ToolError) {
      return try lease(pool)
    } catch {
      warn(error.message)
      return nil
    }
  }

  /// A sentence on who holds the metadata snapshot, and since when.
  func describe(_ lease: Lease, _ pool: LivePool) -> String {
    var text =
      "'\(lease.owner)' holds the metadata snapshot of \(pool.name), for \(duration(lease.age()))"
    if let holder = lease.holder { text += ", while process \(holder.id) runs" }
    if let seconds = lease.seconds { text += ", until \(duration(seconds)) are over" }
    return text
  }

  private func heldRoot(_ pool: LivePool) throws(ToolError) -> UInt64? {
    guard case .working(let details) = try status(pool) else {
      throw ToolError(
        .refused,
        "\(pool.name) has failed; see: dmthin pool doctor \(shellQuoted(pool.name))")
    }
    return details.heldRoot
  }
}

/// A length of time for people: `40 seconds`, `3 hours`.
func duration(_ seconds: UInt64) -> String {
  for (unit, name) in [(86400, "days"), (3600, "hours"), (60, "minutes")] as [(UInt64, String)]
  where seconds >= 2 * unit {
    return "\(seconds / unit) \(name)"
  }
  return "\(seconds) seconds"
}
