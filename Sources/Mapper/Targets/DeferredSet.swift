/// Delays work until everything that was under way has ended, without a list of what is under way.
///
/// Each I/O joins the current epoch; work that is added waits for its own and all earlier ones.
/// Epochs are a ring of 64; where it is full, work waits for more than it has to.
@safe final class DeferredSet {
  private static let size = 64
  private let counts: UnsafeMutablePointer<Int>
  private var work = [[() -> Void]](repeating: [], count: DeferredSet.size)
  private var waiting = 0
  private var current = 0
  private var sweeper = 0

  init() {
    unsafe counts = .allocate(capacity: Self.size)
    unsafe counts.initialize(repeating: 0, count: Self.size)
  }

  deinit { unsafe counts.deallocate() }

  /// An I/O begins; the epoch is for `leave`.
  func enter() -> Int {
    unsafe counts[current] += 1
    return current
  }

  /// An I/O has ended.
  func leave(_ epoch: Int) {
    unsafe counts[epoch] -= 1
    if unsafe waiting > 0 && counts[epoch] == 0 { sweep() }
  }

  /// Calls `body` when everything under way has ended: at once, if nothing is.
  func afterAll(_ body: @escaping () -> Void) {
    if waiting == 0 {
      // Epochs without work need no order.
      while unsafe sweeper != current && counts[sweeper] == 0 {
        sweeper = (sweeper + 1) % Self.size
      }
    }
    if unsafe sweeper == current && counts[current] == 0 {
      body()
      return
    }
    work[current].append(body)
    waiting += 1
    let next = (current + 1) % Self.size
    if unsafe counts[next] == 0 && next != sweeper { current = next }
  }

  private func sweep() {
    var ready: [() -> Void] = []
    while unsafe counts[sweeper] == 0 {
      ready += work[sweeper]
      waiting -= work[sweeper].count
      work[sweeper].removeAll()
      if sweeper == current { break }
      sweeper = (sweeper + 1) % Self.size
    }
    for body in ready { body() }
  }
}
