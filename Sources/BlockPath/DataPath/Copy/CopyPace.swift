/// Limits on copies for which no client waits, such as a merge: all jobs that have the same pace share them.
///
/// A copy rests after each piece, so that copies are under way for `percent` of the time, and move at most
/// `bytesPerSecond`. While clients have requests, `percentBesideClients` holds instead, one piece at a time.
public final class CopyPace {
  /// The percentage of the time that copies may be under way, 1 to 100.
  public var percent: UInt64 = 100
  /// The same while clients have requests under way, 1 to 100.
  public var percentBesideClients: UInt64 = 10
  /// The most bytes in a second; 0 for no limit.
  public var bytesPerSecond: UInt64 = 0
  /// Says whether clients have requests under way.
  public var clientsAreBusy: () -> Bool = { false }

  /// The number of bytes that were copied.
  public private(set) var byteCount: UInt64 = 0
  /// How long copies were under way, in nanoseconds.
  public private(set) var busyNanoseconds: UInt64 = 0

  /// No piece is begun before this time of the loop, in nanoseconds.
  public private(set) var restsUntil: UInt64 = 0
  /// When the limit on bytes is reached if a piece begins now.
  private var bytesDue: UInt64 = 0

  /// No limits.
  public init() {}

  /// The percentage that holds at the moment.
  private var percentNow: UInt64 {
    let most = min(max(percent, 1), 100)
    return clientsAreBusy() ? min(most, max(percentBesideClients, 1)) : most
  }

  /// Whether one piece at a time is begun, and a small one.
  var isGentle: Bool { percentNow < 100 }

  /// A piece of `count` bytes, which was under way from `start` to `now` (nanoseconds), is done. Called for
  /// the pieces of jobs with this pace, and by who moves bytes otherwise and rests until `restsUntil`.
  public func ended(_ count: Int, from start: UInt64, to now: UInt64) {
    let took = now > start ? now - start : 0
    byteCount &+= UInt64(count)
    busyNanoseconds &+= took
    let percent = percentNow
    if percent < 100 { restsUntil = max(restsUntil, now &+ took &* (100 - percent) / percent) }
    guard bytesPerSecond > 0 else { return }
    let (product, overflow) = UInt64(count).multipliedReportingOverflow(by: 1_000_000_000)
    let share = (overflow ? UInt64.max : product) / bytesPerSecond
    bytesDue = max(bytesDue, start) &+ share
    restsUntil = max(restsUntil, bytesDue)
  }
}
