import EventLoop
import Testing

@Suite("Code that waits while its loop goes on")
struct FiberTests {
  @Test(
    "it runs at once up to its first wait, and goes on from the loop in the order of what happens")
  func order() throws {
    let loop = try EventLoop()
    let pauses = (0..<3).map { _ in Pause(loop) }
    var seen: [String] = []
    for (number, pause) in pauses.enumerated() {
      loop.begin {
        seen.append("a\(number)")
        pause.wait()
        seen.append("b\(number)")
        // What has happened is not waited for.
        pause.wait()
        seen.append("c\(number)")
      }
    }
    #expect(seen == ["a0", "a1", "a2"])
    pauses[2].end()
    pauses[0].end()
    #expect(seen.count == 3)
    loop.pass()
    #expect(seen == ["a0", "a1", "a2", "b2", "c2", "b0", "c0"])
    pauses[1].end()
    loop.pass()
    #expect(seen.last == "c1")
  }

  @Test(
    "outside of the loop it is run to its end, with what it throws, and the loop runs meanwhile")
  func complete() throws {
    struct Fault: Error {}
    let loop = try EventLoop()
    let pause = Pause(loop)
    loop.set(LoopTimer { pause.end() }, after: 1_000_000)
    let result = loop.complete {
      pause.wait()
      return loop.complete { 7 }
    }
    #expect(result == 7 && pause.isOver)
    #expect(throws: Fault.self) { try loop.complete { throw Fault() } }
  }

  @Test("what it holds goes with it, and stacks are used again")
  func memory() throws {
    final class Held {}
    let loop = try EventLoop()
    weak var held: Held?
    for _ in 0..<1000 {
      let pause = Pause(loop)
      do {
        let made = Held()
        held = made
        loop.begin {
          pause.wait()
          withExtendedLifetime(made) {}
        }
      }
      #expect(held != nil)
      pause.end()
      loop.pass()
      #expect(held == nil)
    }
  }

  @Test(
    "a lock goes from one to the next in the order in which they asked, and is its holder's again")
  func lock() throws {
    let loop = try EventLoop()
    let lock = FiberLock(loop)
    let pauses = (0..<4).map { _ in Pause(loop) }
    var seen: [Int] = []
    for (number, pause) in pauses.enumerated() {
      loop.begin {
        lock.with {
          lock.with { seen.append(number) }
          #expect(lock.isMine)
          pause.wait()
        }
      }
    }
    #expect(seen == [0] && lock.isTaken && !lock.isMine)
    for (number, pause) in pauses.enumerated().reversed() {
      pause.end()
      loop.pass()
      if number > 0 { #expect(seen == [0]) }
    }
    #expect(seen == [0, 1, 2, 3] && !lock.isTaken)
  }
}
