import Glibc
import Synchronization

/// Defers termination signals while devices are suspended. A signal interrupts waiting system
/// calls; the verb checks for it where it is safe to stop.
enum Interrupts {
  private static let seen = Atomic<Bool>(false)

  /// Whether a signal came during `deferred`.
  static var isPending: Bool { seen.load(ordering: .relaxed) }

  /// Runs `body` with signals deferred.
  static func deferred<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    seen.store(false, ordering: .relaxed)
    var action = sigaction()
    // Without SA_RESTART, a waiting system call ends with EINTR.
    unsafe action.__sigaction_handler.sa_handler = { _ in
      Interrupts.seen.store(true, ordering: .relaxed)
    }
    var saved = Array(repeating: action, count: signals.count)
    for (index, signal) in signals.enumerated() {
      unsafe sigaction(signal, nil, &saved[index])
      // A signal that is ignored, as under nohup, stays ignored.
      if !isIgnored(saved[index]) { unsafe sigaction(signal, &action, nil) }
    }
    defer {
      for (index, signal) in signals.enumerated() { unsafe sigaction(signal, &saved[index], nil) }
    }
    return try body()
  }

  private static let signals = [SIGINT, SIGTERM, SIGHUP]

  private static func isIgnored(_ action: sigaction) -> Bool {
    unsafe unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
      == unsafeBitCast(SIG_IGN, to: Int.self)
  }
}
