import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Targets

/// The device-mapper in this process, over plain files.
final class UserspaceWorld: PoolWorld {
  private let folder: String
  private let loop: EventLoop
  private let queue: IOQueue
  private let workers: Workers
  private let mapper: UserspaceDeviceMapper
  private let userspace: UserspaceBackend
  private let requests = RequestPool()
  private var waiting: [Outcome] = []

  init(folder: String) throws {
    self.folder = folder
    loop = try EventLoop()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    userspace = UserspaceBackend(mapper, loop: loop)
    mapper.log = { [unowned self] in said.append($0) }
  }

  private var said: [String] = []

  func takeRefusals() -> [String] {
    defer { said = [] }
    // What a target only tells is no refusal.
    return said.filter { !$0.contains(": snapshots: ") }
  }

  var backend: any DeviceMapperBackend { userspace }
  var metadataPath: String { "\(folder)/meta" }
  var dataPath: String { "\(folder)/data" }
  var metadataName: String { metadataPath }
  var dataName: String { dataPath }
  func originName(_ name: String) -> String { "\(folder)/origin-\(name)" }

  // MARK: - Devices

  private var originCount: UInt64 = 0

  func makeDevices(metadataBytes: Int, dataBytes: Int) throws(PlayerError) {
    try makeFile(metadataPath, byteCount: metadataBytes, tag: nil)
    try makeFile(dataPath, byteCount: dataBytes, tag: 1 << 40)
  }

  func makeOrigin(_ name: String, byteCount: Int) throws(PlayerError) {
    try makeFile(originName(name), byteCount: byteCount, tag: 1 << 41 + originCount)
    originCount += 1
  }

  func growMetadata(toBytes bytes: Int) throws(PlayerError) {
    guard truncate(metadataPath, bytes) == 0 else { throw PlayerError.system(metadataPath) }
  }

  func close() {
    mapper.removeAll()
    for _ in 0..<100 { loop.pass() }
    queue.close()
    workers.close()
  }

  // MARK: - I/O

  /// A request whose device stays open until it is done.
  private final class Outcome: RequestOwner {
    var result: Int32?
    var opened: OpenDevice?
    let requests: RequestPool
    init(_ requests: RequestPool) {
      self.requests = requests
      super.init()
    }
    override func requestDone(_ request: RequestPointer) {
      result = request.pointee.errorNumber
      requests.give(request)
      opened?.close()
      opened = nil
    }
  }

  private func submit(_ request: ScriptRequest) -> Outcome {
    let outcome = Outcome(requests)
    do throws(DeviceOpenError) {
      let opened = try mapper.open(request.device, readOnly: false)
      outcome.opened = opened
      let operation: BlockOperation =
        switch request.kind {
        case .read: .read
        case .write, .durableWrite: .write
        case .flush: .flush
        case .discard: .discard
        }
      opened.destination.submit(
        requests.take(
          operation, offset: UInt64(request.offset), byteCount: request.byteCount,
          buffer: request.buffer.baseAddress,
          flags: request.kind == .durableWrite ? .durable : [], owner: outcome))
    } catch {
      outcome.result = error.code
    }
    return outcome
  }

  func perform(_ request: ScriptRequest) -> Int32 {
    if request.kind == .discard { return discard(request) }
    let result = wait(for: submit(request))
    // As the kernel does for a file opened with O_DSYNC.
    guard request.kind == .durableWrite, result == 0 else { return result }
    return perform(ScriptRequest(kind: .flush, device: request.device, buffer: request.buffer))
  }

  /// As in the kernel's block layer, above the target: the part before the first whole unit is sent
  /// alone. With units that are not powers of two, the rest can begin elsewhere.
  private func discard(_ request: ScriptRequest) -> Int32 {
    guard let unit = mapper.find(.name(request.device))?.discardBytes, unit >= 512 else {
      return wait(for: submit(request))
    }
    var at = request.offset / 512
    let end = (request.offset + request.byteCount) / 512
    while at < end {
      let aligned = at == 0 ? 0 : ((at - 1) | (unit / 512 - 1)) + 1
      let stop = aligned > at ? min(aligned, end) : end
      var piece = request
      piece.offset = at * 512
      piece.byteCount = (stop - at) * 512
      let result = wait(for: submit(piece))
      guard result == 0 else { return result }
      at = stop
    }
    return 0
  }

  private func wait(for outcome: Outcome) -> Int32 {
    loop.run(until: { outcome.result != nil })
    return outcome.result ?? EIO
  }

  func start(_ request: ScriptRequest) { waiting.append(submit(request)) }

  func settle() { loop.run(within: 20_000_000) { false } }

  func waitShortly() { loop.run(within: 10_000_000) { false } }

  func pause() { loop.run(within: 1_300_000_000) { false } }

  func finish() -> [Int32?] {
    for _ in 0..<50 where waiting.contains(where: { $0.result == nil }) {
      settle()
    }
    defer { waiting.removeAll { $0.result != nil } }
    return waiting.map(\.result)
  }
}
