import CDMThin
import EventLoop
import Glibc
import TestSupport
import Testing

@testable import DataPath

/// Counts the requests that have ended.
private final class Ends: RequestOwner {
  var errors: [UInt32: Int32] = [:]
  override func requestDone(_ request: RequestPointer) {
    errors[request.pointee.tag] = request.pointee.errorNumber
  }
}

/// What the threads have done, in order.
private final class Record: @unchecked Sendable {
  private let lock = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private var values: [Int] = []
  private var running: Set<Int> = []
  private(set) var overlaps = 0
  private var together = 0
  /// The most calls at a time.
  private(set) var togetherMax = 0
  private var ends: [Int32] = [-1, -1]

  init() {
    pthread_mutex_init(lock, nil)
    _ = dmthin_pipe(&ends)
  }

  deinit {
    pthread_mutex_destroy(lock)
    lock.deallocate()
    for end in ends { close(end) }
  }

  private func with<Result>(_ body: () -> Result) -> Result {
    pthread_mutex_lock(lock)
    defer { pthread_mutex_unlock(lock) }
    return body()
  }

  var all: [Int] { with { values } }
  var runningCount: Int { with { running.count } }

  func begin(_ lane: Int) {
    with {
      if !running.insert(lane).inserted { overlaps += 1 }
      togetherMax = max(togetherMax, running.count)
    }
  }

  func end(_ lane: Int, _ value: Int) {
    with {
      running.remove(lane)
      values.append(value)
    }
  }

  /// Waits for a `release`, for ten minutes at most.
  func wait() {
    var entry = pollfd(fd: ends[0], events: Int16(POLLIN), revents: 0)
    var byte: UInt8 = 0
    if poll(&entry, 1, 600_000) == 1 { _ = read(ends[0], &byte, 1) }
  }

  func release(_ count: Int) {
    for _ in 0..<count { _ = write(ends[1], "x", 1) }
  }
}

@Suite("Threads for calls that wait")
struct WorkersTests {
  private let loop: EventLoop
  private let workers: Workers
  private let requests = RequestPool()
  private let ends = Ends()
  private let record = Record()

  init() throws {
    loop = try EventLoop()
    workers = try Workers(loop)
  }

  private func submit(_ value: Int, lane: Int, waits: Bool = false) {
    let request = requests.take(.discard, offset: 0, byteCount: 0, owner: ends)
    request.pointee.tag = UInt32(value)
    workers.submit(request, lane: lane) { [record] in
      record.begin(lane)
      if waits { record.wait() }
      record.end(lane, value)
      return Int32(value % 7)
    }
  }

  private func finish(_ what: () -> Bool) {
    loop.run(within: 600_000_000_000, until: what)
    #expect(what())
  }

  @Test("A call that waits does not delay calls of other lanes")
  func independence() {
    defer { workers.close() }
    #expect(workers.threadCount == 0)
    submit(1, lane: 1, waits: true)
    submit(2, lane: 1)
    for value in 3...50 { submit(value, lane: 2 + value % 5) }
    finish { ends.errors.count == 48 }
    #expect(ends.errors[1] == nil && ends.errors[2] == nil && workers.inFlight == 2)
    record.release(1)
    finish { ends.errors.count == 50 }
    for value in 1...50 { #expect(ends.errors[UInt32(value)] == Int32(value % 7)) }
    #expect(workers.inFlight == 0)
  }

  @Test("Calls of a lane are made one at a time, in the order in which they came")
  func order() {
    defer { workers.close() }
    for value in 0..<3000 { submit(value, lane: value % 3) }
    finish { ends.errors.count == 3000 }
    for lane in 0..<3 {
      let made = record.all.filter { $0 % 3 == lane }
      #expect(made == Array(stride(from: lane, to: 3000, by: 3)))
    }
    #expect(record.overlaps == 0)
  }

  @Test("There are as many threads as are needed, up to the limit")
  func bound() {
    defer { workers.close() }
    for value in 0..<20 {
      submit(value, lane: 0)
      finish { ends.errors.count == value + 1 }
    }
    // A thread that has just ended a call may still count as busy.
    #expect((1...2).contains(workers.threadCount))
    for value in 20..<30 { submit(value, lane: value, waits: true) }
    #expect(workers.threadCount == Workers.threadsMax)
    // Threads that begin a call do not wake the loop.
    for _ in 0..<60_000 where record.runningCount < Workers.threadsMax { usleep(10_000) }
    #expect(record.runningCount == Workers.threadsMax)
    record.release(10)
    finish { ends.errors.count == 30 }
    #expect(record.togetherMax == Workers.threadsMax)
  }

  @Test("Closing waits for all calls, also those that have not begun")
  func closing() {
    submit(0, lane: 0, waits: true)
    for value in 1..<200 { submit(value, lane: value % 9) }
    record.release(1)
    workers.close()
    #expect(Set(record.all) == Set(0..<200))
    #expect(workers.threadCount == 0)
  }
}
