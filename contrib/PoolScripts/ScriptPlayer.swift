import CDMThin
import DeviceMapper
import Glibc

/// Plays one script in a world, and collects the results.
///
/// When a pool commits by itself: the kernel's worker commits when something has changed and its
/// last own commit (not one of a message or query) was more than a second ago; the user-space pool
/// commits a second after the first change. Freed blocks can be reused only after a commit, so
/// scripts must have their commits in fixed places. With `addsCommits`, a change that comes long
/// after the worker's last commit is preceded by a commit, or made block by block, until a flush
/// has made the worker commit. The added lines are in `played`, which the other world then plays
/// unchanged. If a commit may still have come by itself, the script ends with `PlayerError.late`.
final class ScriptPlayer {
  let world: any PoolWorld
  private let addsCommits: Bool
  /// The lines as they were played.
  private(set) var played: [String] = []
  /// Every line with its result.
  private(set) var results: [String] = []

  /// Called with every line before it is played.
  var willPlay: (String) -> Void = { _ in }
  var blockSectors = 128
  private var metadataBytes = 0
  /// Whether the pool's live and inactive tables select errors if there is no space.
  var failsWhenFull = true
  var nextFailsWhenFull = true
  var passesDown = true
  var nextPassesDown = true
  private var dataSectors = 0
  var pendingWrites = 0
  /// The name in the pool's table of the device put under the data, if there is one.
  var poolDataName: String?
  var deviceSectors = 0
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 8 << 20, alignment: 4096)
  /// The buffers of started writes.
  private var keptBuffers: [UnsafeMutableRawBufferPointer] = []

  // Time.
  private static let safe: UInt64 = 400_000_000
  private static let late: UInt64 = 950_000_000
  private var workerCommit: UInt64 = 0
  private var isDirty = false
  private var dirtySince: UInt64 = 0

  init(_ world: any PoolWorld, addsCommits: Bool) {
    self.world = world
    self.addsCommits = addsCommits
  }

  deinit {
    buffer.deallocate()
    for kept in keptBuffers { kept.deallocate() }
  }

  var dm: any DeviceMapperBackend { world.backend }

  // MARK: - The whole

  /// Plays every line, and removes everything.
  func play(_ lines: [String]) throws(PlayerError) {
    defer { world.close() }
    do throws(PlayerError) {
      for line in lines where !line.isEmpty && line.first != "#" { try run(ScriptLine(line)) }
    } catch {
      cleanUp()
      throw error
    }
    cleanUp()
    let state = StateReport(metadataPath: world.metadataPath, dataPath: world.dataPath)
    results += ["at the end:"] + state.lines() + state.dataDigests(blockBytes: blockSectors * 512)
  }

  private func cleanUp() {
    if pendingWrites > 0 {
      failsWhenFull = false
      _ = attempt { () throws(DeviceMapperError) in
        try load("pool", [poolLine(["\(dataSectors)", "0", "error_if_no_space"])])
        try dm.resume(.name("pool"), [], node: NodeOptions())
      }
      _ = world.finish()
    }
    for _ in 0..<2 {
      _ = attempt { () throws(DeviceMapperError) in
        // In this order, because a suspended pool keeps its devices in use.
        if isSuspended("pool") { try? dm.resume(.name("pool"), [], node: NodeOptions()) }
        for device in try dm.list() where device.name != "pool" {
          try? dm.remove(.name(device.name), deferred: false, retry: false)
        }
        try dm.remove(.name("pool"), deferred: false, retry: false)
      }
    }
  }

  func tell(_ text: String) { results.append("    \(text)") }

  /// "ok", or the name of the error.
  func attempt(_ body: () throws(DeviceMapperError) -> Void) -> String {
    do throws(DeviceMapperError) {
      try body()
      return "ok"
    } catch {
      return errorName(error.code)
    }
  }

  // MARK: - Commits

  private func superblock() -> [UInt8] {
    let fd = open(world.metadataPath, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return [] }
    defer { close(fd) }
    return [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
      count = max(0, pread(fd, buffer.baseAddress, 4096, 0))
    }
  }

  private var now: UInt64 { dmthin_monotonic_nanoseconds() }

  private func checkTime() throws(PlayerError) {
    let since = addsCommits ? workerCommit : dirtySince
    if isDirty && now > since + Self.late { throw .late }
  }

  private var isStale: Bool { addsCommits && now > workerCommit + Self.safe }

  func wasCommitted() { isDirty = false }

  private func changed() {
    if !isDirty { dirtySince = now }
    isDirty = true
  }

  /// Commits, if the pool is about to commit by itself.
  private func commitInTime() throws(PlayerError) {
    guard isDirty, isStale, !isSuspended("pool") else { return }
    if failsWhenFull {
      for device in names()
      where device != "pool" && device != Self.below && !isSuspended(device) {
        try run(ScriptLine("flush \(device)"), isAdded: true)
        if !isStale { break }
      }
    }
    try run(ScriptLine("status pool"), isAdded: true)
  }

  /// Makes as much of a change, block by block, as is needed to make the worker commit.
  /// - Returns: the rest of the change.
  private func beginInTime(_ line: ScriptLine) throws(PlayerError) -> ScriptLine? {
    guard isStale, line.isChange, canTransfer(line.word(0)), failsWhenFull else { return line }
    var (at, end) = (line.number(1), line.number(1) + line.number(2))
    while at < end && isStale {
      let stop = min(end, (at / blockSectors + 1) * blockSectors)
      let (start, before) = (now, superblock())
      var piece = line
      piece.set(1, at)
      piece.set(2, stop - at)
      // Whether the worker commits in the middle or at the flush, everything is committed in the
      // end.
      let isDone = try record(piece)
      try record(ScriptLine("flush \(line.word(0))"))
      let after = superblock()
      try record(ScriptLine("status pool"))
      if isDone && before != after { workerCommit = start }
      at = stop
    }
    guard at < end else { return nil }
    var rest = line
    rest.set(1, at)
    rest.set(2, end - at)
    return rest
  }

  // MARK: - Lines

  /// Whether the result was "ok".
  @discardableResult
  private func run(_ line: ScriptLine, isAdded: Bool = false) throws(PlayerError) -> Bool {
    var line = line
    if addsCommits && !isAdded {
      try commitInTime()
      guard let rest = try beginInTime(line) else { return true }
      line = rest
    }
    try checkTime()
    let isDone = try record(line)
    // Waiting takes time, so commit now, whether the worker has done it or not. In user space a
    // passed-down discard may need a commit on its way, which the kernel does not make.
    let needsCommit =
      pendingWrites > 0 && ["start", "resume", "pause"].contains(line.verb)
      || line.verb == "discard" && isDone && passesDown
    if addsCommits && needsCommit { try record(ScriptLine("status pool")) }
    try checkTime()
    return isDone
  }

  @discardableResult
  private func record(_ line: ScriptLine) throws(PlayerError) -> Bool {
    willPlay(line.text)
    played.append(line.text)
    results.append(line.text)
    let first = results.count
    try carryOut(line)
    return results.count > first && results[first] == "    ok"
  }

  private func carryOut(_ line: ScriptLine) throws(PlayerError) {
    let (name, start) = (line.word(0), now)
    switch line.verb {
    case "devices": try makeDevices(line)
    case "origin": try world.makeOrigin(name, byteCount: line.number(1) * 512)
    case "below": tell(attempt { () throws(DeviceMapperError) in try putBelow(line) })
    case "create":
      failsWhenFull = line.words.contains("error_if_no_space")
      passesDown = !line.words.contains("no_discard_passdown")
      dataSectors = line.number(0)
      workerCommit = start
      tell(attempt { () throws(DeviceMapperError) in try create("pool", poolLine(line.words)) })
      wasCommitted()
    case "table":
      nextFailsWhenFull = line.words.contains("error_if_no_space")
      nextPassesDown = !line.words.contains("no_discard_passdown")
      tell(attempt { () throws(DeviceMapperError) in try load("pool", [poolLine(line.words)]) })
    case "message":
      let text = line.words.joined(separator: " ")
      let result = attempt { () throws(DeviceMapperError) in
        _ = try dm.message(.name("pool"), sector: 0, text)
      }
      tell(result)
      if result == "ok" { wasCommitted() }
    case "activate", "resize", "deactivate", "suspend", "resume": control(line)
    case "remove":
      tell(
        attempt { () throws(DeviceMapperError) in
          try dm.remove(.name(name), deferred: false, retry: false)
        })
      wasCommitted()
    case "write", "writefua", "read", "discard", "flush": transfer(line)
    case "start": begin(line)
    case "finish": finish()
    case "pause":
      world.pause()
      wasCommitted()
    case "growmeta":
      metadataBytes = max(metadataBytes, line.number(0) * 4096)
      try world.growMetadata(toBytes: metadataBytes)
    case "status", "gettable", "info": query(line)
    case "dump": dump()
    default: throw .fault("'\(line.text)' is not an operation")
    }
  }

  private func makeDevices(_ line: ScriptLine) throws(PlayerError) {
    metadataBytes = line.number(0) * 4096
    blockSectors = max(128, line.number(2))
    deviceSectors = line.number(1)
    try world.makeDevices(metadataBytes: metadataBytes, dataBytes: line.number(1) * 512)
  }

  private func dump() {
    if !isSuspended("pool") { _ = try? dm.status(.name("pool"), []) }
    wasCommitted()
    let state = StateReport(metadataPath: world.metadataPath, dataPath: world.dataPath)
    for line in state.lines() { tell(line) }
  }

  // MARK: - I/O

  private func canTransfer(_ name: String) -> Bool { !isSuspended("pool") && !isSuspended(name) }

  private func request(_ line: ScriptLine, _ buffer: UnsafeMutableRawBufferPointer)
    -> ScriptRequest?
  {
    let name = line.word(0)
    let kind: ScriptRequest.Kind =
      switch line.verb {
      case "write", "start": .write
      case "writefua": .durableWrite
      case "discard": .discard
      case "flush": .flush
      default: .read
      }
    guard canTransfer(name) else { return nil }
    if kind == .flush { return ScriptRequest(kind: kind, device: name, buffer: buffer) }
    guard let table = try? dm.table(.name(name), []), let last = table.lines.last else {
      return nil
    }
    let sectors = Int(last.start + last.length)
    let (first, count) = (line.number(1), line.number(2))
    guard count > 0, first + count <= sectors else { return nil }
    guard kind == .discard || count * 512 <= buffer.count else { return nil }
    if kind == .write || kind == .durableWrite {
      fillPattern(
        UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count * 512]),
        tag: UInt64(line.number(3)), sector: first)
    }
    return ScriptRequest(
      kind: kind, device: name, offset: first * 512, buffer: buffer, byteCount: count * 512)
  }

  private func transfer(_ line: ScriptLine) {
    guard let request = request(line, buffer) else { return tell("skipped") }
    if request.kind != .read && request.kind != .discard && !failsWhenFull {
      return tell("skipped")
    }
    if request.kind == .flush || request.kind == .durableWrite, isDegraded {
      return flushDegraded(request)
    }
    let (start, before) = (now, request.kind == .flush ? superblock() : [])
    let wasDirty = isDirty
    if line.isChange { changed() }
    let result = world.perform(request)
    // A device without discards has not changed anything, and a pool that waits for space could not
    // be made to commit.
    if result == EOPNOTSUPP { isDirty = wasDirty }
    tell(errorName(result))
    if request.kind == .read && result == 0 {
      var digest = ScriptDigest()
      digest.add(UnsafeRawBufferPointer(rebasing: buffer[0..<request.byteCount]))
      tell(digest.text)
    }
    if request.kind == .flush && superblock() != before {
      workerCommit = start
      wasCommitted()
    }
  }

  /// Whether the pool is in another mode than a sound pool with free space.
  private var isDegraded: Bool {
    let line = (try? dm.status(.name("pool"), .noFlush))?.lines.first
    guard let line, case .working(let details) = ThinPoolStatus(line.parameters) else {
      return false
    }
    return details.mode != .readWrite
  }

  /// The kernel treats a flush here as a write to the first block, user space as a flush. So its
  /// success, its commit, and the results after a flush differ on purpose. After a status both have
  /// committed.
  private func flushDegraded(_ request: ScriptRequest) {
    _ = world.perform(request)
    tell("not compared")
    _ = try? dm.status(.name("pool"), [])
    wasCommitted()
  }

  private func begin(_ line: ScriptLine) {
    let kept = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(512, line.number(2) * 512), alignment: 4096)
    keptBuffers.append(kept)
    guard let request = request(line, kept) else { return tell("skipped") }
    changed()
    world.start(request)
    pendingWrites += 1
    world.settle()
    tell("ok")
  }

  private func finish() {
    let results = world.finish()
    for result in results { tell(result.map(errorName) ?? "waits") }
    pendingWrites = results.count { $0 == nil }
  }

  // MARK: - Queries

  private func query(_ line: ScriptLine) {
    let device = DeviceReference.name(line.word(0))
    let options: QueryOptions = line.words.last == "noflush" ? .noFlush : []
    do throws(DeviceMapperError) {
      switch line.verb {
      case "info":
        guard let info = try dm.info(device, []) else { return tell("none") }
        tell(
          "event \(info.eventNumber) open \(info.openCount) targets \(info.targetCount)"
            + (info.isSuspended ? " suspended" : "") + (info.hasLiveTable ? " live" : "")
            + (info.hasInactiveTable ? " inactive" : "") + (info.isReadOnly ? " read-only" : ""))
      case "gettable":
        guard let table = try dm.table(device, []) else { return tell("none") }
        for line in table.lines { tell(withoutNumbers("\(line)")) }
      default:
        guard let table = try dm.status(device, options) else { return tell("none") }
        // A suspended pool does not commit for a status.
        for line in table.lines {
          tell(statusText(line, isCommitted: options.isEmpty && !table.info.isSuspended))
        }
        if line.word(0) == "pool" && options.isEmpty && !table.info.isSuspended { wasCommitted() }
        // After a commit there may be space for waiting requests.
        if pendingWrites > 0 { world.settle() }
      }
    } catch {
      tell(errorName(error.code))
    }
  }

  /// A status without values that depend on chance: the block of a metadata snapshot, which depends
  /// on the number of commits, and the number of metadata blocks used by a transaction so far.
  private func statusText(_ line: TableLine, isCommitted: Bool) -> String {
    var words = line.parameters.split(separator: " ").map(String.init)
    guard line.type == "thin-pool", words.count > 3 else { return "\(line)" }
    if UInt64(words[3]) != nil { words[3] = "HELD" }
    if !isCommitted { words[1] = "USED" }
    return words.joined(separator: " ") + (line.parameters.last == " " ? " ." : ".")
  }

  /// Device numbers differ between worlds.
  private func withoutNumbers(_ text: String) -> String {
    text.split(separator: " ", omittingEmptySubsequences: false)
      .map { $0.contains(":") ? "NUMBER" : String($0) }.joined(separator: " ")
  }
}

/// One line of a script.
struct ScriptLine {
  let verb: String
  private(set) var words: [String]

  init(_ text: String) {
    let all = text.split(separator: " ").map(String.init)
    verb = all.first ?? ""
    words = Array(all.dropFirst())
  }

  var text: String { ([verb] + words).joined(separator: " ") }
  func word(_ i: Int) -> String { i < words.count ? words[i] : "" }
  /// A number up to 2^40; 0 where there is none.
  func number(_ i: Int) -> Int { min(1 << 40, max(0, Int(word(i)) ?? 0)) }
  mutating func set(_ i: Int, _ value: Int) { if i < words.count { words[i] = "\(value)" } }

  /// Whether it can make the pool's worker change metadata.
  var isChange: Bool { ["write", "writefua", "discard"].contains(verb) && words.count > 2 }
}

/// The name of an error number in the system's headers.
func errorName(_ code: Int32) -> String {
  switch code {
  case 0: "ok"
  case EBUSY: "EBUSY"
  case EINVAL: "EINVAL"
  case EEXIST: "EEXIST"
  case ENODATA: "ENODATA"
  case ENOSPC: "ENOSPC"
  case EIO: "EIO"
  case EOPNOTSUPP: "EOPNOTSUPP"
  case ENXIO: "ENXIO"
  case ENODEV: "ENODEV"
  case EPERM: "EPERM"
  case EACCES: "EACCES"
  default: "error \(code)"
  }
}
