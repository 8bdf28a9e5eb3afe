import BlockIO
import DataPath
import DeviceMapper
public import EventLoop
import Glibc
import Simulation
import Targets

/// A violated rule, with details.
public struct TrialFailure: Error, CustomStringConvertible {
  /// The rule and the trial.
  public let description: String
  /// A failure.
  public init(_ description: String) { self.description = description }
}

/// The parts that all trials of a process share: the loop, and files that name the disks in memory.
public final class TrialGround {
  /// The loop that runs everything.
  public let loop: EventLoop
  let queue: IOQueue
  let workers: Workers
  private let folder: TemporaryFolder
  private static let names = ["meta", "data", "origin"]

  /// - Throws: an error of the system.
  public init() throws {
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    folder = try TemporaryFolder("dmthin-trial")
    for name in Self.names {
      let descriptor = open(path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
      guard descriptor >= 0 else { throw SystemError("open", errno) }
      Glibc.close(descriptor)
    }
  }

  deinit {
    queue.close()
    workers.close()
  }

  func path(_ name: String) -> String { "\(folder.path)/\(name)" }
}

/// A pool `pool` over disks in memory, and clients of its volumes. Every wait is limited: an
/// operation that does not end after very many passes of the loop is a failure.
final class PoolRig {
  let ground: TrialGround
  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  /// The metadata, data and external origin disks.
  let disks: [TraceDisk]
  private let requests = RequestPool()
  /// Cuts requests' data into pieces.
  private var scatter = SplitMix64(seed: 1)
  private let shape: PoolShape
  /// The messages that the kernel would log.
  private(set) var log: [String] = []

  init(_ ground: TrialGround, disks: [TraceDisk], _ shape: PoolShape) {
    self.ground = ground
    self.disks = disks
    self.shape = shape
    loop = ground.loop
    mapper = UserspaceDeviceMapper(loop: loop, queue: ground.queue, workers: ground.workers)
    // The result must depend on the seed, not on time.
    mapper.commitIntervalNanoseconds = 0
    mapper.noSpaceTimeoutSeconds = 0
    let paths = ["meta", "data", "origin"].map(ground.path)
    mapper.openDisk = { (found, _) throws(DeviceOpenError) in
      guard let index = paths.firstIndex(of: found.name) else {
        throw DeviceOpenError(code: ENODEV)
      }
      return disks[index]
    }
    mapper.log = { [unowned self] in log.append($0) }
  }

  /// Removes all devices.
  func close() {
    mapper.removeAll()
    for _ in 0..<4 { loop.pass() }
    for disk in disks { disk.close() }
  }

  // MARK: - Waiting

  /// Runs the loop until `isDone` returns true.
  func run(_ what: @autoclosure () -> String, until isDone: () -> Bool) throws(TrialFailure) {
    var passes = 0
    while !isDone() {
      loop.pass()
      passes += 1
      if passes > 100_000 { throw TrialFailure("\(what()) does not end") }
    }
  }

  private func wait(
    _ what: String, _ body: (@escaping UserspaceDeviceMapper.Completion) -> Void
  ) throws(TrialFailure) {
    var result: Result<Void, DeviceMapperError>?
    body { result = $0 }
    try run(what) { result != nil }
    if case .failure(let error) = result { throw TrialFailure("\(what): \(error)") }
  }

  // MARK: - Devices

  private func poolLine(_ features: String) -> TableLine {
    TableLine(
      start: 0, length: disks[1].byteCount / 512, type: "thin-pool",
      parameters: "\(ground.path("meta")) \(ground.path("data")) "
        + "\(shape.sectorsPerBlock) 0 \(features)")
  }

  func makePool(_ features: String) throws(TrialFailure) {
    try wait("creating the pool") {
      mapper.create(DeviceCreation(name: "pool", table: [poolLine(features)]), $0)
    }
  }

  /// Loads a table for the present sizes of the disks.
  func growPool(_ features: String) throws(TrialFailure) {
    do throws(DeviceMapperError) {
      try mapper.load(.name("pool"), [poolLine(features)], readOnly: false)
    } catch {
      throw TrialFailure("loading the pool's table: \(error)")
    }
    try suspend("pool")
    try resume("pool")
  }

  /// Sends a message and returns the error number.
  func message(_ text: String) -> Int32 {
    do throws(DeviceMapperError) {
      _ = try mapper.message(.name("pool"), sector: 0, text)
      return 0
    } catch {
      return error.code
    }
  }

  func activate(_ id: Int, as name: String, hasOrigin: Bool) throws(TrialFailure) {
    let parameters = "pool \(id)" + (hasOrigin ? " \(ground.path("origin"))" : "")
    let line = TableLine(
      start: 0, length: UInt64(shape.sectorCount), type: "thin", parameters: parameters)
    try wait("activating \(name)") {
      mapper.create(DeviceCreation(name: name, table: [line]), $0)
    }
  }

  func suspend(_ name: String) throws(TrialFailure) {
    try wait("suspending \(name)") { mapper.suspend(.name(name), [], $0) }
  }

  func resume(_ name: String) throws(TrialFailure) {
    try wait("resuming \(name)") { mapper.resume(.name(name), [], $0) }
  }

  func remove(_ name: String) throws(TrialFailure) {
    do throws(DeviceMapperError) {
      try mapper.remove(.name(name), deferred: false)
    } catch {
      throw TrialFailure("removing \(name): \(error)")
    }
  }

  /// The pool's status; nil if the pool has failed.
  func status(noFlush: Bool = false) throws(TrialFailure) -> ThinPoolStatus.Details? {
    let text = mapper.status(.name("pool"), noFlush ? .noFlush : [])?.lines.first?.parameters
    switch text.flatMap({ ThinPoolStatus($0) }) {
    case .working(let details): return details
    case .failed: return nil
    default: throw TrialFailure("the pool's status is \(text ?? "missing")")
    }
  }

  /// Whether the pool accepts no more changes.
  var isDegraded: Bool {
    switch try? status(noFlush: true)?.mode {
    case .readWrite, .outOfDataSpace: false
    default: true
    }
  }

  // MARK: - Requests

  /// A request and its result.
  final class Outcome: RequestOwner {
    fileprivate(set) var isDone = false
    fileprivate(set) var error: Int32 = 0
    /// The data to write, or the data read.
    let buffer: AlignedBuffer
    /// Where it is while the request is under way.
    fileprivate var data: ScatteredData?
    fileprivate var opened: OpenDevice?
    private let requests: RequestPool

    fileprivate init(_ requests: RequestPool, _ count: Int) {
      self.requests = requests
      buffer = AlignedBuffer(holding: count)
    }

    override func requestDone(_ request: RequestPointer) {
      error = request.pointee.errorNumber
      requests.give(request)
      data?.put(into: buffer)
      data = nil
      opened?.close()
      opened = nil
      isDone = true
    }
  }

  /// Starts a request; `fill` fills the buffer of a write.
  func start(
    _ operation: BlockOperation, _ name: String, _ sectors: Range<Int> = 0..<0,
    _ flags: BlockFlags = [], fill: (UnsafeMutableRawBufferPointer) -> Void = { _ in }
  ) throws(TrialFailure) -> Outcome {
    let hasData = operation == .read || operation == .write
    let outcome = Outcome(requests, hasData ? sectors.count * 512 : 0)
    do throws(DeviceOpenError) {
      outcome.opened = try mapper.open(name, readOnly: operation == .read)
    } catch {
      throw TrialFailure("opening \(name): \(error)")
    }
    if operation == .write { fill(outcome.buffer.bytes) }
    if hasData {
      outcome.data = ScatteredData(byteCount: sectors.count * 512, unit: 512, &scatter)
      outcome.data?.take(from: outcome.buffer)
    }
    outcome.opened?.destination.submit(
      requests.take(
        operation, offset: UInt64(sectors.lowerBound * 512), byteCount: sectors.count * 512,
        memory: outcome.data?.memory ?? RequestMemory(), flags: flags, owner: outcome))
    return outcome
  }
}
