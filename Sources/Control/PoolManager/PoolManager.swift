public import DeviceMapper
import Glibc
import ThinTools

/// Verbs on active pools, over any backend.
///
/// Every verb takes the pool's lock, completes or undoes changes that an earlier process left
/// incomplete, and then does the whole operation or undoes it. If undoing fails too, the error says
/// what remains. Errors are `ToolError`, with `.command` if the backend refused or failed.
public final class PoolManager {
  /// The backend that executes the commands.
  public let backend: any DeviceMapperBackend
  /// The folder with the files that processes share.
  public let runFolder: RunFolder
  /// Resolves paths and numbers of devices.
  public var devices = BlockDevices.system
  /// Prints information about what was done.
  public var note: (String) -> Void = { _ in }
  /// Prints warnings about faults that stop nothing.
  public var warn: (String) -> Void = { _ in }
  /// Seconds to wait for the lock of another verb on the same pool.
  public var lockSeconds = 10

  /// A manager over `backend`.
  public init(_ backend: any DeviceMapperBackend, runFolder: RunFolder = RunFolder()) {
    self.backend = backend
    self.runFolder = runFolder
  }

  // MARK: - Locks and recovery

  /// A pool's key in the run folder: the number of its metadata device, which stays the same while
  /// the pool is active, even when it is renamed.
  func key(_ pool: LivePool) -> String { pool.metadata.map { "\($0)" } ?? pool.name }

  /// Runs a verb with a pool's lock, after recovering from interrupted verbs.
  func locked<R>(_ pool: LivePool, _ body: () throws(ToolError) -> R) throws(ToolError) -> R {
    try locked(key: key(pool), pool.name, body)
  }

  /// Runs a verb with the lock of a pool's key.
  /// - Parameter name: for messages.
  func locked<R>(key: String, _ name: String, _ body: () throws(ToolError) -> R)
    throws(ToolError) -> R
  {
    guard let lock = try runFolder.lock(key, seconds: lockSeconds) else {
      throw ToolError(
        .inUse,
        "another dmthin command on \(name) has not finished "
          + "(\(runFolder.path(key, .lock)) is locked)")
    }
    defer { withExtendedLifetime(lock) {} }
    try finish(key)
    recoverOthers(than: key)
    return try body()
  }

  /// Recovers from interrupted verbs on any pool. Verbs that still run are left alone, and failures
  /// are printed as warnings. For verbs that change nothing.
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

  /// Recovers from a verb whose process has ended. Requires the pool's lock.
  private func finish(_ key: String) throws(ToolError) {
    guard let text = try runFolder.load(key, .intent) else { return }
    guard let intent = Intent(text) else {
      // This program did not write it, so the devices it names cannot be trusted.
      warn(
        "\(runFolder.path(key, .intent)) was not written by this program, and is removed; "
          + "if a device has stayed suspended, dmthin pool doctor reports it")
      return runFolder.remove(key, .intent)
    }
    guard !intent.owner.isRunning || intent.owner == .current else {
      throw ToolError(
        .inUse, "process \(intent.owner.id) is running '\(intent.action)' on \(intent.pool)"
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
        "\(who): some of the thin devices it was making in \(intent.pool) (\(ids)) may exist; "
          + "thin_ls -m lists them, dmthin pool delete \(shellQuoted(intent.pool)) ID deletes one")
    }
  }

  /// Resumes a device, with its old table if that was to be exchanged.
  /// - Returns: what was done, for the user; nil if nothing was necessary.
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

  /// A message about a device that could not be recovered: its state, and how to recover it.
  func standing(_ device: Intent.Device) -> String {
    let name = shellQuoted(device.name)
    let retry = "the next dmthin pool command tries again"
    let found = try? backend.table(.number(device.number), [.noFlush])
    guard let found else { return "the state of \(device.name) cannot be read; \(retry)" }
    guard found.info.isSuspended else {
      return found.info.hasInactiveTable
        ? "\(device.name) runs, and has an inactive table; drop that with: "
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

  /// Records `intent` while `body` runs. If this process ends within it, or `body` sets its
  /// argument, the record stays, and the next verb recovers the devices.
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

  /// The error of a verb whose command failed.
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
