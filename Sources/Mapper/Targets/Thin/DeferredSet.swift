/// Delays work until everything that was under way has ended, without a list of what is under way.
///
/// Each I/O joins the current epoch; work that is added waits for its own and all earlier ones.
/// Epochs are a ring of 64; where it is full, work waits for more than it has to.
final class DeferredSet {
  private static let size = 64
  private let counts: UnsafeMutablePointer<Int>
  private var work = [[() -> Void]](repeating: [], count: DeferredSet.size)
  private var waiting = 0
  private var current = 0
  private var sweeper = 0

  init() {
    counts = .allocate(capacity: Self.size)
    counts.initialize(repeating: 0, count: Self.size)
  }

  deinit { counts.deallocate() }

  /// An I/O begins; the epoch is for `leave`.
  func enter() -> Int {
    counts[current] += 1
    return current
  }

  /// An I/O has ended.
  func leave(_ epoch: Int) {
    counts[epoch] -= 1
    if waiting > 0 && counts[epoch] == 0 { sweep() }
  }

  /// Calls `body` when everything under way has ended: at once, if nothing is.
  func afterAll(_ body: @escaping () -> Void) {
    if waiting == 0 {
      // Epochs without work need no order.
      while sweeper != current && counts[sweeper] == 0 { sweeper = (sweeper + 1) % Self.size }
    }
    if sweeper == current && counts[current] == 0 {
      body()
      return
    }
    work[current].append(body)
    waiting += 1
    let next = (current + 1) % Self.size
    if counts[next] == 0 && next != sweeper { current = next }
  }

  private func sweep() {
    var ready: [() -> Void] = []
    while counts[sweeper] == 0 {
      ready += work[sweeper]
      waiting -= work[sweeper].count
      work[sweeper].removeAll()
      if sweeper == current { break }
      sweeper = (sweeper + 1) % Self.size
    }
    for body in ready { body() }
  }
}
