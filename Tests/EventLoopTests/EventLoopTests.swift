import CDMThin
import EventLoop
import Glibc
import Testing

private final class Counter: EventSource {
  var count = 0
  var body: () -> Void = {}
  override func ready(_ events: EventLoop.Events) {
    count += 1
    body()
  }
}

@Suite("The event loop")
struct EventLoopTests {
  @Test("A removed source gets no events, not even earlier ones")
  func removal() throws {
    let loop = try EventLoop()
    let sources = [Counter(descriptor: dmthin_eventfd()), Counter(descriptor: dmthin_eventfd())]
    defer { for source in sources { close(source.descriptor) } }
    for source in sources {
      try loop.add(source, .readable)
      var one: UInt64 = 1
      write(source.descriptor, &one, 8)
      // Whichever is first takes the other out, and gives its place to a third.
      source.body = {
        for other in sources where other !== source { loop.remove(other) }
      }
    }
    loop.pass()
    #expect(sources[0].count + sources[1].count == 1)
  }

  @Test("Timers fire on time, once, and not after they were cancelled")
  func timers() throws {
    let loop = try EventLoop()
    var called: [String] = []
    let second = LoopTimer { called.append("second") }
    let cancelled = LoopTimer { called.append("cancelled") }
    let first = LoopTimer {
      called.append("first")
      loop.cancel(cancelled)
    }
    let minute: UInt64 = 60_000_000_000
    loop.set(second, after: 20 * minute)
    loop.set(cancelled, after: 10 * minute)
    loop.set(first, after: 50 * minute)
    loop.set(first, after: minute)
    loop.pass()
    #expect(called.isEmpty)
    loop.skip(minute)
    loop.pass()
    #expect(called == ["first"])
    loop.skip(18 * minute)
    loop.pass()
    #expect(called == ["first"])
    loop.skip(minute)
    loop.pass()
    loop.pass()
    #expect(called == ["first", "second"])
    #expect(!first.isSet && !second.isSet && !cancelled.isSet)
  }

  @Test("A loop with nothing to do sleeps until a timer is due")
  func sleeping() throws {
    let loop = try EventLoop()
    var isOver = false
    let timer = LoopTimer { isOver = true }
    let start = EventLoop.now()
    loop.set(timer, after: 30_000_000)
    loop.run(within: 600_000_000_000, until: { isOver })
    #expect(EventLoop.now() - start >= 30_000_000)
    #expect(loop.passes < 10)
  }
}
