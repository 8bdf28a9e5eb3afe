import DataPath
import EventLoop
import Glibc
import Testing

/// Expects something that never happens.
private final class Expecting: PassHook {
  var polls = 0
  override func expects(within nanoseconds: UInt64) -> Bool { true }
  override func poll() -> Bool {
    polls += 1
    return false
  }
}

@Suite("Requests that a loop hands to their owners")
struct FinishedRequestsTests {
  @Test("Timers and sources get their turn even if completions never cease")
  func endless() throws {
    final class Chain: RequestOwner {
      let (loop, pool) = (try? EventLoop(), RequestPool())
      var isOver = false
      override func requestDone(_ request: RequestPointer) {
        pool.give(request)
        if !isOver { go() }
      }
      func go() { loop?.finishLater(pool.take(.flush, offset: 0, byteCount: 0, owner: self)) }
    }
    let chain = Chain()
    let loop = try #require(chain.loop)
    let timer = LoopTimer { [unowned chain] in chain.isOver = true }
    loop.set(timer, after: 1_000_000)
    chain.go()
    loop.run(within: 600_000_000_000, until: { chain.isOver })
    #expect(chain.isOver)
    loop.pass()
  }

  @Test("A request completed within a call is returned outside of it")
  func finishing() throws {
    final class Owner: RequestOwner {
      var isDone = false
      override func requestDone(_ request: RequestPointer) { isDone = true }
    }
    let loop = try EventLoop()
    let pool = RequestPool()
    let owner = Owner()
    loop.finishLater(pool.take(.flush, offset: 0, byteCount: 0, owner: owner), EIO)
    #expect(!owner.isDone)
    loop.run(within: 600_000_000_000, until: { owner.isDone })
    #expect(owner.isDone)
  }

  @Test("completed requests are returned without polling, however many follow each other")
  func finished() throws {
    final class Counter: RequestOwner {
      var length = 0
      override func requestDone(_ request: RequestPointer) { length += 1 }
    }
    final class Maker: PassHook {
      var body: () -> Void = {}
      override func endOfPass() { body() }
    }
    let loop = try EventLoop()
    let (hook, maker, chain, pool) = (Expecting(), Maker(), Counter(), RequestPool())
    loop.add(hook)
    loop.add(maker)
    loop.spinNanoseconds = 1_000_000_000
    maker.body = {
      guard chain.length < 200 else { return }
      loop.finishLater(pool.take(.flush, offset: 0, byteCount: 0, owner: chain))
    }
    loop.run(within: 600_000_000_000, until: { chain.length >= 200 })
    #expect(chain.length >= 200)
    #expect(hook.polls == 0)
  }

  @Test("an owner that runs the loop gets the requests that finished with its own")
  func nested() throws {
    final class Owner: RequestOwner {
      var body: () -> Void = {}
      var isDone = false
      override func requestDone(_ request: RequestPointer) {
        isDone = true
        body()
      }
    }
    let loop = try EventLoop()
    let pool = RequestPool()
    let owners = (0..<3).map { _ in Owner() }
    var wasDone = false
    owners[0].body = {
      loop.run(within: 600_000_000_000, until: { owners[2].isDone })
      wasDone = owners[1].isDone && owners[2].isDone
    }
    for owner in owners {
      loop.finishLater(pool.take(.flush, offset: 0, byteCount: 0, owner: owner))
    }
    loop.pass()
    #expect(wasDone)
  }
}
