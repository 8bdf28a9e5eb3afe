/// Reports the progress of a tool. Costs one addition per step; the observer decides what to show,
/// and how often.
public final class Progress {
  /// Receives the title of the phase, steps done and the total (0 if unknown).
  public typealias Observer = (_ title: String, _ done: UInt64, _ total: UInt64) -> Void

  private let observer: Observer?
  private var title = ""
  private var total: UInt64 = 0
  private var done: UInt64 = 0
  private var next: UInt64 = 0

  /// Without an observer nothing is reported.
  public init(observer: Observer? = nil) { self.observer = observer }

  /// Starts a phase of `total` steps, 0 if unknown.
  public func begin(_ title: String, total: UInt64) {
    self.title = title
    self.total = total
    done = 0
    next = 0
    report()
  }

  /// Reports steps that are counted elsewhere.
  public func show(_ title: String, done: UInt64, total: UInt64) { observer?(title, done, total) }

  /// Counts `steps` more steps of the phase.
  @inline(__always)
  public func advance(by steps: UInt64 = 1) {
    done &+= steps
    if done >= next { report() }
  }

  /// The observer is called about two hundred times per phase, or every 16,384 steps.
  private func report() {
    guard let observer else {
      next = .max
      return
    }
    next = done + max(1, total == 0 ? 16384 : total / 200)
    observer(title, done, total)
  }
}
