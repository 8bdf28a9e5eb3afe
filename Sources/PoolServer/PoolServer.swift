import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import Glibc
import Targets

/// A pool without the kernel: its devices in this process, its volumes for NBD clients, and commands by
/// a control socket.
public final class PoolServer {
  private let options: ServeOptions
  private let note: (String) -> Void
  private let loop: EventLoop
  private let queue: IOQueue
  private let worker: BlockingWorker
  private let mapper: UserspaceDeviceMapper
  private let volumes: VolumeExports
  private let server: BlockServer
  private var control: ControlDoor?
  private var metrics: MetricsDoor?
  private var signals: SignalSource?
  private var isStopping = false

  /// A server that has not begun yet. `note` is told what the user should know.
  /// - Throws: where the system gives no event loop.
  public init(_ options: ServeOptions, note: @escaping (String) -> Void) throws(ServeError) {
    self.options = options
    self.note = note
    do throws(SystemError) {
      loop = try EventLoop()
      queue = try IOQueue(loop)
      worker = try BlockingWorker(loop)
    } catch {
      throw ServeError(.inputOutput, "\(error)")
    }
    loop.spinNanoseconds = options.spinMicroseconds * 1000
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, worker: worker)
    mapper.isReadOnly = options.isReadOnly
    mapper.noSpaceTimeoutSeconds = options.noSpaceTimeoutSeconds
    mapper.metadataCacheBlocks = options.metadataCacheBlocks
    mapper.log = note
    volumes = VolumeExports(mapper, isReadOnly: options.isReadOnly)
    server = BlockServer(
      loop, exports: volumes.exports, limits: options.limits, security: options.security)
  }

  /// Serves until the process is told to end (SIGTERM, SIGINT), and gives the pool back.
  /// - Throws: `ServeError`; nothing of the pool is in use then.
  public func run() throws(ServeError) {
    do throws(ServeError) {
      try makeDevices()
      try open()
    } catch {
      _ = giveBack()
      throw error
    }
    announce()
    loop.run()
    if let fault = giveBack() { throw fault }
  }

  // MARK: - Beginning

  private func makeDevices() throws(ServeError) {
    let plan: PoolPlan
    switch options.source {
    case .devices(let metadata, let data):
      plan = try PoolPlan(options, metadata: metadata, data: data)
    case .tables(let path): plan = try PoolPlan(tables: path, isReadOnly: options.isReadOnly)
    case .none: plan = PoolPlan()
    }
    plan.notes.forEach(note)
    for device in plan.devices { try make(device) }
    volumes.update()
  }

  private func make(_ device: ConciseTable.Device) throws(ServeError) {
    var creation = DeviceCreation(
      name: device.name, uuid: device.uuid.isEmpty ? nil : device.uuid, table: device.table)
    creation.minor = device.minor
    creation.isReadOnly = device.isReadOnly
    if device.table.isEmpty { creation.table = nil }
    var result: Result<Void, DeviceMapperError>?
    mapper.create(creation) { result = $0 }
    loop.run(until: { result != nil })
    do throws(DeviceMapperError) {
      try result?.get()
    } catch {
      let kind: ServeError.Kind =
        error.code == EBUSY ? .busy : error.code == EIO ? .damaged : .request
      throw ServeError(kind, "cannot make '\(device.name)': \(error.reason)")
    }
  }

  private func open() throws(ServeError) {
    var name = ""
    do throws(SystemError) {
      for path in options.sockets {
        name = path
        try server.add(try Listener.unix(path: path))
      }
      for address in options.addresses {
        name = address
        for listener in try Listener.tcp(address) {
          note("listening on \(listener.name)")
          try server.add(listener)
        }
      }
      for listener in Listener.passed() { try server.add(listener) }
      if let path = options.control {
        name = path
        let door = try ControlDoor(try Listener.unix(path: path), loop, mapper)
        door.changed = { [unowned self] in self.volumes.update() }
        control = door
      }
      if let place = options.metrics {
        name = place
        metrics = try MetricsDoor(place, loop) { [unowned self] in self.metricsText() }
      }
      name = "signals"
      let mask: UInt64 = 1 << UInt64(SIGTERM) | 1 << UInt64(SIGINT)
      signals = SignalSource(descriptor: dmthin_signal_descriptor(mask)) { [unowned self] in
        self.stop()
      }
      if let signals { try loop.add(signals, .readable) }
    } catch {
      let kind: ServeError.Kind = error.code == EADDRINUSE ? .busy : .inputOutput
      throw ServeError(kind, "\(name): \(error)")
    }
  }

  private func announce() {
    let names = volumes.exports.exports.map(\.name).joined(separator: " ")
    note("serving \(names.isEmpty ? "no volume yet" : names)")
    if let path = getenv("NOTIFY_SOCKET") { _ = dmthin_notify(path, "READY=1") }
  }

  // MARK: - Ending

  private func stop() {
    guard !isStopping else { return }
    isStopping = true
    if let path = getenv("NOTIFY_SOCKET") { _ = dmthin_notify(path, "STOPPING=1") }
    server.stop { [unowned self] in self.loop.stop() }
  }

  /// Commits and lets go of everything; what went wrong, if something did.
  private func giveBack() -> ServeError? {
    control?.close()
    metrics?.close()
    if let signals {
      loop.remove(signals)
      close(signals.descriptor)
    }
    var fault: ServeError?
    for device in mapper.all {
      // Asking for its status commits a pool.
      let status = mapper.status(.number(device.number), [])
      for line in status?.lines ?? [] where line.type == "thin-pool" {
        if line.parameters == "Fail" || line.parameters.contains("needs_check") {
          fault = ServeError(
            .damaged, "the pool '\(device.name)' has failed: check its metadata before using it")
        }
      }
    }
    let end = EventLoop.now() &+ 10_000_000_000
    let timer = LoopTimer {}
    loop.set(timer, after: 10_000_000_000)
    mapper.removeAll()
    loop.run(until: {
      mapper.removeAll()
      return mapper.all.isEmpty && worker.inFlight == 0 && queue.inFlight == 0
        || EventLoop.now() >= end
    })
    loop.cancel(timer)
    if !mapper.all.isEmpty {
      let names = mapper.all.map(\.name).joined(separator: " ")
      return ServeError(.busy, "still in use at the end: \(names)")
    }
    return fault
  }

  // MARK: - Metrics

  private func metricsText() -> String {
    MetricsText(mapper, server).text
  }
}

/// Signals that end the process.
private final class SignalSource: EventSource {
  private let body: () -> Void

  init(descriptor: Int32, _ body: @escaping () -> Void) {
    self.body = body
    super.init(descriptor: descriptor)
  }

  override func ready(_ events: EventLoop.Events) {
    while dmthin_next_signal(descriptor) >= 0 {}
    body()
  }
}
