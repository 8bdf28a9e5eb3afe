import CDMThin
import Glibc

// Has the kernel carry out traces of pool operations, as Tests/Simulation/Simulation/TraceReplayer.swift
// lists them.
//
// When the kernel commits. A write or discard is carried out by the pool's worker, which commits of its own
// accord if something has changed and its last commit was more than a second ago; commits of messages do not
// count. That would come in the middle of things. So a change that comes more than half a second after the
// worker's last commit is followed by a flush at once: whether the kernel commits by itself or for the flush,
// it is one commit right after the change, and a `commit` in NAME.done. After that there is a second for what
// follows.
//
// None of this depends on how busy the machine is. The worker carries out one change after the other, so a
// change that has ended within the second shows that there was no commit after the one before it: the kernel
// can only have committed right after the last change, where a flush makes the same commit. What ends later
// is looked at. If the superblock is still the old one, a flush follows at once. If not, the commit may have
// come before the change or after it, and the trace is started again. Every commit of a change shows in the
// superblock, because every change moves the roots of the space maps.
//
// The devices: metadata on a loop device over a file in memory, which can grow and whose blocks can be read
// past the device. Data on dm-zero, which keeps nothing; if the trace discards with passdown (`pd`), on zram,
// which knows discards and has them done when it is asked: on other devices they complete in an order that
// is not always the same, with which the left-over bytes of metadata blocks vary.

/// The kernel may have committed where it should not have: to be tried again.
private struct IsLate: Error {}

/// A pool of the kernel that a trace is played on.
private final class KernelPool {
  /// Bytes of a data block.
  static let blockBytes: UInt64 = 128 * 512
  /// Virtual blocks of a thin device.
  static let thinBlocks: UInt64 = (1 << 28) + (1 << 16)
  /// Seconds after a worker's commit in which an operation may begin, and in which it has to end to be sure
  /// that the worker has not committed again. The kernel's figure is 1; its clock has ticks.
  static let beginSeconds = 0.5
  static let endSeconds = 0.75
  /// Long before anything.
  static let never = -1e9

  let kernel: KernelCalls
  /// The file or device with the metadata, and the numbers of both devices.
  let file: RigFile
  let meta: String
  let data: String
  let passesDown: Bool
  /// Whether changes are committed before each operation that is no change: then that can take its time.
  let commitsFirst: Bool
  /// Makes the metadata device larger, to so many blocks.
  let enlarge: (UInt64) throws -> Void
  /// Copies the metadata under a label.
  let dump: (String) throws -> Void
  /// What was done.
  private(set) var done: [String] = []
  private var pool: String?
  private var thins: [UInt64: RigFile] = [:]
  /// Devices with changes that no commit has yet.
  private var touched: Set<UInt64> = []
  /// When the worker committed, or a moment before that, and when the last change began.
  private var lastCommit = never
  private var lastChange = never
  private var superblock: [UInt8] = []
  private let page = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)

  init(
    _ kernel: KernelCalls, file: RigFile, meta: String, data: String, passesDown: Bool,
    commitsFirst: Bool = false,
    enlarge: @escaping (UInt64) throws -> Void = { _ in },
    dump: @escaping (String) throws -> Void = { _ in }
  ) {
    self.kernel = kernel
    self.file = file
    self.meta = meta
    self.data = data
    self.passesDown = passesDown
    self.commitsFirst = commitsFirst
    self.enlarge = enlarge
    self.dump = dump
    page.initializeMemory(as: UInt8.self, repeating: 0)
  }

  deinit { page.deallocate() }

  private func readSuperblock() throws -> [UInt8] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 4096)
    defer { buffer.deallocate() }
    try file.read(into: buffer, at: 0)
    return Array(buffer)
  }

  private var isTouchedOpen: Bool { touched.allSatisfy { thins[$0] != nil } }

  /// Whether it is too late now to be sure that the worker has not committed by itself.
  private func isAfter(_ seconds: Double) -> Bool { now() > lastCommit + seconds }

  /// Commits what has changed. The worker may have done so itself, after the last change.
  private func commit() throws {
    guard !touched.isEmpty else { return }
    let start = now()
    let isByWorker = isTouchedOpen
    let isDone = try readSuperblock() != superblock
    if isByWorker {
      for id in touched.sorted() { try thins[id]?.sync() }
    } else {
      // Of what was written before a device was closed, a flush of another one knows nothing.
      try kernel.suspend("pool")
      try kernel.resume("pool")
    }
    touched = []
    superblock = try readSuperblock()
    lastCommit = !isByWorker ? Self.never : isDone ? lastChange : start
  }

  private func commitNow() throws {
    guard !touched.isEmpty else { return }
    try commit()
    done.append("commit")
  }

  /// A write or discard, with what has to be done about commits.
  private func change(_ line: String, _ id: UInt64, _ body: (RigFile) throws -> Void) throws {
    if isAfter(Self.beginSeconds) { try commitNow() }
    // It consists of several steps of the worker, which can commit between them.
    let isInSteps = line.hasPrefix("pd")
    if isInSteps, isAfter(Self.beginSeconds) {
      if lastCommit < 0 { throw RigError("'\(line)' has to follow a write and its commit") }
      throw IsLate()
    }
    guard let thin = thins[id] else { throw RigError("device \(id) is not open") }
    let hadChanges = !touched.isEmpty
    lastChange = now()
    try body(thin)
    touched.insert(id)
    done.append(line)
    guard isAfter(Self.endSeconds) else { return }
    if isInSteps { throw IsLate() }
    if hadChanges, try readSuperblock() != superblock { throw IsLate() }
    try commitNow()
  }

  /// Something that is no write or discard, and that leaves nothing to commit.
  private func settle(_ body: () throws -> Void) throws {
    if commitsFirst || isAfter(Self.beginSeconds) { try commitNow() }
    let hadChanges = !touched.isEmpty
    try body()
    if hadChanges, isAfter(Self.endSeconds) { throw IsLate() }
    touched = []
    superblock = try readSuperblock()
  }

  private func message(_ text: String) throws {
    try settle { try kernel.message("pool", text) }
  }

  private func tableParameters() -> String {
    "\(meta) \(data) 128 0 "
      + (passesDown ? "2 skip_block_zeroing" : "3 skip_block_zeroing no_discard_passdown")
      + " error_if_no_space"
  }

  private func sectors(_ blocks: UInt64) -> UInt64 { blocks * Self.blockBytes / 512 }

  /// Does what a line of a trace says.
  func run(_ line: String) throws {
    let words = line.split(separator: " ").map(String.init)
    guard let verb = words.first else { return }
    let n = words.dropFirst().map { UInt64($0) ?? 0 }
    func need(_ count: Int) throws {
      if n.count < count { throw RigError("'\(line)' is cut short") }
    }
    switch verb {
    case "w1":
      try need(2)
      return try change(line, n[0]) {
        try $0.write(UnsafeRawBufferPointer(page), at: Int(n[1] * Self.blockBytes))
      }
    case "rm", "pd":
      try need(3)
      return try change(line, n[0]) {
        try $0.discard(n[1] * Self.blockBytes, n[2] * Self.blockBytes)
      }
    case "commit": try commit()
    case "create":
      try need(1)
      try message("create_thin \(n[0])")
    case "snap":
      try need(2)
      try message("create_snap \(n[0]) \(n[1])")
    case "delete":
      try need(1)
      try message("delete \(n[0])")
    case "trans":
      try need(2)
      let current = try readSuperblock().withUnsafeBytes {
        $0.loadUnaligned(fromByteOffset: 48, as: UInt64.self)
      }
      try message("set_transaction_id \(current) \(n[1])")
    case "reserve": try message("reserve_metadata_snap")
    case "release": try message("release_metadata_snap")
    case "dump":
      try need(1)
      guard touched.isEmpty else { throw RigError("dump with uncommitted changes") }
      try dump(words[1])
    default:
      try need(verb == "unload" ? 0 : 1)
      try runTable(line, verb, n)
    }
    done.append(line)
  }

  /// What makes devices, changes their tables, and takes them away.
  private func runTable(_ line: String, _ verb: String, _ n: [UInt64]) throws {
    switch verb {
    case "open":
      guard let pool else { throw RigError("'\(line)' without a pool") }
      let number = try kernel.create(
        "thin\(n[0])", sectors: sectors(Self.thinBlocks), "thin", "\(pool) \(n[0])")
      let minor = number.split(separator: ":")[1]
      thins[n[0]] = try RigFile("/dev/dm-\(minor)", O_RDWR | dmthin_o_direct)
    case "close":
      guard thins.removeValue(forKey: n[0]) != nil else {
        throw RigError("device \(n[0]) is not open")
      }
      try kernel.remove("thin\(n[0])")
    case "load":
      pool = try kernel.create("pool", sectors: sectors(n[0]), "thin-pool", tableParameters())
      superblock = try readSuperblock()
      touched = []
      lastCommit = Self.never
    case "grow", "growboth":
      try settle {
        if verb == "growboth" { try enlarge(n[0]) }
        try kernel.load(
          "pool", sectors: sectors(n[n.count - 1]), "thin-pool", tableParameters())
        try kernel.suspend("pool")
        try kernel.resume("pool")
      }
    case "unload":
      try settle { try kernel.remove("pool") }
      pool = nil
    default: throw RigError("'\(line)' is no operation")
    }
  }

  /// Notes a line that asks for nothing.
  func note(_ line: String) { done.append(line) }

  /// Takes everything away, whatever state it is in.
  func remove() throws {
    let ids = thins.keys.sorted()
    thins = [:]
    for id in ids { try kernel.remove("thin\(id)") }
    if pool != nil { try kernel.remove("pool") }
  }
}

private let loopPath = "/dev/loop0"
private let metadataPath = "/tmp/play.meta"

/// Plays a trace on metadata in memory; returns what the kernel did.
private func play(
  _ lines: [String], _ kernel: KernelCalls, dump: @escaping (RigFile, String) throws -> Void
) throws -> [String] {
  let passesDown = lines.contains { $0.hasPrefix("pd ") }
  let words = lines.map { $0.split(separator: " ") }
  func number(_ word: Substring) throws -> UInt64 {
    guard let number = UInt64(word) else { throw RigError("'\(word)' is no number") }
    return number
  }
  guard let meta = words.first(where: { $0.first == "meta" && $0.count > 1 }) else {
    throw RigError("the trace does not say how large the metadata is")
  }
  let metaBlocks = try number(meta[1])
  var most: UInt64 = 0
  for line in words where line.count > 1 && ["load", "grow", "growboth"].contains(line[0]) {
    most = max(most, try number(line[line.count - 1]))
  }
  unlink(metadataPath)
  let file = try RigFile(metadataPath, O_RDWR | O_CREAT)
  try file.truncate(Int(metaBlocks) * 4096)
  let loop = try RigFile(loopPath, O_RDWR)
  guard ioctl(loop.descriptor, 0x4C00, file.descriptor) == 0 else {
    throw RigError.system("\(loopPath): LOOP_SET_FD")
  }
  let data: String
  if passesDown {
    try writeText("/sys/block/zram0/reset", "1")
    try writeText("/sys/block/zram0/disksize", "\(most * KernelPool.blockBytes)")
    data = try readLines("/sys/block/zram0/dev").first ?? ""
  } else {
    data = try kernel.create("zero", sectors: 1 << 40, "zero", "")
  }
  let pool = KernelPool(
    kernel, file: file, meta: "7:0", data: data, passesDown: passesDown,
    enlarge: { blocks in
      try file.truncate(Int(blocks) * 4096)
      guard ioctl(loop.descriptor, 0x4C07, CInt(0)) == 0 else {
        throw RigError.system("\(loopPath): LOOP_SET_CAPACITY")
      }
    }, dump: { try dump(file, $0) })
  let result = Result {
    for line in lines {
      if line.hasPrefix("meta") { pool.note(line) } else { try pool.run(line) }
    }
  }
  try pool.remove()
  if !passesDown { try kernel.remove("zero") }
  guard ioctl(loop.descriptor, 0x4C01, CInt(0)) == 0 else {
    throw RigError.system("\(loopPath): LOOP_CLR_FD")
  }
  try result.get()
  return pool.done
}

/// Plays every NAME.ops of a folder in turn, on metadata devices in memory, and leaves in it for each
///
///     NAME.done     what the kernel did: the trace with more commits in it
///     NAME.LABEL    the whole metadata device at `dump LABEL`
///     NAME.status   "ok", or what went wrong
///
/// - Throws: only if it cannot go on.
func playTraces(in folder: String) throws {
  guard let entries = opendir(folder) else { throw RigError.system(folder) }
  var names: [String] = []
  while let entry = readdir(entries) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name.hasSuffix(".ops") { names.append(String(name.dropLast(4))) }
  }
  closedir(entries)
  guard !names.isEmpty else { throw RigError("no traces in \(folder)") }
  let kernel = KernelCalls()
  for name in names.sorted() {
    let lines = try readLines("\(folder)/\(name).ops")
    var status = "late"
    for attempt in 1...25 {
      let start = now()
      do {
        let done = try play(lines, kernel) { file, label in
          try file.copy(to: "\(folder)/\(name).\(label)")
        }
        try writeLines("\(folder)/\(name).done", done)
        let tries = attempt == 1 ? "try" : "tries"
        let milliseconds = Int((now() - start) * 1000)
        status = "ok \(done.count) operations, \(milliseconds) ms, \(attempt) \(tries)"
        break
      } catch is IsLate {
      } catch {
        status = "\(error)"
        break
      }
    }
    try writeLines("\(folder)/\(name).status", [status])
  }
}

/// Plays one trace without meta, growboth and dump on a device, and prints what the kernel did.
func playTurn(on path: String, trace: String) throws {
  let device = try RigFile(path, O_RDONLY | dmthin_o_direct)
  var about = stat()
  guard fstat(device.descriptor, &about) == 0 else { throw RigError.system(path) }
  let kernel = KernelCalls()
  let data = try kernel.create("zero", sectors: 1 << 40, "zero", "")
  let pool = KernelPool(
    kernel, file: device, meta: KernelCalls.number(UInt64(about.st_rdev)), data: data,
    passesDown: false, commitsFirst: true)
  let result = Result {
    for line in try readLines(trace) where !line.hasPrefix("meta") { try pool.run(line) }
  }
  try pool.remove()
  try kernel.remove("zero")
  do { try result.get() } catch is IsLate { throw RigError("late") }
  for line in pool.done { put("\(line)\n".utf8) }
}
