public import DeviceMapper
import Glibc
import ThinTools

/// Verbs on active pools, over whatever backend runs them.
///
/// Every verb takes the pool's lock, finishes what an earlier process left half done, and either does
/// all of what is asked or puts back what it did; where that fails too, the error says what stands.
/// Errors are `ToolError`, with `.command` where the backend refused or failed.
public final class PoolManager {
  /// What carries the commands out.
  public let backend: any DeviceMapperBackend
  /// Where processes leave word for each other.
  public let runFolder: RunFolder
  /// What paths and numbers of devices mean.
  public var devices = BlockDevices.system
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

  /// What the run folder calls a pool: by its metadata device, which stays the same for as long as the
  /// pool is active, whatever it is renamed to.
  func key(_ pool: LivePool) -> String { pool.metadata.map { "\($0)" } ?? pool.name }

  /// Runs a verb with a pool's lock, after finishing what is left over from earlier ones.
  func locked<R>(_ pool: LivePool, _ body: () throws(ToolError) -> R) throws(ToolError) -> R {
    try locked(key: key(pool), pool.name, body)
  }

  /// The same for a pool that is known by its key.
  /// - Parameter name: for messages.
  func locked<R>(key: String, _ name: String, _ body: () throws(ToolError) -> R)
    throws(ToolError) -> R
  {
    guard let lock = try runFolder.lock(key, seconds: lockSeconds) else {
      throw ToolError(
        .inUse,
        "another dmthin works on \(name) and does not come to an end "
          + "(\(runFolder.path(key, .lock)) is locked)")
    }
    defer { withExtendedLifetime(lock) {} }
    try finish(key)
    recoverOthers(than: key)
    return try body()
  }

  /// Finishes what interrupted verbs have left of any pool; those that still run are left alone, and
  /// what does not succeed is warned of. For verbs that change nothing.
  public func recover() { recoverOthers(than: nil) }

  private func recoverOthers(than key: String?) {
    do throws(ToolError) {
      for other in try runFolder.pools(with: .intent) where other != key { recoverAnother(other) }
    } catch {
      warn(error.message)
    }
  }

  private func recoverAnother(_ key: String) {
    do throws(ToolError) {
      guard let lock = try runFolder.lock(key, seconds: 0) else { return }
      defer { withExtendedLifetime(lock) {} }
      try finish(key)
    } catch {
      warn(error.message)
    }
  }

  /// Puts right what a process that is gone has left. The pool's lock is held.
  private func finish(_ key: String) throws(ToolError) {
    guard let text = try runFolder.load(key, .intent) else { return }
    guard let intent = Intent(text) else {
      // Nobody of ours wrote it. It names no device that could be trusted to be the right one.
      warn(
        "\(runFolder.path(key, .intent)) was not what this program writes, and is removed; "
          + "should a device have stayed suspended, dmthin pool doctor tells")
      return runFolder.remove(key, .intent)
    }
    guard !intent.owner.isRunning || intent.owner == .current else {
      throw ToolError(
        .inUse, "process \(intent.owner.id) is in the midst of '\(intent.action)' on \(intent.pool)"
      )
    }
    if intent.owner.boot == ProcessIdentity.currentBoot { try settle(intent) }
    runFolder.remove(key, .intent)
  }

  private func settle(_ intent: Intent) throws(ToolError) {
    let who = "'\(intent.action)' by process \(intent.owner.id), which was interrupted"
    var stuck: [String] = []
    for device in intent.devices {
      do throws(DeviceMapperError) {
        if let done = try settle(device) { note("\(done), left by \(who)") }
      } catch {
        stuck.append(
          "\(failure("put \(device.name) right, left by \(who)", error).message)\n  "
            + standing(device))
      }
    }
    guard stuck.isEmpty else {
      throw ToolError(.unexpected, stuck.joined(separator: "\n  "))
    }
    if !intent.created.isEmpty {
      let ids = intent.created.map { "\($0)" }.joined(separator: ", ")
      warn(
        "\(who): of the thin devices it was to make in \(intent.pool) (\(ids)) some may exist; "
          + "thin_ls -m lists them, dmthin pool delete \(shellQuoted(intent.pool)) ID deletes one")
    }
  }

  /// Has a device run again, with the table that it had where that was to be exchanged.
  /// - Returns: what was done, for the user; nil where nothing was to be.
  func settle(_ device: Intent.Device) throws(DeviceMapperError) -> String? {
    let reference = DeviceReference.number(device.number)
    guard let found = try backend.table(reference, [.noFlush]), device.isStill(found) else {
      return nil
    }
    let name = found.info.name
    guard let old = device.oldTable else {
      guard found.info.isSuspended else { return nil }
      try backend.resume(reference, [], node: NodeOptions())
      return "resumed \(name)"
    }
    if found.info.hasInactiveTable { try backend.clear(reference) }
    guard found.info.isSuspended else {
      return found.info.hasInactiveTable ? "dropped the new table of \(name)" : nil
    }
    if found.lines != old { try backend.load(reference, old, readOnly: found.info.isReadOnly) }
    try backend.resume(reference, [], node: NodeOptions())
    return "resumed \(name) with its old table"
  }

  /// What is to be said of a device that could not be put right: how it is, and how to finish.
  func standing(_ device: Intent.Device) -> String {
    let name = shellQuoted(device.name)
    let retry = "the next dmthin pool command tries again"
    let found = try? backend.table(.number(device.number), [.noFlush])
    guard let found else { return "how \(device.name) is cannot be found out; \(retry)" }
    guard found.info.isSuspended else {
      return found.info.hasInactiveTable
        ? "\(device.name) runs, and another table waits for its next resume; drop that with: "
          + "dmthin dm clear \(name)"
        : "\(device.name) runs"
    }
    var commands = ["dmthin dm resume \(name)"]
    if let old = device.oldTable {
      let table = old.map { "\($0)" }.joined(separator: "\n")
      if found.lines != old {
        commands.insert("dmthin dm reload \(name) --table \(shellQuoted(table))", at: 0)
      } else if found.info.hasInactiveTable {
        commands.insert("dmthin dm clear \(name)", at: 0)
      }
    }
    return "\(device.name) is still suspended; \(retry), or run: "
      + commands.joined(separator: "; ")
  }

  /// Has the next verb put `intent`'s devices right should this process end within `body`, or where
  /// that sets its argument: something is not as it was.
  func withIntent<R>(
    _ pool: LivePool, _ intent: Intent, _ body: (inout Bool) throws(ToolError) -> R
  ) throws(ToolError) -> R {
    let key = key(pool)
    do throws(ToolError) {
      try runFolder.save(intent.text, key, .intent)
    } catch {
      throw ToolError(error.cause, "\(error.message)\n  nothing was changed")
    }
    var stands = false
    defer { if !stands { runFolder.remove(key, .intent) } }
    return try body(&stands)
  }

  // MARK: - Errors

  /// What a command's failure means for the verb.
  func failure(_ what: String, _ error: DeviceMapperError, hint: String? = nil) -> ToolError {
    var text = "cannot \(what): \(hint ?? error.reason)"
    for line in "\(error)".split(separator: "\n") { text += "\n  \(line)" }
    return ToolError(.command(code: error.code), text)
  }

  /// Runs a command of the backend.
  func command<R>(_ what: @autoclosure () -> String, _ body: () throws(DeviceMapperError) -> R)
    throws(ToolError) -> R
  {
    do throws(DeviceMapperError) { return try body() } catch { throw failure(what(), error) }
  }
}
