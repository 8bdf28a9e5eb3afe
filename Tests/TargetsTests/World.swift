import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import TargetSimulation
import Targets
import TestSupport
import Testing
import ThinTools

struct PoolHasFailed: Error {}

/// A userspace device-mapper whose disks are in memory, by name.
final class World {
  let loop: EventLoop
  let queue: IOQueue
  let workers: Workers
  let mapper: UserspaceDeviceMapper
  let dm: UserspaceBackend
  let folder: ScratchFolder
  var disks: [String: MemoryDisk] = [:]
  private let requests = RequestPool()
  /// Cuts requests' data into pieces.
  private var scatter = SplitMix64(seed: 1)
  static let second: UInt64 = 1_000_000_000
  /// Stops a test whose command or request does not end.
  private let watchdog = LoopTimer {
    fatalError("'\(Test.current?.name ?? "a test")' waits for something that does not end")
  }
  /// The messages of the target drivers, which the kernel would have logged.
  var log: [String] = []

  /// - Parameter onFiles: open the disks at their paths instead of memory disks.
  init(onFiles: Bool = false) throws {
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    dm = UserspaceBackend(mapper, loop: loop)
    folder = try ScratchFolder()
    mapper.log = { [unowned self] in log.append($0) }
    // An interval so long that no commit happens unless the test asks for it.
    mapper.commitIntervalNanoseconds = 3600 * Self.second
    loop.set(watchdog, after: 1800 * Self.second)
    if onFiles { return }
    mapper.openDisk = { [unowned self] (found, _) throws(DeviceOpenError) in
      guard let disk = disks[String(found.name.split(separator: "/").last ?? "")] else {
        throw DeviceOpenError(code: ENODEV)
      }
      return disk
    }
  }

  deinit {
    loop.cancel(watchdog)
    mapper.removeAll()
    for _ in 0..<10 { loop.pass() }
    for disk in disks.values { disk.close() }
    queue.close()
    workers.close()
  }

  /// Adds a disk, and returns the path by which tables name it. It takes the place of one of this name that
  /// is not in use any more.
  @discardableResult
  func add(_ name: String, _ disk: MemoryDisk) throws -> String {
    disks[name]?.close()
    disks[name] = disk
    return try folder.zeros(name, size: 0)
  }

  @discardableResult
  func add(_ name: String, byteCount: Int, seed: UInt64 = 1) throws -> String {
    try add(name, MemoryDisk(loop, byteCount: byteCount, seed: seed))
  }

  func path(_ name: String) -> String { folder.file(name) }

  // MARK: - Devices

  func line(_ length: UInt64, _ type: String, _ parameters: String, start: UInt64 = 0) -> TableLine
  {
    TableLine(start: start, length: length, type: type, parameters: parameters)
  }

  func create(_ name: String, _ table: [TableLine]) throws {
    try dm.create(DeviceCreation(name: name, table: table))
  }

  /// A pool `pool` on disks `meta` and `data`, of blocks of 64 KiB.
  func poolLine(_ dataBytes: Int, _ features: String = "0", lowWater: Int = 0) -> TableLine {
    line(
      UInt64(dataBytes / 512), "thin-pool",
      "\(path("meta")) \(path("data")) 128 \(lowWater) \(features)")
  }

  func makePool(
    metaBytes: Int = 1 << 20, dataBytes: Int, _ features: String = "0", lowWater: Int = 0,
    seed: UInt64 = 1
  ) throws {
    try add("meta", byteCount: metaBytes, seed: seed)
    try add("data", byteCount: dataBytes, seed: seed &+ 1)
    disks["data"]?.poison()
    try create("pool", [poolLine(dataBytes, features, lowWater: lowWater)])
  }

  /// A pool on disks with these bytes.
  func makePool(meta: [UInt8], data: [UInt8], _ features: String = "0") throws {
    try add("meta", MemoryDisk(loop, bytes: meta, seed: 1))
    try add("data", MemoryDisk(loop, bytes: data, seed: 2))
    try create("pool", [poolLine(data.count, features)])
  }

  /// Grows the data disk, and the pool with it.
  func growPool(to dataBytes: Int) throws {
    disks["data"]?.grow(to: dataBytes)
    try reload("pool", [poolLine(dataBytes)])
  }

  /// Loads another table for a device, and resumes it.
  func reload(_ name: String, _ table: [TableLine]) throws {
    try dm.load(.name(name), table, readOnly: false)
    try resume(name)
  }

  func resume(_ name: String) throws { try dm.resume(.name(name), [], node: NodeOptions()) }

  /// Makes a pool of 16 data blocks, and thin device 1 of 8 blocks with the first one written.
  /// Returns the contents of that block.
  func makeUsedPool(metaBytes: Int = 1 << 20) throws -> [UInt8] {
    try makePool(metaBytes: metaBytes, dataBytes: 16 * blockBytes)
    try makeThin(1, bytes: 8 * blockBytes)
    let bytes = pattern(1, blockBytes)
    #expect(try write("thin1", at: 0, bytes) == 0)
    return bytes
  }

  /// A pool of four data blocks, all mapped as the first four blocks of thin device 1, which has
  /// 16.
  func makeFullPool() throws {
    try makePool(dataBytes: 4 * blockBytes)
    try makeThin(1, bytes: 16 * blockBytes)
    #expect(try write("thin1", at: 0, pattern(5, 4 * blockBytes)) == 0)
  }

  func message(_ text: String) throws {
    _ = try dm.message(.name("pool"), sector: 0, text)
  }

  /// The error number for a message, nil if it succeeds. An error has to come with an explanation.
  func refusal(_ text: String) -> Int32? {
    do throws(DeviceMapperError) {
      _ = try dm.message(.name("pool"), sector: 0, text)
      return nil
    } catch {
      #expect(!error.explanation.isEmpty, "\(error)")
      return error.code
    }
  }

  func activate(_ id: Int, bytes: Int, origin: String? = nil) throws {
    let suffix = origin.map { " \(path($0))" } ?? ""
    try create("thin\(id)", [line(UInt64(bytes / 512), "thin", "pool \(id)\(suffix)")])
  }

  func makeThin(_ id: Int, bytes: Int) throws {
    try message("create_thin \(id)")
    try activate(id, bytes: bytes)
  }

  /// Takes a snapshot of an active thin device.
  func snapshot(_ id: Int, of origin: Int) throws {
    try dm.suspend(.name("thin\(origin)"), [])
    try message("create_snap \(id) \(origin)")
    try resume("thin\(origin)")
  }

  func status(_ name: String = "pool") throws -> String {
    try dm.status(.name(name), [])?.lines.first?.parameters ?? "none"
  }

  func pool() throws -> ThinPoolStatus.Details {
    guard case .working(let details) = try #require(ThinPoolStatus(try status())) else {
      throw PoolHasFailed()
    }
    return details
  }

  func event(_ name: String = "pool") throws -> UInt32 {
    try #require(try dm.info(.name(name), [])).eventNumber
  }

  // MARK: - I/O

  final class Outcome: RequestOwner {
    var isDone = false
    var error: Int32 = 0
    var bytes: [UInt8] = []
    var keep: OpenDevice?
    let buffer: AlignedBuffer
    /// Where the data is while the request is under way.
    fileprivate var data: ScatteredData?
    unowned let world: World
    init(_ world: World, _ count: Int) {
      self.world = world
      buffer = AlignedBuffer(holding: count)
    }
    override func requestDone(_ request: RequestPointer) {
      error = request.pointee.errorNumber
      data?.put(into: buffer)
      data = nil
      if request.pointee.operation == .read {
        bytes = Array(UnsafeRawBufferPointer(buffer.bytes)[0..<request.pointee.byteCount])
      }
      world.requests.give(request)
      keep?.close()
      keep = nil
      isDone = true
    }
  }

  /// Starts a request to a device.
  func start(
    _ operation: BlockOperation, _ device: String, at offset: Int = 0, count: Int = 0,
    _ bytes: [UInt8] = [], flags: BlockFlags = []
  ) throws -> Outcome {
    let opened = try mapper.open(device, readOnly: true)
    let size = bytes.isEmpty ? count : bytes.count
    let hasData = operation == .read || operation == .write
    let outcome = Outcome(self, hasData ? size : 0)
    outcome.keep = opened
    if operation == .write { outcome.buffer.bytes.copyBytes(from: bytes) }
    if hasData {
      let unit = opened.destination.logicalBlockBytes
      outcome.data = ScatteredData(byteCount: size, unit: unit, &scatter)
      outcome.data?.take(from: outcome.buffer)
    }
    opened.destination.submit(
      requests.take(
        operation, offset: UInt64(offset), byteCount: size,
        memory: outcome.data?.memory ?? RequestMemory(), flags: flags, owner: outcome))
    return outcome
  }

  func finish(_ outcomes: [Outcome]) {
    loop.run(within: 600_000_000_000, until: { outcomes.allSatisfy(\.isDone) })
    let areDone = outcomes.allSatisfy(\.isDone)
    #expect(areDone, "a request does not end")
  }

  /// Runs some passes of the loop, without waiting.
  func passes(_ count: Int = 200) { for _ in 0..<count { loop.pass() } }

  /// Lets some seconds pass.
  func skip(seconds: UInt64) {
    loop.skip(seconds * Self.second)
    loop.pass()
  }

  /// Performs a request. Returns its error number.
  @discardableResult
  func perform(
    _ operation: BlockOperation, _ device: String, at offset: Int = 0, count: Int = 0,
    _ bytes: [UInt8] = [], flags: BlockFlags = []
  ) throws -> Int32 {
    let outcome = try start(operation, device, at: offset, count: count, bytes, flags: flags)
    finish([outcome])
    return outcome.error
  }

  func write(_ device: String, at offset: Int, _ bytes: [UInt8]) throws -> Int32 {
    try perform(.write, device, at: offset, bytes)
  }

  func read(_ device: String, at offset: Int, count: Int) throws -> [UInt8] {
    let outcome = try start(.read, device, at: offset, count: count)
    finish([outcome])
    #expect(outcome.error == 0)
    return outcome.bytes
  }

  // MARK: - Afterwards

  /// Removes all devices, and checks the metadata disk.
  func checkedAtEnd() throws -> CheckReport {
    mapper.removeAll()
    #expect(try dm.list().isEmpty)
    return try Self.check(try #require(disks["meta"]).bytes)
  }

  static func check(_ metadata: [UInt8]) throws -> CheckReport {
    let device = MemoryDevice(byteCount: metadata.count)
    try metadata.withUnsafeBytes { bytes in
      try device.write(bytes, at: 0)
    }
    return try ThinCheck.run(device, options: CheckOptions(), progress: .init())
  }
}

/// Bytes of a data block of `World.makePool`.
let blockBytes = 64 * 1024

/// `count` pseudorandom bytes that depend on `seed` only.
func pattern(_ seed: Int, _ count: Int) -> [UInt8] {
  var random = SplitMix64(seed: UInt64(seed) &+ 77)
  var bytes = [UInt8](repeating: 0, count: count)
  var index = 0
  while index < count {
    let word = random.next()
    for shift in 0..<min(8, count - index) {
      bytes[index + shift] = UInt8(truncatingIfNeeded: word >> UInt64(8 * shift))
    }
    index += 8
  }
  return bytes
}

func zeros(_ count: Int) -> [UInt8] { [UInt8](repeating: 0, count: count) }
