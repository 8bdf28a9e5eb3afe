import BlockIO
import CDMThin
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets

/// A loop, a userspace device-mapper on it, and a client that keeps a destination busy.
final class Bench {
  let loop: EventLoop
  let queue: IOQueue
  let workers: Workers
  let mapper: UserspaceDeviceMapper
  private let folder: String
  private let bytes: Int

  init(_ folder: String, bytes: Int) throws {
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    self.folder = folder
    self.bytes = bytes
  }

  deinit {
    for _ in 0..<10 { loop.pass() }
    queue.close()
    workers.close()
  }

  private func file(_ name: String, bytes: Int) throws -> String {
    let path = path(name)
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0, ftruncate(descriptor, bytes) == 0 else {
      throw SystemError("open \(path)", errno)
    }
    close(descriptor)
    return path
  }

  /// A file as a disk, all of it written.
  func openDisk(_ name: String, bytes: Int) throws -> FileDisk {
    let path = try file(name, bytes: bytes)
    let context = DiskContext(loop, queue, workers)
    let disk = try FileDisk(path: path, readOnly: false, in: context)
    var info = stat()
    if stat(path, &info) != 0 || info.st_blocks * 512 < bytes { try fill(disk) }
    return disk
  }

  func path(_ name: String) -> String { "\(folder)/bench-targets.\(name)" }

  /// The path of a file, all of it written.
  func writtenFile(_ name: String, bytes: Int) throws -> String {
    _ = try openDisk(name, bytes: bytes)
    return path(name)
  }

  /// The path of a new file that has its space.
  func freshFile(_ name: String, bytes: Int) throws -> String {
    unlink(path(name))
    let path = try file(name, bytes: bytes)
    let descriptor = open(path, O_RDWR | O_CLOEXEC)
    defer { close(descriptor) }
    if posix_fallocate(descriptor, 0, bytes) != 0 { throw SystemError("fallocate \(path)", errno) }
    return path
  }

  /// A file as it is.
  func disk(_ name: String) throws -> FileDisk {
    let context = DiskContext(loop, queue, workers)
    return try FileDisk(path: path(name), readOnly: false, exclusive: false, in: context)
  }

  /// One write of 4 KiB to each place, in an order that is not that of the disk.
  func runOnce(_ destination: BlockDestination, stride: Int, depth: Int) throws -> Measurement {
    let row = Row(name: "once", writes: true, bytes: 4096, depth: depth)
    let client = Client(loop, destination, row, span: bytes)
    client.once(stride: UInt64(stride))
    return try measure(client, row)
  }

  /// Volume 1 of a new pool, in the state that a row requires.
  func makeVolume(_ state: Row.Volume) throws -> OpenDevice {
    let backend = UserspaceBackend(mapper, loop: loop)
    unlink(path("meta"))
    let metadata = try file("meta", bytes: 64 << 20)
    let dataBytes = 2 * bytes + (64 << 20)
    let data = try file("data", bytes: dataBytes)
    try backend.create(
      DeviceCreation(
        name: "pool",
        table: [
          TableLine(
            start: 0, length: UInt64(dataBytes / 512), type: "thin-pool",
            parameters: "\(metadata) \(data) 128 0 0")
        ]))
    _ = try backend.message(.name("pool"), sector: 0, "create_thin 1")
    try backend.create(
      DeviceCreation(
        name: "vol",
        table: [
          TableLine(
            start: 0, length: UInt64(bytes / 512), type: "thin", parameters: "pool 1")
        ]))
    let volume = try mapper.open("vol", readOnly: false)
    if state != .empty { try fill(volume.destination) }
    if state == .shared {
      try backend.suspend(.name("vol"), [])
      _ = try backend.message(.name("pool"), sector: 0, "create_snap 2 1")
      try backend.resume(.name("vol"), [], node: NodeOptions())
    }
    return volume
  }

  func fill(_ destination: BlockDestination) throws {
    let row = Row(name: "fill", writes: true, bytes: 1 << 20, depth: 4, isSequential: true)
    let client = Client(loop, destination, row, span: bytes)
    client.countMax = bytes >> 20
    client.deadline = .max
    client.begin()
    loop.run { client.isDone }
    if client.error != 0 { throw SystemError("fill", client.error) }
  }

  /// Keeps `destination` busy as the row describes.
  func run(_ row: Row, on destination: BlockDestination, seconds: Double) throws -> Measurement {
    let client = Client(loop, destination, row, span: bytes)
    if row.volume != .filled {
      // Few enough that most blocks are not cached.
      client.countMax = bytes >> 16
    }
    client.deadline = EventLoop.now() + UInt64(seconds * 1e9)
    return try measure(client, row)
  }

  private func measure(_ client: Client, _ row: Row) throws -> Measurement {
    let (start, startCPU) = (EventLoop.now(), Self.cpuSeconds())
    client.begin()
    loop.run { client.isDone }
    if client.error != 0 { throw SystemError(row.name, client.error) }
    return Measurement(
      count: client.count, seconds: Double(EventLoop.now() - start) / 1e9,
      cpuSeconds: Self.cpuSeconds() - startCPU)
  }

  private static func cpuSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}

/// Sends the next request as soon as one is done.
final class Client: RequestOwner {
  private let loop: EventLoop
  private let destination: BlockDestination
  private let row: Row
  private let pool = RequestPool()
  private let buffers: AlignedBuffer
  private var random = SplitMix64(seed: 1)
  private var next: UInt64 = 0
  private var places: UInt64
  /// Bytes from one place to the next.
  private var stride: UInt64
  /// Whether each place has its turn once: `next` times this is the place, modulo their number.
  private var step: UInt64?
  private var inFlight = 0
  var deadline: UInt64 = 0
  var countMax = Int.max
  private var begun = 0
  private(set) var count = 0
  private(set) var error: Int32 = 0

  init(_ loop: EventLoop, _ destination: BlockDestination, _ row: Row, span: Int) {
    self.loop = loop
    self.destination = destination
    self.row = row
    places = UInt64(span / row.bytes)
    stride = UInt64(row.bytes)
    buffers = AlignedBuffer(count: row.bytes * row.depth)
    if let memory = buffers.bytes.baseAddress { memset(memory, 0x5a, buffers.bytes.count) }
  }

  var isDone: Bool { inFlight == 0 }

  /// Has each place that is a multiple of `stride` have its turn once.
  func once(stride: UInt64) {
    places = places * self.stride / stride
    self.stride = stride
    // Without a common factor: places are a power of two.
    step = 2 * (places / 3) + 1
    countMax = Int(places)
    deadline = .max
  }

  func begin() {
    for slot in 0..<row.depth where begun < countMax { send(slot) }
  }

  private func send(_ slot: Int) {
    let place =
      step.map { next &* $0 % places }
      ?? (row.isSequential ? next % places : random.next() % places)
    next += 1
    begun += 1
    inFlight += 1
    let request = pool.take(
      row.writes ? .write : .read, offset: place * stride, byteCount: row.bytes,
      buffer: buffers.bytes.baseAddress.map { $0 + slot * row.bytes }, owner: self)
    request.pointee.tag = UInt32(truncatingIfNeeded: slot)
    destination.submit(request)
  }

  override func requestDone(_ request: RequestPointer) {
    let slot = Int(request.pointee.tag)
    let operation = request.pointee.operation
    if request.pointee.errorNumber != 0 { error = request.pointee.errorNumber }
    pool.give(request)
    inFlight -= 1
    count += 1
    if row.flushes, operation == .write {
      let flush = pool.take(.flush, offset: 0, byteCount: 0, owner: self)
      flush.pointee.tag = UInt32(truncatingIfNeeded: slot)
      inFlight += 1
      count -= 1
      destination.submit(flush)
    } else if begun < countMax, error == 0, count & 63 != 0 || EventLoop.now() < deadline {
      send(slot)
    } else if count & 63 == 0 {
      countMax = begun
    }
  }
}
