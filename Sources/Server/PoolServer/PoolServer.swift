import BlockIO
import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PoolManager
import ServerControl
import Targets
import ThinFormat
public import ThinTools

/// Serves pools without the kernel: its devices are in this process, its volumes are exported by
/// NBD, and a control socket takes commands. Everything runs on the thread that calls `run`.
public final class PoolServer {
  private let options: ServeOptions
  private let note: (String) -> Void
  private let loop: EventLoop
  private let queue: IOQueue
  private let workers: Workers
  private let mapper: UserspaceDeviceMapper
  private lazy var judge = MetadataJudge(
    loop, care: options.check, tickets: options.tickets.map { CleanTickets(folder: $0) },
    note: note,
    goesOn: { [unowned self] name, done, total in
      notify("EXTEND_TIMEOUT_USEC=10000000")
      control?.progress(name, "Checking the metadata of \(name)", done: done, total: total)
    })
  /// Files that the user was warned about.
  private var warned: Set<String> = []
  private let volumes: VolumeExports
  private let server: BlockServer
  private var control: ControlDoor?
  private var metrics: MetricsDoor?
  private var signals: SignalSource?
  private var stopRequests = 0
  private lazy var patience = LoopTimer { [unowned self] in failWaiting() }
  private static let idleTick: UInt64 = 1_000_000_000
  private lazy var idleTimer = LoopTimer { [unowned self] in endIfIdle() }
  private var idleSeconds: UInt64 = 0
  /// Pools that had failed or needed a check when they were activated.
  private var troubled: Set<String> = []

  /// A server that was not started yet. `note` prints messages for the user.
  /// - Throws: if the system provides no event loop.
  public init(_ options: ServeOptions, note: @escaping (String) -> Void) throws(ToolError) {
    self.options = options
    self.note = note
    do throws(SystemError) {
      loop = try EventLoop()
      queue = try IOQueue(loop)
      workers = try Workers(loop)
    } catch {
      throw ToolError(.unexpected, "\(error)")
    }
    loop.spinNanoseconds = options.spinMicroseconds * 1000
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    mapper.isReadOnly = options.isReadOnly
    mapper.noSpaceTimeoutSeconds = options.noSpaceTimeoutSeconds
    mapper.metadataCacheBlocks = options.metadataCacheBlocks
    mapper.log = note
    volumes = VolumeExports(mapper, loop)
    server = BlockServer(
      loop, exports: volumes.exports, limits: options.limits, security: options.security)
    server.memoryReturned = { [unowned self] in mapper.returnMemory() }
    mapper.eventHappened = { [unowned self] device in
      volumes.changed()
      control?.happened(.event, device)
    }
    mapper.judgeMetadata = { [unowned self] in judge.judge($0, $1) }
    mapper.poolClosed = { [unowned self] in judge.poolClosed($0) }
    let open = mapper.openDisk
    mapper.openDisk = { [unowned self] (found, readOnly) throws(DeviceOpenError) in
      let disk = try open(found, readOnly)
      if let path = found.path { warnOfMode(path) }
      return disk
    }
  }

  /// Warns once about a file or device that other users can read or write.
  private func warnOfMode(_ path: String) {
    var info = stat()
    guard unsafe stat(path, &info) == 0, info.st_mode & 0o006 != 0, warned.insert(path).inserted
    else {
      return
    }
    let what = info.st_mode & 0o002 != 0 ? "written" : "read"
    note(
      "warning: \(path) can be \(what) by every user, who can also lock it, so that nothing starts: "
        + "chmod o-rwx \(path)")
  }

  /// Serves until SIGTERM, SIGINT or SIGHUP, then commits and closes the pool.
  /// - Throws: `ToolError`; the pool is closed then.
  public func run() throws(ToolError) {
    if let folder = options.tickets, !options.isReadOnly { CleanTickets(folder: folder).clear() }
    do throws(ToolError) {
      try makeDevices()
      try openDoors()
    } catch {
      _ = giveBack()
      throw error
    }
    announce()
    if options.untilIdleSeconds != nil { loop.set(idleTimer, after: Self.idleTick) }
    loop.run()
    if let fault = giveBack() { throw fault }
    if let control = options.control { StartedServer.removeLog(control: control) }
  }

  // MARK: - Start

  private func makeDevices() throws(ToolError) {
    let plan: PoolPlan
    switch options.source {
    case .devices(let metadata, let data):
      plan = try PoolPlan(options, metadata: metadata, data: data)
    case .tables(let path): plan = try PoolPlan(tables: path, isReadOnly: options.isReadOnly)
    case .rescue(let serving):
      try rescue(serving)
      plan = PoolPlan()
    case .none: plan = PoolPlan()
    }
    plan.notes.forEach(note)
    for device in plan.devices {
      try make(device)
      if device.name == options.name { try makeThins(plan.newThins) }
    }
    recordOrigins()
    troubled = Set(failedPools())
    for name in troubled where !options.isReadOnly {
      note("warning: the pool '\(name)' needs a check; until then it is read-only")
    }
    volumes.update()
  }

  /// Exports what can be read of a damaged pool, of which no device is made.
  private func rescue(_ serving: RescueServing) throws(ToolError) {
    let exports = RescueExports(
      serving, loop, note: note,
      openDisk: { [loop, queue, workers] (name, exclusive) throws(BlockIOError) in
        try FileDisk(
          path: DiskName(name).path ?? name, readOnly: true, exclusive: exclusive,
          in: DiskContext(loop, queue, workers))
      })
    for export in try exports.make(options.volumes) where !volumes.exports.add(export) {
      throw ToolError(.refused, "a volume cannot be called '\(export.name)'")
    }
  }

  /// Records which volumes have external origins, for their next activation.
  private func recordOrigins() {
    guard case .devices(let metadata, _) = options.source, !options.isReadOnly,
      let path = DiskName(metadata).path
    else { return }
    do throws(ToolError) {
      try OriginRecords(metadata: path)?.update { origins in
        for volume in options.volumes where volume.origin != .unstated {
          let full = unsafe volume.origin.path.flatMap { unsafe realpath($0, nil) }
          defer { unsafe free(full) }
          origins[volume.id] = unsafe full.map { unsafe String(cString: $0) }
        }
      }
    } catch {
      note("warning: \(error.message)")
    }
  }

  private func make(_ device: ConciseTable.Device) throws(ToolError) {
    var creation = DeviceCreation(
      name: device.name, uuid: device.uuid.isEmpty ? nil : device.uuid,
      table: device.table.isEmpty ? nil : device.table)
    creation.minor = device.minor
    creation.isReadOnly = device.isReadOnly
    var result: Result<Void, DeviceMapperError>?
    mapper.create(creation) { result = $0 }
    loop.run(until: { result != nil })
    do throws(DeviceMapperError) {
      try result?.get()
    } catch {
      let cause: ToolError.Cause =
        switch error.code {
        case EBUSY: .inUse
        case EIO, EILSEQ, ENOTBLK, EUCLEAN: .damaged
        case ENODEV, ENOENT, EACCES: .notFound(.input)
        case ENOSPC, EDQUOT, EFBIG: .unexpected
        default: .refused
        }
      throw ToolError(cause, "cannot make '\(device.name)': \(error.reason)")
    }
  }

  /// Makes thin devices in the new pool.
  private func makeThins(_ ids: [ThinID]) throws(ToolError) {
    do throws(DeviceMapperError) {
      for id in ids {
        _ = try mapper.message(.name(options.name), sector: 0, "create_thin \(id)")
      }
    } catch {
      throw ToolError(.refused, "cannot make thin devices of '\(options.name)': \(error.reason)")
    }
  }

  private func openDoors() throws(ToolError) {
    let passed = try passedListeners()
    let controlPath = options.control ?? options.sockets.first.map { $0 + ".control" }
    guard controlPath != nil || !options.addresses.isEmpty || !passed.isEmpty else {
      throw ToolError(.refused, "no client could connect: give --socket or --listen")
    }
    let descriptors = DescriptorLimit.makeRoom(forConnections: options.limits.connections)
    if descriptors.connections < options.limits.connections {
      guard descriptors.connections > 0 else {
        throw ToolError(
          .refused,
          "the limit of open files leaves no room for a connection: raise it (ulimit -n, LimitNOFILE=)"
        )
      }
      server.allow(connections: descriptors.connections)
      note(
        "warning: there is room for \(descriptors.connections) of \(options.limits.connections) "
          + "connections only; more are refused: raise the hard limit of open files (ulimit -Hn)"
      )
    }
    let paths = options.sockets + [controlPath, options.metrics].compactMap { $0 }
    for path in paths { RuntimeFolder.make(for: path) }
    for path in paths where path.contains("/") && Listener.othersMayReplace(path: path) {
      note("warning: other users may write to the folder of \(path), and could replace the socket")
    }
    var place = ""
    do throws(SystemError) {
      for path in options.sockets {
        place = path
        try server.add(try Listener.unix(path: path))
      }
      for address in options.addresses {
        place = address
        for listener in try Listener.tcp(address) {
          note("listening on \(listener.name)")
          try server.add(listener)
        }
      }
      for listener in passed { try server.add(listener) }
      if let controlPath {
        place = controlPath
        control = try ControlDoor(
          path: controlPath, loop, mapper, volumes, connectionsMax: descriptors.control
        ) { [unowned self] in server.listenerNames }
      }
      if let address = options.metrics {
        place = address
        metrics = try MetricsDoor(address, loop) { [unowned self] in
          MetricsText(mapper, server, volumes.exports)
        }
      }
      place = "signals"
      signals = try SignalSource([SIGTERM, SIGINT, SIGHUP], loop) { [unowned self] in stop() }
    } catch {
      let cause: ToolError.Cause =
        switch error.code {
        case EADDRINUSE: .inUse
        case EINVAL, EADDRNOTAVAIL, ENAMETOOLONG: .refused
        default: .notFound(.input)
        }
      throw ToolError(cause, "\(place): \(error)")
    }
  }

  private func passedListeners() throws(ToolError) -> [Listener] {
    do throws(SystemError) {
      return try Listener.passed()
    } catch {
      throw ToolError(.refused, "LISTEN_FDS: \(error)")
    }
  }

  private func announce() {
    let names = volumes.exports.exports.map { KernelText.printable($0.name) }
      .joined(separator: " ")
    if case .rescue = options.source {
      for command in RescueExports.commands(volumes.exports.exports, sockets: options.sockets) {
        note("next: \(command)")
      }
    }
    note("serving \(names.isEmpty ? "no volume yet" : names)")
    notify("READY=1")
  }

  private func notify(_ text: String) {
    if let path = unsafe getenv("NOTIFY_SOCKET") { _ = unsafe dmthin_notify(path, text) }
  }

  // MARK: - End

  /// Checks once a second whether the server has been idle long enough to end.
  private func endIfIdle() {
    guard let limit = options.untilIdleSeconds, stopRequests == 0 else { return }
    let isUsed =
      !mapper.all.isEmpty || server.connectionCount > 0 || control?.connectionCount ?? 0 > 0
    idleSeconds = isUsed ? 0 : idleSeconds + 1
    if idleSeconds > limit { return stop() }
    loop.set(idleTimer, after: Self.idleTick)
  }

  /// Ends `run`: stops accepting connections, and finishes pending requests, for some seconds if
  /// necessary. A second call ends it without waiting for clients.
  public func stop() {
    stopRequests += 1
    guard stopRequests == 1 else {
      server.hurry()
      return failWaiting()
    }
    notify("STOPPING=1")
    loop.set(patience, after: 5_000_000_000)
    server.stop { [unowned self] in
      loop.cancel(patience)
      loop.stop()
    }
  }

  /// Fails I/O that would wait for ever, because no command can resume a device or add space any
  /// more.
  private func failWaiting() {
    mapper.failWaiting()
    // What follows may wait again.
    loop.set(patience, after: 100_000_000)
  }

  /// Commits and closes everything. Returns the error, if one occurred.
  private func giveBack() -> ToolError? {
    control?.close()
    metrics?.close()
    signals?.close()
    signals = nil
    var failed: [String] = []
    var isCommitting = true
    loop.begin { [self] in
      mapper.resumeBelow()
      failed = failedPools(commits: true).filter { !troubled.contains($0) }
      isCommitting = false
    }
    loop.run(until: { !isCommitting })
    var isRemoving = false
    loop.run(within: 10_000_000_000) {
      if !isRemoving, !mapper.all.isEmpty {
        isRemoving = true
        loop.begin { [self] in
          mapper.removeAll()
          isRemoving = false
        }
      }
      return !isRemoving && mapper.all.isEmpty && workers.inFlight == 0 && queue.inFlight == 0
    }
    // What a pool writes in the end is not left half done, however long a disk takes.
    loop.run(until: { !isRemoving })
    guard mapper.all.isEmpty else {
      let names = mapper.all.map(\.name).joined(separator: " ")
      return ToolError(.inUse, "still in use at the end: \(names)")
    }
    guard workers.inFlight == 0, queue.inFlight == 0 else {
      return ToolError(.unexpected, "a disk has not answered for ten seconds")
    }
    judge.close()
    workers.close()
    queue.close()
    guard let name = failed.first else { return nil }
    return ToolError(
      .damaged, "the pool '\(name)' has failed: check its metadata before using it again")
  }

  /// Pools that have failed or need a check.
  /// - Parameter commits: whether to commit changes first.
  private func failedPools(commits: Bool = false) -> [String] {
    mapper.all.filter { device in
      let status = mapper.status(.number(device.number), commits ? [] : .noFlush)
      return (status?.lines ?? []).contains { line in
        guard line.type == "thin-pool" else { return false }
        switch ThinPoolStatus(line.parameters) {
        case .working(let details): return details.needsCheck
        default: return true
        }
      }
    }.map(\.name)
  }
}
