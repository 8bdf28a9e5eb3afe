import CDMThin
import Glibc

/// Accepts the connections of a listener.
///
/// Where the system has no descriptor or memory for another one, the listener is not watched for a tenth
/// of a second: it would be ready again at once, for as long as nothing is freed.
public final class AcceptingDoor: EventSource {
  /// Connections taken in a pass of the loop, so that others get their turn.
  private static let connectionsPerPassMax = 64
  private static let pauseNanoseconds: UInt64 = 100_000_000

  private let listener: Listener
  private let loop: EventLoop
  private let letIn: (Int32) -> Void
  private lazy var pause = LoopTimer { [unowned self] in loop.change(self, .readable) }
  /// The system's call; tests put another in its place.
  var accept: (Int32) -> Int32 = dmthin_accept

  /// What a client connects to.
  public var address: String { listener.address }

  /// A door at `listener`, which is the door's then, until `close`. `letIn` is given each connection: a
  /// stream socket that does not block, and that it has to close.
  /// - Throws: `SystemError` where the listener cannot be watched.
  public init(_ listener: Listener, _ loop: EventLoop, letIn: @escaping (Int32) -> Void)
    throws(SystemError)
  {
    self.listener = listener
    self.loop = loop
    self.letIn = letIn
    super.init(descriptor: listener.descriptor)
    try loop.add(self, .readable)
  }

  /// Accepts the connections that wait; called from the loop.
  public override func ready(_ events: EventLoop.Events) {
    for _ in 0..<Self.connectionsPerPassMax {
      let fd = accept(descriptor)
      if fd >= 0 {
        letIn(fd)
      } else if errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS {
        loop.change(self, [])
        return loop.set(pause, after: Self.pauseNanoseconds)
      } else if errno != EINTR && errno != ECONNABORTED {
        return
      }
    }
  }

  /// Accepts no more connections, and closes the listener.
  public func close() {
    loop.remove(self)
    loop.cancel(pause)
    listener.close()
  }
}
