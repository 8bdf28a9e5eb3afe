public import DeviceMapper
import Glibc
import ThinTools

/// Verbs on active pools, over whatever backend runs them.
///
/// Every verb takes the pool's lock, finishes what an earlier process left half done, and either does
/// all of what is asked or puts back what it did; where that fails too, the error says what stands.
/// Errors are `ToolError`: `.input` for what is not there, `.busy` for what is in use, `.request` for
/// what the pool refuses, `.inputOutput` for the rest.
public final class PoolManager {
  /// What carries the commands out.
  public let backend: any DeviceMapperBackend
  /// Where processes leave word for each other.
  public let runFolder: RunFolder
  /// Told what was done on the way that the user may want to know.
  public var note: (String) -> Void = { _ in }
  /// Told what is not as it should be, and stops nothing.
  public var warn: (String) -> Void = { _ in }
  /// Seconds to wait for another verb on the same pool.
  public var lockSeconds = 10

  /// A manager over `backend`.
  public init(_ backend: any DeviceMapperBackend, runFolder: RunFolder = RunFolder()) {
    self.backend = backend
    self.runFolder = runFolder
  }

  // MARK: - Locks and what is left over

  /// Runs a verb with the pool's lock, after finishing what is left over from earlier ones.
  func locked<R>(_ pool: String, _ body: () throws(ToolError) -> R) throws(ToolError) -> R {
    guard let lock = try runFolder.lock(pool, seconds: lockSeconds) else {
      throw ToolError(
        .busy,
        "another dmthin works on \(pool) and does not come to an end "
          + "(\(runFolder.path(pool, "lock")) is locked)")
    }
    defer { withExtendedLifetime(lock) {} }
    try finish(pool)
    recoverOthers(than: pool)
    return try body()
  }

  /// Finishes what interrupted verbs have left of any pool; those that still run are left alone, and
  /// what does not succeed is warned of. For verbs that change nothing.
  public func recover() { recoverOthers(than: nil) }

  private func recoverOthers(than pool: String?) {
    for other in runFolder.pools(with: "intent") where other != pool {
      do throws(ToolError) {
        guard let lock = try runFolder.lock(other, seconds: 0) else { continue }
        defer { withExtendedLifetime(lock) {} }
        try finish(other)
      } catch {
        warn(error.message)
      }
    }
  }

  /// Resumes what a process that is gone has left suspended. The pool's lock is held.
  private func finish(_ pool: String) throws(ToolError) {
    guard let text = runFolder.load(pool, "intent") else { return }
    guard let intent = Intent(text) else {
      warn("\(runFolder.path(pool, "intent")) is not what this program writes; it is ignored")
      return
    }
    guard !intent.owner.isRunning || intent.owner == .current else {
      throw ToolError(
        .busy, "process \(intent.owner.id) is in the midst of '\(intent.action)' on \(pool)")
    }
    if intent.owner.boot == ProcessIdentity.currentBoot {
      try resume(left: intent)
    }
    runFolder.remove(pool, "intent")
  }

  private func resume(left intent: Intent) throws(ToolError) {
    let who = "'\(intent.action)' by process \(intent.owner.id), which was interrupted"
    for device in intent.devices {
      do throws(DeviceMapperError) {
        // The same number under another name is another device.
        guard let info = try backend.info(.number(device.number), []), info.name == device.name,
          info.isSuspended
        else { continue }
        try backend.resume(.name(device.name), [], node: NodeOptions())
        note("resumed \(device.name), left suspended by \(who)")
      } catch {
        throw failure("resume \(device.name), left suspended by \(who)", error)
      }
    }
    if !intent.created.isEmpty {
      let ids = intent.created.map { "\($0)" }.joined(separator: ", ")
      warn("\(who): of the thin devices it was to make (\(ids)) some may exist")
    }
  }

  /// Has `devices` resumed by the next verb should this process end before it calls `body`'s end.
  /// - Parameter isSettled: whether all devices are as they should be; asked at the end.
  func withIntent<R>(
    _ pool: String, _ intent: Intent, _ body: () throws(ToolError) -> (R, isSettled: Bool)
  ) throws(ToolError) -> R {
    try runFolder.save(intent.text, pool, "intent")
    let (result, isSettled) = try body()
    if isSettled { runFolder.remove(pool, "intent") }
    return result
  }

  // MARK: - Errors

  /// What a command's failure means for the verb.
  func failure(_ what: String, _ error: DeviceMapperError, hint: String? = nil) -> ToolError {
    let kind: ToolError.Kind =
      switch error.code {
      case EBUSY: .busy
      case ENXIO, ENODEV, ENOENT: .input
      case EINVAL, EEXIST, ENODATA, EOPNOTSUPP, EILSEQ, ENOTBLK, EPERM, ENOSPC: .request
      default: .inputOutput
      }
    var text = "cannot \(what): \(hint ?? error.reason)"
    for line in "\(error)".split(separator: "\n") { text += "\n  \(line)" }
    return ToolError(kind, text)
  }

  /// Runs a command of the backend.
  func command<R>(_ what: @autoclosure () -> String, _ body: () throws(DeviceMapperError) -> R)
    throws(ToolError) -> R
  {
    do throws(DeviceMapperError) { return try body() } catch { throw failure(what(), error) }
  }
}
