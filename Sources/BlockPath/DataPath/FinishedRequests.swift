public import EventLoop

/// The finished requests of a loop, which hands them to their owners at the start of its passes.
final class FinishedRequests: PassHook {
  private unowned(unsafe) let loop: EventLoop
  /// No access to it lasts while other code runs, so that none needs to be watched for others.
  @safe @exclusivity(unchecked)
  private var queue = RequestQueue()

  /// Becomes the loop's start hook.
  private init(_ loop: EventLoop) {
    unsafe self.loop = loop
    super.init()
    loop.setStartHook(self)
  }

  /// Those of `loop`. There is nothing else that sets a start hook.
  @inline(__always)
  static func of(_ loop: EventLoop) -> FinishedRequests {
    guard let hook = loop.startHook else { return FinishedRequests(loop) }
    return unsafe unsafeDowncast(hook, to: FinishedRequests.self)
  }

  func append(_ request: RequestPointer) {
    if queue.isEmpty { unsafe loop.passAgain() }
    unsafe queue.append(request)
  }

  override func startOfPass() {
    // What these end in turn is for the next round. The loop can be run from within an owner: it deals with
    // the rest of these then.
    var left = queue.count
    while left > 0, let request = unsafe queue.takeFirst() {
      left -= 1
      unsafe request.pointee.owner.requestDone(request)
    }
    if !queue.isEmpty { unsafe loop.passAgain() }
  }
}

extension EventLoop {
  /// Ends a request and calls its owner in this pass or the next, not from within this call.
  public func finishLater(_ request: RequestPointer, _ errorNumber: Int32 = 0) {
    unsafe request.pointee.errorNumber = errorNumber
    unsafe FinishedRequests.of(self).append(request)
  }
}
