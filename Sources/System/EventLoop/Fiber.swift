import CDMThin

/// Code with a stack of its own, so that it can wait for I/O inside a call while its loop goes on.
/// It runs on the loop's thread, and nothing else does while it runs: it needs no locks, only care at
/// the places where it waits.
@safe final class Fiber {
  /// Of address space; memory is what is touched of it.
  private static let stackBytes = 512 << 10

  private var handle: OpaquePointer?
  private var body: (() -> Void)?
  /// Whether its body has not ended.
  var isBusy: Bool { body != nil || isRunning }
  private var isRunning = false

  /// Nil where there is no memory.
  init?() {
    unsafe handle = nil
    unsafe handle = dmthin_fiber_make(
      Self.stackBytes,
      { argument in
        if let argument = unsafe argument {
          unsafe Unmanaged<Fiber>.fromOpaque(argument).takeUnretainedValue().run()
        }
      }, unsafe Unmanaged.passUnretained(self).toOpaque())
    if unsafe handle == nil { return nil }
  }

  deinit { if let handle = unsafe handle { unsafe dmthin_fiber_free(handle) } }

  private func run() {
    isRunning = true
    callBody()
    isRunning = false
  }

  /// Apart, so that what the body has captured is gone when the fiber is done.
  @inline(never) private func callBody() { body.take()?() }

  /// What it does when it is entered next.
  func prepare(_ body: @escaping () -> Void) { self.body = body }

  /// Goes on until the body ends or leaves.
  func enter() { unsafe dmthin_fiber_enter(handle) }

  /// From within: returns from `enter`, until that is called again.
  func leave() { unsafe dmthin_fiber_leave(handle) }
}

/// A wait for something that happens once.
///
/// Code that `EventLoop.begin` runs is set aside until then. Other code, which must be outside of the
/// loop, has the loop run.
public final class Pause {
  private let loop: EventLoop
  private var fiber: Fiber?
  /// It has happened.
  public private(set) var isOver = false

  /// Nothing has happened yet.
  public init(_ loop: EventLoop) { self.loop = loop }

  /// Returns when it has happened.
  public func wait() {
    if isOver { return }
    guard let current = loop.fiber else { return loop.run(until: { self.isOver }) }
    fiber = current
    current.leave()
  }

  /// It has happened: who waits goes on in this pass of the loop, not from within this call.
  public func end() {
    guard !isOver else { return }
    isOver = true
    if let waiting = fiber.take() { loop.wake(waiting) }
  }
}

/// Admits one piece of code that waits at a time, in the order in which they asked. Code that has the lock
/// can take it again, and gives it back as often.
public final class FiberLock {
  private let loop: EventLoop
  private var owner: Fiber?
  private var depth = 0
  @safe @exclusivity(unchecked) private var waiting: [(fiber: Fiber?, pause: Pause)] = []

  /// A lock that is free.
  public init(_ loop: EventLoop) { self.loop = loop }

  /// Whether one has it.
  public var isTaken: Bool { depth > 0 }
  /// Whether others wait for it.
  public var isWanted: Bool { !waiting.isEmpty }
  /// Whether the code that runs now has it.
  public var isMine: Bool { depth > 0 && owner === loop.fiber }

  /// Returns when the lock is the caller's.
  public func take() {
    if isMine {
      depth += 1
    } else if depth == 0 {
      (owner, depth) = (loop.fiber, 1)
    } else {
      let pause = Pause(loop)
      waiting.append((loop.fiber, pause))
      pause.wait()
    }
  }

  /// Undoes one `take`.
  public func give() {
    depth -= 1
    guard depth == 0 else { return }
    owner = nil
    guard !waiting.isEmpty else { return }
    let next = waiting.removeFirst()
    (owner, depth) = (next.fiber, 1)
    next.pause.end()
  }

  /// Calls `body` with the lock.
  public func with<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    take()
    defer { give() }
    return try body()
  }
}

extension EventLoop {
  /// Calls `body`, and returns when what that was given has been called: see `Pause`.
  public func pause(_ body: (_ end: @escaping () -> Void) -> Void) {
    let pause = Pause(self)
    body { pause.end() }
    pause.wait()
  }

  /// Calls `body`, which may wait: it runs at once up to its end or its first wait, and from there on when
  /// what it waits for has happened.
  public func begin(_ body: @escaping () -> Void) {
    // Without memory for a stack, waiting has the loop run.
    guard let fiber = idleFibers.popLast() ?? Fiber() else { return body() }
    fiber.prepare(body)
    goOn(fiber)
  }

  /// Calls `body`, which may wait, and returns when it is done. Outside of `begin` the loop runs meanwhile:
  /// the caller is not within it.
  public func complete<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    if fiber != nil { return try body() }
    var result: Result<R, E>?
    withoutActuallyEscaping(body) { body in
      begin { result = Result { () throws(E) in try body() } }
      if result == nil { run(until: { result != nil }) }
    }
    guard let result else { preconditionFailure("the body has ended") }
    return try result.get()
  }

  func goOn(_ fiber: Fiber) {
    let outer = self.fiber
    self.fiber = fiber
    fiber.enter()
    self.fiber = outer
    if !fiber.isBusy, idleFibers.count < Self.idleFibersMax { idleFibers.append(fiber) }
  }
}
