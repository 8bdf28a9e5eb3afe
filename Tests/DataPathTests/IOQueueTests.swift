import BlockIO
import CDMThin
import EventLoop
import Glibc
import TestSupport
import Testing

@testable import DataPath

/// Records how its requests ended.
private final class Recorder: RequestOwner {
  var ended: [(offset: UInt64, error: Int32)] = []
  override func requestDone(_ request: RequestPointer) {
    ended.append((request.pointee.offset, request.pointee.errorNumber))
  }
}

/// A loop with a queue, and a file of pages that each hold their number.
private final class Bench {
  let loop: EventLoop
  let queue: IOQueue
  let workers: Workers
  let path: String
  private let folder: ScratchFolder
  let pages: Int
  let requests = RequestPool()
  let recorder = Recorder()

  init(pages: Int, folder: String = "/var/tmp") throws {
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    self.pages = pages
    self.folder = try ScratchFolder(in: folder)
    path = self.folder.file("pages")
    let fd = open(path, O_CREAT | O_RDWR | O_EXCL | O_CLOEXEC, 0o600)
    try #require(fd >= 0)
    let page = AlignedBuffer(count: 4096)
    for number in 0..<pages {
      page.bytes.initializeMemory(as: UInt8.self, repeating: UInt8(truncatingIfNeeded: number))
      try #require(pwrite(fd, page.bytes.baseAddress, 4096, number * 4096) == 4096)
    }
    fsync(fd)
    close(fd)
  }

  deinit {
    queue.close()
    workers.close()
  }

  func disk(readOnly: Bool = false) throws -> FileDisk {
    try FileDisk(path: path, readOnly: readOnly, in: DiskContext(loop, queue, workers))
  }

  func take(
    _ operation: BlockOperation, page: Int, pages: Int = 1, _ buffer: UnsafeMutableRawPointer?
  ) -> RequestPointer {
    requests.take(
      operation, offset: UInt64(page) * 4096, byteCount: pages * 4096, buffer: buffer,
      owner: recorder)
  }

  func finish(_ count: Int) {
    loop.run(within: 600_000_000_000, until: { self.recorder.ended.count >= count })
    #expect(recorder.ended.count >= count)
  }
}

private struct Kept: RequestState, Equatable {
  var first: UInt64
  var second: UInt32
  var isLast: Bool
}

@Suite("Requests through libaio")
struct IOQueueTests {
  @Test("The owner's and the target's fields of a request come back as they were, merged or alone")
  func kept() throws {
    let bench = try Bench(pages: 8)
    let disk = try bench.disk()
    let buffer = AlignedBuffer(count: 8 * 4096)
    var sent: [RequestPointer] = []
    for page in [0, 1, 2, 5] {
      let request = bench.take(.read, page: page, buffer.bytes.baseAddress.map { $0 + page * 4096 })
      #expect(request.pointee.state[Kept.self] == Kept(first: 0, second: 0, isLast: false))
      request.pointee.tag = .max - UInt32(page)
      request.pointee.state[Kept.self] = Kept(
        first: .max - UInt64(page), second: .max, isLast: page == 5)
      sent.append(request)
      disk.submit(request)
    }
    bench.finish(4)
    for (page, request) in zip([0, 1, 2, 5], sent) {
      #expect(request.pointee.tag == .max - UInt32(page))
      let kept = Kept(first: .max - UInt64(page), second: .max, isLast: page == 5)
      #expect(request.pointee.state[Kept.self] == kept)
    }
    #expect(MemoryLayout<BlockRequest>.size <= 96)
  }

  @Test("Neighbouring reads share a request, and each gets its own bytes")
  func merging() throws {
    let bench = try Bench(pages: 64)
    let disk = try bench.disk()
    try #require(disk.isDirect)
    let buffer = AlignedBuffer(count: 64 * 4096)
    // Every second page goes to another place in memory, so the parts of a merged request are
    // scattered.
    let places = (0..<64).map { $0 % 2 == 0 ? $0 / 2 : 63 - $0 / 2 }
    for page in 0..<64 {
      disk.submit(
        bench.take(.read, page: page, buffer.bytes.baseAddress.map { $0 + places[page] * 4096 }))
    }
    bench.finish(64)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 })
    for page in 0..<64 { #expect(buffer.bytes[places[page] * 4096 + 17] == UInt8(page)) }
    #expect(bench.queue.submitted == 2)
  }

  @Test(
    "requests in many pieces go by themselves or merged with neighbours, and each gets its own bytes"
  )
  func scattered() throws {
    let bench = try Bench(pages: 256)
    let disk = try bench.disk()
    let buffer = AlignedBuffer(count: 257 * 4096)
    let base = try #require(buffer.bytes.baseAddress)
    // Page N at place 255 - N: no two pieces follow each other in memory.
    let pieces = UnsafeMutablePointer<RequestMemory.Piece>.allocate(capacity: 256)
    defer { pieces.deallocate() }
    for page in 0..<256 {
      (pieces + page).initialize(to: .init(start: base + (255 - page) * 4096, byteCount: 4096))
    }
    func submit(_ operation: BlockOperation, _ range: Range<Int>) {
      disk.submit(
        bench.requests.take(
          operation, offset: UInt64(range.lowerBound) * 4096, byteCount: range.count * 4096,
          memory: RequestMemory(pieces: pieces + range.lowerBound), owner: bench.recorder))
    }
    // The most that one may have; then some that are merged as far as 32 pieces go.
    submit(.read, 0..<128)
    for page in stride(from: 128, to: 256, by: 4) { submit(.read, page..<(page + 4)) }
    bench.finish(33)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 })
    #expect(bench.queue.submitted == 1 + 128 / 32)
    for page in 0..<256 {
      #expect(buffer.bytes[(255 - page) * 4096] == UInt8(page))
      buffer.bytes[(255 - page) * 4096] = ~UInt8(page)
    }
    submit(.write, 0..<128)
    submit(.write, 128..<256)
    // One piece more than there may be.
    submit(.read, 0..<129)
    bench.finish(36)
    #expect(bench.recorder.ended.filter { $0.error != 0 }.map(\.error) == [EINVAL])
    let written = try contents(of: bench.path)
    for page in 0..<256 { #expect(written[page * 4096] == ~UInt8(page)) }
  }

  @Test("a short read in pieces is gone on with in the piece in which it ended")
  func shortRead() throws {
    let bench = try Bench(pages: 3)
    let disk = try bench.disk()
    try #require(truncate(bench.path, 3 * 4096 - 1024) == 0)
    let buffer = AlignedBuffer(count: 4 * 4096)
    let base = try #require(buffer.bytes.baseAddress)
    let pieces = [2, 0].map { RequestMemory.Piece(start: base + $0 * 4096, byteCount: 4096) }
    pieces.withUnsafeBufferPointer { pieces in
      disk.submit(
        bench.requests.take(
          .read, offset: 4096, byteCount: 8192,
          memory: RequestMemory(pieces: pieces.baseAddress.unsafelyUnwrapped),
          owner: bench.recorder))
      bench.finish(1)
    }
    // Beyond its end the file has nothing: the request fails, with what there is in its place.
    #expect(bench.recorder.ended.map(\.error) == [EIO])
    let found = [8192, 12_287, 0, 3071].map { (at: Int) -> UInt8 in buffer.bytes[at] }
    #expect(found == [1, 1, 2, 2] as [UInt8])
    #expect(buffer.bytes[3072] == 0)
  }

  @Test("Of merged requests, only those fail that would fail alone")
  func isolation() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk()
    let buffer = AlignedBuffer(count: 4 * 4096)
    // The file ends after two pages: a merged read of three comes back short.
    for page in 0..<3 {
      bench.queue.submit(
        bench.take(.read, page: page, buffer.bytes.baseAddress.map { $0 + page * 4096 }),
        descriptor: disk.descriptor)
    }
    bench.finish(3)
    let errors = bench.recorder.ended.sorted { $0.offset < $1.offset }.map(\.error)
    #expect(errors == [0, 0, EIO])
    #expect(buffer.bytes[4096] == 1)
  }

  @Test("If there are more requests than the system accepts at once, each completes once")
  func flood() throws {
    let bench = try Bench(pages: 16)
    let disk = try bench.disk()
    let buffer = AlignedBuffer(count: 4096)
    for number in 0..<2000 {
      // Descending order, so that nothing is merged.
      disk.submit(bench.take(.read, page: 15 - number % 16, buffer.bytes.baseAddress))
    }
    bench.finish(2000)
    bench.loop.pass()
    #expect(bench.recorder.ended.count == 2000)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 })
  }

  @Test(
    "Writes, flushes, discards and zeroing arrive, past the page cache or through it",
    arguments: ["/var/tmp", "/dev/shm"])
  func operations(folder: String) throws {
    let bench = try Bench(pages: 16, folder: folder)
    let disk = try bench.disk()
    let buffer = AlignedBuffer(count: 8192)
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0xab)
    disk.submit(bench.take(.write, page: 3, pages: 2, buffer.bytes.baseAddress))
    let durable = bench.take(.write, page: 6, buffer.bytes.baseAddress)
    durable.pointee.flags = .durable
    disk.submit(durable)
    bench.finish(2)
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    disk.submit(bench.take(.discard, page: 4, nil))
    let kept = bench.take(.writeZeroes, page: 8, nil)
    kept.pointee.flags = .keepAllocated
    disk.submit(kept)
    bench.finish(5)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 }, "\(bench.recorder.ended)")
    let whole = AlignedBuffer(count: 16 * 4096)
    disk.submit(bench.take(.read, page: 0, pages: 16, whole.bytes.baseAddress))
    bench.finish(6)
    let expected: [UInt8] = [0, 1, 2, 0xab, 0, 5, 0xab, 7, 0, 9, 10, 11, 12, 13, 14, 15]
    #expect((0..<16).map { whole.bytes[$0 * 4096 + 4095] } == expected)
  }

  @Test("Concurrent flushes are merged, and all of them complete")
  func flushes() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk()
    try #require(disk.isDirect)
    let buffer = AlignedBuffer(count: 4096)
    disk.submit(bench.take(.write, page: 0, buffer.bytes.baseAddress))
    for _ in 0..<5 { disk.submit(bench.take(.flush, page: 0, pages: 0, nil)) }
    bench.finish(6)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 })
    #expect(bench.queue.submitted == 2)
    // A flush that comes alone is submitted on its own.
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    bench.finish(7)
    #expect(bench.queue.submitted == 3)
  }

  @Test("A flush without other requests runs on this thread, one beside others on another thread")
  func flushAlone() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk()
    try #require(disk.isDirect)
    // A limit so high that even a slow disk's flush counts as quick.
    bench.queue.flushQuickNanoseconds = 3_600_000_000_000
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    #expect(bench.recorder.ended.isEmpty)
    bench.finish(1)
    #expect(bench.queue.submitted == 1 && bench.queue.submissions == 0)
    let buffer = AlignedBuffer(count: 4096)
    disk.submit(bench.take(.read, page: 1, buffer.bytes.baseAddress))
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    bench.finish(3)
    #expect(bench.queue.submitted == 3 && bench.queue.submissions == 1)
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    disk.submit(bench.take(.read, page: 1, buffer.bytes.baseAddress))
    bench.queue.endOfPass()
    #expect(bench.queue.inFlight == 2)
    bench.finish(5)
    // The system's error is reported.
    bench.queue.submit(bench.take(.flush, page: 0, pages: 0, nil), descriptor: -1)
    bench.finish(6)
    #expect(bench.recorder.ended.map(\.error) == [0, 0, 0, 0, 0, EBADF])
    #expect(bench.queue.submissions == 2)
  }

  @Test("Slow flushes run on another thread, and are tried on this one now and then")
  func slowFlushes() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk()
    // A limit so low that no flush counts as quick.
    bench.queue.flushQuickNanoseconds = 1
    for count in 1...128 {
      disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
      bench.finish(count)
    }
    #expect(bench.queue.submitted == 128)
    // The first, the 64th and the 128th flush run on this thread.
    #expect(bench.queue.submissions == 125)
  }

  @Test("Completions are polled for while a few requests are pending, but not for none or many")
  func expectations() throws {
    let bench = try Bench(pages: 16)
    let disk = try bench.disk()
    try #require(disk.isDirect)
    let buffer = AlignedBuffer(count: 16 * 4096)
    #expect(!bench.queue.expects(within: .max))
    for count in [1, 4, 5] {
      // Pages that are not adjacent: adjacent ones would be merged into one request.
      for page in 0..<count {
        disk.submit(bench.take(.read, page: 2 * page, buffer.bytes.baseAddress))
      }
      bench.queue.endOfPass()
      #expect(bench.queue.inFlight == count)
      #expect(bench.queue.expects(within: .max) == (count < 5))
      #expect(!bench.queue.expects(within: 0))
      bench.recorder.ended = []
      bench.finish(count)
    }
    #expect(!bench.queue.expects(within: .max))
  }

  @Test(
    "A hole is known to be one, and nothing else is", arguments: ["/var/tmp", "/dev/shm"])
  func holes(folder: String) throws {
    let bench = try Bench(pages: 16, folder: folder)
    let disk = try bench.disk()
    let page: UInt64 = 4096
    #expect(!disk.isHole(4 * page..<8 * page))
    disk.submit(bench.take(.discard, page: 4, pages: 4, nil))
    bench.finish(1)
    #expect(disk.isHole(4 * page..<8 * page))
    #expect(!disk.isHole(3 * page..<8 * page))
    #expect(!disk.isHole(4 * page..<9 * page))
    let buffer = AlignedBuffer(count: 4096)
    disk.submit(bench.take(.write, page: 5, buffer.bytes.baseAddress))
    bench.finish(2)
    #expect(!disk.isHole(4 * page..<8 * page))
    #expect(disk.isHole(6 * page..<8 * page))
    // A range beyond the end is not a hole.
    #expect(!disk.isHole(16 * page..<17 * page))
  }

  @Test(
    "A flush of a disk that was opened for reading ends at once, without an error or a system call",
    arguments: ["/var/tmp", "/dev/shm"])
  func readOnlyFlush(folder: String) throws {
    let bench = try Bench(pages: 2, folder: folder)
    let disk = try bench.disk(readOnly: true)
    for _ in 0..<3 { disk.submit(bench.take(.flush, page: 0, pages: 0, nil)) }
    #expect(bench.recorder.ended.isEmpty)
    bench.finish(3)
    #expect(bench.recorder.ended.map(\.error) == [0, 0, 0])
    #expect(bench.queue.submitted == 0)
    let device = try FileDevice(path: bench.path, access: .readOnly, exclusive: true)
    try device.flush()
  }

  @Test("A flush reports the error of the system, and zeroing can be durable")
  func durableZeroes() throws {
    #expect(Flush.perform(-1) == EBADF)
    let bench = try Bench(pages: 4)
    let disk = try bench.disk()
    let zeroes = bench.take(.writeZeroes, page: 1, nil)
    zeroes.pointee.flags = [.durable, .keepAllocated]
    disk.submit(zeroes)
    disk.submit(bench.take(.flush, page: 0, pages: 0, nil))
    bench.finish(2)
    #expect(bench.recorder.ended.allSatisfy { $0.error == 0 })
  }

  @Test("A request beyond the end, and a write to what was opened for reading, are refused")
  func refusals() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk(readOnly: true)
    let buffer = AlignedBuffer(count: 4096)
    disk.submit(bench.take(.read, page: 2, buffer.bytes.baseAddress))
    disk.submit(bench.take(.write, page: 0, buffer.bytes.baseAddress))
    disk.submit(bench.take(.discard, page: 0, nil))
    bench.finish(3)
    #expect(bench.recorder.ended.map(\.error) == [EIO, EROFS, EROFS])
  }

  @Test("A file that is being served cannot be opened for writing a second time")
  func exclusion() throws {
    let bench = try Bench(pages: 2)
    let disk = try bench.disk()
    let error = #expect(throws: BlockIOError.self) { _ = try bench.disk() }
    #expect(error?.isLocked == true && error?.code == EBUSY)
    // The error names the process that has the file open: this one.
    #expect(error?.user?.hasSuffix("(process \(getpid()))") == true)
    withExtendedLifetime(disk) {}
  }
}
