import Glibc
import Synchronization

/// Signals that ask a process to end are put off while devices are suspended: they interrupt what
/// waits, and are looked at where it is safe to stop.
enum Interrupts {
  private static let seen = Atomic<Bool>(false)

  /// Whether a signal came during `deferred`.
  static var isPending: Bool { seen.load(ordering: .relaxed) }

  /// Runs `body` with signals put off.
  static func deferred<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    seen.store(false, ordering: .relaxed)
    var action = sigaction()
    // Without SA_RESTART: a system call that waits ends with EINTR.
    action.__sigaction_handler.sa_handler = { _ in Interrupts.seen.store(true, ordering: .relaxed) }
    var saved = Array(repeating: action, count: signals.count)
    for (index, signal) in signals.enumerated() {
      sigaction(signal, nil, &saved[index])
      // What is ignored, as under nohup, stays ignored.
      if !isIgnored(saved[index]) { sigaction(signal, &action, nil) }
    }
    defer {
      for (index, signal) in signals.enumerated() { sigaction(signal, &saved[index], nil) }
    }
    return try body()
  }

  private static let signals = [SIGINT, SIGTERM, SIGHUP]

  private static func isIgnored(_ action: sigaction) -> Bool {
    unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
      == unsafeBitCast(SIG_IGN, to: Int.self)
  }
}
