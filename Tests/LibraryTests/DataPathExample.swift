import BlockIO
import DataPath
import EventLoop
import TestSupport
import Testing

// example: a request to a disk, and a loop that runs until it is done
final class Transfer: RequestOwner {
  private let requests = RequestPool()
  private(set) var error: Int32?

  /// Begins to read or write `buffer` at byte `offset`.
  func begin(
    _ operation: BlockOperation, _ disk: BlockDestination, at offset: UInt64,
    _ buffer: AlignedBuffer
  ) {
    disk.submit(
      requests.take(
        operation, offset: offset, byteCount: buffer.bytes.count, buffer: buffer.bytes.baseAddress,
        owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    error = request.pointee.errorNumber
    requests.give(request)
  }
}

func copyFirstBlock(from source: BlockDestination, to target: BlockDestination) -> Int32 {
  let buffer = AlignedBuffer(count: 4096)
  for (operation, disk) in [(BlockOperation.read, source), (.write, target)] {
    let transfer = Transfer()
    transfer.begin(operation, disk, at: 0, buffer)
    disk.loop.run(within: 10_000_000_000) { transfer.error != nil }
    if let error = transfer.error, error != 0 { return error }
  }
  return 0
}
// end

// example: what everything on one loop shares, and a disk by its name
final class ExampleHost {
  let loop: EventLoop
  let queue: IOQueue
  let workers: Workers

  init() throws {
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
  }

  /// A disk by its name: a path, `file:PATH`, `memory:SIZE`, `null:SIZE`.
  func open(_ name: String) throws -> any Disk {
    try DiskResolver.open(name, readOnly: false, in: DiskContext(loop, queue, workers))
  }

  /// Nothing may be under way.
  func close() {
    queue.close()
    workers.close()
  }
}
// end

@Suite("Examples of the library DataPath")
struct DataPathExample {
  @Test("a block is copied from a file to a disk in memory, and back")
  func example() throws {
    let folder = try ScratchFolder()
    let bytes = (0..<8192).map { UInt8(truncatingIfNeeded: $0 / 16) }
    let (a, b) = (try folder.file("a", bytes: bytes), try folder.zeros("b", size: 8192))
    let host = try ExampleHost()
    defer { host.close() }
    let disks = try [a, "memory:1m", b].map { try host.open($0) }
    #expect(copyFirstBlock(from: disks[0], to: disks[1]) == 0)
    #expect(copyFirstBlock(from: disks[1], to: disks[2]) == 0)
    #expect(Array(try contents(of: b)[0..<4096]) == Array(bytes[0..<4096]))
  }
}
