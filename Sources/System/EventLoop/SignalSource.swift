import CDMThin
import Glibc

/// Signals that a loop receives as events, instead of their usual effect.
public final class SignalSource: EventSource {
  private let loop: EventLoop
  private let body: () -> Void

  /// Blocks `signals` for the process's threads that begin later and this one, and calls `body` from the
  /// loop, once for each signal that was received.
  /// - Throws: `SystemError` if the system has no descriptor left.
  public init(_ signals: [Int32], _ loop: EventLoop, _ body: @escaping () -> Void)
    throws(SystemError)
  {
    var mask: UInt64 = 0
    for signal in signals { mask |= 1 << UInt64(signal) }
    let descriptor = dmthin_signal_descriptor(mask)
    guard descriptor >= 0 else { throw SystemError("signalfd", errno) }
    self.loop = loop
    self.body = body
    super.init(descriptor: descriptor)
    do throws(SystemError) {
      try loop.add(self, .readable)
    } catch {
      Glibc.close(descriptor)
      throw error
    }
  }

  /// Takes the signals that were received; called from the loop.
  public override func ready(_ events: EventLoop.Events) {
    while dmthin_next_signal(descriptor) >= 0 { body() }
  }

  /// Receives no more signals; they stay blocked.
  public func close() {
    loop.remove(self)
    Glibc.close(descriptor)
  }
}
