import BlockIO
import CDMThin
import EventLoop
import Glibc
import Simulation
import TestSupport
import Testing

@testable import DataPath

private let pageBytes = 4096
private let pageCount = 48

/// An engine over memory that takes some operations of a batch, ends them in any order, and loses what was
/// written since the last flush.
private final class SimulatedEngine: IOEngine {
  private struct Call {
    var slot: Int
    var operation: IOOperation
    var vectors: UnsafeMutablePointer<iovec>
    var count: Int
    var offset: Int
  }

  private var batch: [Call] = []
  private var inFlight: [Call] = []
  private let event: Int32
  private var random: SplitMix64
  var bytes = [UInt8](repeating: 0, count: pageCount * pageBytes)
  /// What a power cut leaves.
  var durable = [UInt8](repeating: 0, count: pageCount * pageBytes)
  /// Whatever touches these pages fails.
  var badPages: Set<Int> = []
  /// The next batches are refused with this error, each for its first operation.
  var refusal: Int32 = 0
  var sent = 0
  var mostInFlight = Int.max

  init(event: Int32, seed: UInt64) {
    self.event = event
    random = SplitMix64(seed: seed)
  }

  func prepare(
    _ slot: Int, _ operation: IOOperation, descriptor: Int32,
    _ vectors: UnsafeMutablePointer<iovec>, count: Int, offset: UInt64
  ) {
    batch.append(
      Call(slot: slot, operation: operation, vectors: vectors, count: count, offset: Int(offset)))
  }

  func send() -> Int {
    if refusal != 0 { return -Int(refusal) }
    let room = mostInFlight - inFlight.count
    if room <= 0 || !inFlight.isEmpty && Int.random(in: 0..<4, using: &random) == 0 {
      return -Int(EAGAIN)
    }
    let count = Int.random(in: 1...min(room, batch.count), using: &random)
    inFlight += batch[..<count]
    batch.removeFirst(count)
    sent += count
    signal()
    return count
  }

  func takeUnsent() -> Int? { batch.isEmpty ? nil : batch.removeFirst().slot }

  var hasCompletions: Bool { false }

  private func signal() {
    var one: UInt64 = 1
    _ = write(event, &one, 8)
  }

  func take(_ completions: UnsafeMutablePointer<IOCompletion>, max: Int, waits: Bool) -> Int {
    var count = 0
    while !inFlight.isEmpty, count < max, Int.random(in: 0..<3, using: &random) != 0 {
      let call = inFlight.remove(at: Int.random(in: 0..<inFlight.count, using: &random))
      completions[count] = IOCompletion(slot: call.slot, result: perform(call))
      count += 1
    }
    if !inFlight.isEmpty { signal() }
    return count
  }

  private func perform(_ call: Call) -> Int {
    if call.operation == .flush {
      durable = bytes
      return 0
    }
    var at = call.offset
    for vector in UnsafeBufferPointer(start: call.vectors, count: call.count) {
      let range = at..<at + vector.iov_len
      if badPages.contains(where: { range.overlaps($0 * pageBytes..<($0 + 1) * pageBytes) }) {
        return -Int(EIO)
      }
      let memory = UnsafeMutableRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
      if call.operation == .read {
        bytes.withUnsafeBytes {
          memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range]))
        }
      } else {
        bytes.replaceSubrange(range, with: memory)
        if call.operation == .durableWrite { durable.replaceSubrange(range, with: memory) }
      }
      at = range.upperBound
    }
    return at - call.offset
  }
}

/// A queue over a simulated engine, and the ends of its requests.
private final class Rig: RequestOwner {
  let loop: EventLoop
  let queue: IOQueue
  let engine: SimulatedEngine
  let requests = RequestPool()
  let arena: AlignedBuffer
  var ended: [UInt64: Int32] = [:]
  var count: UInt64 = 0

  init(seed: UInt64, most: Int) throws {
    loop = try EventLoop()
    var made: SimulatedEngine?
    queue = try IOQueue(loop) { event in
      let engine = SimulatedEngine(event: event, seed: seed)
      made = engine
      return engine
    }
    engine = try #require(made)
    arena = AlignedBuffer(count: most * pageBytes)
    super.init()
    queue.flushNow = { [engine] _ in
      engine.durable = engine.bytes
      return 0
    }
  }

  override func requestDone(_ request: RequestPointer) {
    ended[UInt64(request.pointee.tag)] = request.pointee.errorNumber
    requests.give(request)
  }

  func memory(_ number: UInt64) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      rebasing: arena.bytes[Int(number) * pageBytes..<(Int(number) + 1) * pageBytes])
  }

  /// Submits a request of a page, and returns its number. A write fills the page with the number.
  func submit(_ operation: BlockOperation, page: Int = 0, flags: BlockFlags = []) -> UInt64 {
    let number = count
    count += 1
    let buffer = memory(number)
    if operation == .write {
      _ = buffer.initializeMemory(as: UInt64.self, repeating: number + 1)
    }
    let request = requests.take(
      operation, offset: UInt64(page * pageBytes), byteCount: operation == .flush ? 0 : pageBytes,
      buffer: operation == .flush ? nil : buffer.baseAddress, flags: flags, owner: self)
    request.pointee.tag = UInt32(number)
    queue.submit(request, descriptor: 99)
    return number
  }

  func finish() {
    loop.run(within: 600_000_000_000, until: { ended.count == Int(count) })
    #expect(ended.count == Int(count))
  }
}

@Suite("The queue over an engine that is slow, full and out of order")
struct EngineTests {
  @Test(
    "A flush covers the writes that had ended, whatever the engine does",
    arguments: [1, 2, 3, 4, 5] as [UInt64])
  func flushModel(seed: UInt64) throws {
    let rig = try Rig(seed: seed, most: 3000)
    rig.engine.mostInFlight = 9
    var random = SplitMix64(seed: seed &+ 100)
    // For each page: its writes in order, never two in flight, and which one a flush covers.
    var writes = [[UInt64]](repeating: [0], count: pageCount)
    var finished = [Int](repeating: 0, count: pageCount)
    var covered = [Int](repeating: 0, count: pageCount)
    var busy: [Int: UInt64] = [:]
    var flush: (number: UInt64, covers: [Int])?
    var flushes = 0
    for _ in 0..<2000 {
      for (page, number) in busy where rig.ended[number] != nil {
        #expect(rig.ended[number] == 0)
        busy[page] = nil
        finished[page] = writes[page].count - 1
      }
      if let current = flush, rig.ended[current.number] != nil {
        #expect(rig.ended[current.number] == 0)
        covered = zip(covered, current.covers).map(max)
        flush = nil
        flushes += 1
        for page in 0..<pageCount {
          let value = rig.engine.durable.withUnsafeBytes {
            $0.loadUnaligned(fromByteOffset: page * pageBytes, as: UInt64.self)
          }
          #expect(writes[page][covered[page]...].contains(value), "seed \(seed), page \(page)")
        }
      }
      switch Int.random(in: 0..<10, using: &random) {
      case 0 where flush == nil: flush = (rig.submit(.flush), finished)
      case 0..<7:
        let page = Int.random(in: 0..<pageCount, using: &random)
        for page in page..<min(pageCount, page + 4) where busy[page] == nil {
          let number = rig.submit(.write, page: page)
          writes[page].append(number + 1)
          busy[page] = number
          if rig.count > 2900 { break }
        }
      default: rig.loop.pass()
      }
      if rig.count > 2900 { break }
    }
    rig.finish()
    #expect(flushes > 10)
    rig.queue.close()
  }

  @Test(
    "Merged or not, full or refused: each request ends once, with its own result",
    arguments: [1, 2, 3] as [UInt64])
  func results(seed: UInt64) throws {
    let rig = try Rig(seed: seed, most: 1200)
    rig.engine.mostInFlight = 5
    rig.engine.badPages = [7, 20]
    var random = SplitMix64(seed: seed)
    var pages: [UInt64: Int] = [:]
    for page in 0..<pageCount where page != 7 && page != 20 {
      rig.engine.bytes[page * pageBytes] = UInt8(page + 1)
    }
    while rig.count < 1000 {
      let start = Int.random(in: 0..<pageCount, using: &random)
      for page in start..<min(pageCount, start + Int.random(in: 1...6, using: &random)) {
        pages[rig.submit(.read, page: page)] = page
      }
      if Bool.random(using: &random) { rig.loop.pass() }
    }
    rig.finish()
    for (number, page) in pages {
      #expect(rig.ended[number] == (page == 7 || page == 20 ? EIO : 0), "page \(page)")
      if rig.ended[number] == 0 { #expect(rig.memory(number)[0] == UInt8(page + 1)) }
    }
    #expect(rig.engine.sent < Int(rig.count))
    // What the system refuses ends with its error; later requests are sent again.
    rig.engine.refusal = EBADF
    let refused = rig.submit(.read, page: 1)
    rig.finish()
    #expect(rig.ended[refused] == EBADF)
    rig.engine.refusal = 0
    let taken = rig.submit(.read, page: 1)
    rig.finish()
    #expect(rig.ended[taken] == 0)
    rig.queue.close()
  }
}

@Suite("The engine over libaio")
struct AIOEngineTests {
  @Test("Operations end with what was transferred; what was not sent can be taken back")
  func operations() throws {
    let folder = try ScratchFolder(in: "/var/tmp")
    let path = try folder.zeros("file", size: UInt64(3 * pageBytes))
    let file = try OpenFile(path: path, readOnly: false, exclusive: false)
    defer { file.close() }
    let engine = try AIOEngine(depth: 4)
    let buffer = AlignedBuffer(count: 4 * pageBytes)
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 9)
    let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: 4)
    defer { vectors.deallocate() }
    for i in 0..<4 {
      (vectors + i).initialize(
        to: iovec(iov_base: buffer.bytes.baseAddress.map { $0 + i * pageBytes }, iov_len: pageBytes)
      )
    }
    let completions = UnsafeMutablePointer<IOCompletion>.allocate(capacity: 4)
    defer { completions.deallocate() }
    func run(_ count: Int) -> [Int: Int] {
      var results: [Int: Int] = [:]
      var left = count
      while left > 0 {
        let sent = engine.send()
        guard sent > 0 else { break }
        left -= sent
      }
      while results.count < count - left {
        for i in 0..<engine.take(completions, max: 4, waits: true) {
          results[completions[i].slot] = completions[i].result
        }
      }
      return results
    }
    engine.prepare(2, .write, descriptor: file.descriptor, vectors, count: 2, offset: 0)
    engine.prepare(
      0, .durableWrite, descriptor: file.descriptor, vectors, count: 1,
      offset: UInt64(2 * pageBytes))
    engine.prepare(1, .flush, descriptor: file.descriptor, vectors, count: 0, offset: 0)
    #expect(run(3) == [2: 2 * pageBytes, 0: pageBytes, 1: 0])
    #expect(!engine.hasCompletions && engine.take(completions, max: 4, waits: false) == 0)
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    // The file ends after the first page of these two.
    engine.prepare(
      3, .read, descriptor: file.descriptor, vectors, count: 2, offset: UInt64(2 * pageBytes))
    engine.prepare(1, .read, descriptor: file.descriptor, vectors + 2, count: 1, offset: 0)
    #expect(run(2) == [3: pageBytes, 1: pageBytes])
    #expect(buffer.bytes[0] == 9 && buffer.bytes[2 * pageBytes] == 9)
    // A bad descriptor is refused, and stays in the batch.
    engine.prepare(0, .read, descriptor: -1, vectors, count: 1, offset: 0)
    engine.prepare(3, .read, descriptor: file.descriptor, vectors, count: 1, offset: 0)
    #expect(engine.send() == -Int(EBADF))
    #expect(engine.takeUnsent() == 0)
    #expect(run(1) == [3: pageBytes])
    #expect(engine.takeUnsent() == nil && engine.send() == 0)
  }
}
