import BlockServer
import DataPath
import EventLoop
import Glibc
import ServerSimulation
import Simulation

/// Has clients that make little sense talk to an NBD server over memory, beside one that behaves.
enum NbdTrials: Trials {
  static let name = "nbd"
  static let usage = "[--count N] [--seed N]"
  static let summary = """
    Sends N messages (10000) of clients that make little sense to an NBD server over memory,
    beside a client that behaves and has to be served.
    """

  static let exportBytes = 4 << 20
  /// Each client writes to its own half; the misbehaving one only to the first.
  static let half = UInt64(exportBytes / 2)

  static func run(_ words: [String]) throws -> Bool {
    let arguments = Self.arguments(words, count: 10_000)
    let (count, first) = (Int(clamping: arguments.count), arguments.seed)
    print("seed \(first), \(count) messages")
    Watch.begin()
    try run(count, first)
    return true
  }

  private static func run(_ count: Int, _ first: UInt64) throws {
    let loop = try EventLoop()
    let volume = MemoryDestination(loop, byteCount: exportBytes, seed: first)
    let exports = ExportList()
    exports.add(Export(name: "volume", destination: Window(volume, 0, half)))
    exports.add(Export(name: "good", destination: Window(volume, half, half)))
    var limits = ServerLimits()
    limits.bytes = 64 << 20
    limits.stallNanoseconds = 100_000_000
    let server = BlockServer(loop, exports: exports, limits: limits)
    let good = NBDClient(server, loop)
    guard good.connect("good") else { fail("the good client cannot connect") }
    var model = [UInt8](repeating: 0, count: Int(half))
    var messages = 0
    var sessions: UInt64 = 0
    while messages < count {
      Watch.trial(first &+ sessions, seconds: 60)
      let session = HostileSession(seed: Watch.seed, exportBytes: half, export: "volume")
      hold(session, server, loop)
      check(good, &model, Watch.seed)
      messages += session.messages
      sessions += 1
    }
    for _ in 0..<1000 where server.connectionCount > 1 { loop.pass() }
    guard server.connectionCount == 1, server.bytesInUse == 0 else {
      fail("\(server.connectionCount) connections, \(server.bytesInUse) bytes are left")
    }
    var usage = rusage()
    getrusage(0, &usage)  // of this process
    print(
      "\(messages) messages in \(sessions) sessions; \(server.counters.errors) errors,",
      "\(server.counters.dropped) connections dropped; \(usage.ru_maxrss / 1024) MiB at most")
    guard usage.ru_maxrss < 200 << 10 else { fail("more memory than the limits allow") }
  }

  /// Plays a session until the server closes it.
  private static func hold(_ session: HostileSession, _ server: BlockServer, _ loop: EventLoop) {
    var random = SplitMix64(seed: Watch.seed ^ 0xfeed)
    let bad = NBDClient(server, loop)
    // Some clients do not read.
    let listens = random.next() % 4 != 0
    for piece in session.pieces {
      if listens { bad.drain() }
      guard bad.send(piece, passes: 20) else { break }
      if random.next() % 3 == 0 { loop.pass() }
    }
    if listens { bad.drain() }
  }

  /// Writes and reads in a range that no other client uses.
  private static func check(_ good: NBDClient, _ model: inout [UInt8], _ seed: UInt64) {
    var random = SplitMix64(seed: seed ^ 0x600d)
    let sectors = 1 + Int(random.next() % 64)
    let offset = Int(random.next() % (half / 512 - 64)) * 512
    let data = [UInt8](repeating: UInt8(truncatingIfNeeded: seed), count: sectors * 512)
    guard good.write(UInt64(offset), data) == 0 else { fail("a write failed") }
    model.replaceSubrange(offset..<offset + data.count, with: data)
    let start = Int(random.next() % (half / 512 - 128)) * 512
    guard good.read(UInt64(start), 65_536) == Array(model[start..<start + 65_536]) else {
      fail("wrong data")
    }
  }

  private static func fail(_ message: String) -> Never {
    print("seed \(Watch.seed): \(message)")
    exit(1)
  }
}

/// A part of a destination.
private final class Window: BlockDestination {
  let below: BlockDestination
  let start: UInt64
  let count: UInt64

  init(_ below: BlockDestination, _ start: UInt64, _ count: UInt64) {
    self.below = below
    self.start = start
    self.count = count
    super.init(below.loop)
  }

  override var byteCount: UInt64 { count }
  override var takesDiscards: Bool { true }

  override func submit(_ request: RequestPointer) {
    precondition(request.pointee.end <= count, "within the export only")
    request.pointee.offset += start
    below.submit(request)
  }
}
