import CDMThin
import Glibc
import Testing

@testable import EventLoop

/// Expects something that its tests bring about, or does not.
private final class Expecting: PassHook {
  var isExpecting = true
  var asked: [UInt64] = []
  var polls = 0
  /// The poll that finds something; 0: none.
  var finds = 0

  override func expects(within nanoseconds: UInt64) -> Bool {
    asked.append(nanoseconds)
    return isExpecting
  }

  override func poll() -> Bool {
    polls += 1
    return polls == finds
  }
}

private final class Signal: EventSource {
  var isHeard = false
  override func ready(_ events: EventLoop.Events) { isHeard = true }
}

@Suite("Polling for completions before sleeping")
struct SpinTests {
  private static let minute: UInt64 = 60_000_000_000

  @Test("polling finds what a hook expects without waking the loop")
  func found() throws {
    let loop = try EventLoop()
    let hook = Expecting()
    hook.finds = 100
    loop.add(hook)
    loop.spinNanoseconds = Self.minute
    // However busy the machine is.
    loop.preemptionNanoseconds = Self.minute
    // Set only if it sleeps in spite of that.
    var hasSlept = false
    let alarm = LoopTimer { hasSlept = true }
    loop.set(alarm, after: Self.minute / 2)
    loop.run(within: 600_000_000_000, until: { hook.polls >= 100 || hasSlept })
    #expect(hook.polls == 100 && hook.asked.allSatisfy { $0 == Self.minute })
  }

  @Test(
    "without expectations, or where it is not wanted, the loop sleeps", arguments: [true, false])
  func sleeps(_ isWanted: Bool) throws {
    let loop = try EventLoop()
    let hook = Expecting()
    hook.isExpecting = !isWanted
    loop.add(hook)
    loop.spinNanoseconds = isWanted ? Self.minute : 0
    var isOver = false
    let timer = LoopTimer { isOver = true }
    loop.set(timer, after: 3_000_000)
    loop.run(within: 600_000_000_000, until: { isOver })
    #expect(hook.polls == 0)
    #expect(hook.asked.isEmpty == !isWanted)
  }

  @Test("polling does not delay events and timers")
  func interrupted() throws {
    let loop = try EventLoop()
    loop.add(Expecting())
    loop.spinNanoseconds = Self.minute
    let start = EventLoop.now()
    let signal = Signal(descriptor: dmthin_eventfd())
    defer { close(signal.descriptor) }
    try loop.add(signal, .readable)
    var one: UInt64 = 1
    let timer = LoopTimer { write(signal.descriptor, &one, 8) }
    loop.set(timer, after: 2_000_000)
    loop.run(within: 600_000_000_000, until: { signal.isHeard })
    #expect(EventLoop.now() - start < Self.minute / 2)
    loop.remove(signal)
  }

  @Test("the effects of timers are handled at once, not after polling")
  func timers() throws {
    let loop = try EventLoop()
    loop.add(Expecting())
    loop.spinNanoseconds = Self.minute / 6
    loop.preemptionNanoseconds = Self.minute
    let start = EventLoop.now()
    // Looking first takes ten seconds each time.
    var count = 0
    while count < 100, EventLoop.now() - start < Self.minute {
      var isOver = false
      let timer = LoopTimer { isOver = true }
      loop.set(timer, after: 20_000)
      loop.run(within: 600_000_000_000, until: { isOver })
      count += 1
    }
    #expect(count == 100)
  }
}
