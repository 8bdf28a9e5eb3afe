import CDMThin
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PoolManager
import ServerControl
import Simulation
import Targets
import TestSupport
import Testing

@testable import BlockServer
@testable import PoolServer

/// A control socket, with a loop that the test runs.
private final class Fixture {
  let folder: ScratchFolder
  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  let volumes: VolumeExports
  let door: ControlDoor
  let path: String
  private let queue: IOQueue
  private let workers: Workers

  init() throws {
    folder = try ScratchFolder()
    loop = try EventLoop()
    loop.holdTime()
    queue = try IOQueue(loop)
    workers = try Workers(loop)
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    volumes = VolumeExports(mapper, loop)
    path = folder.file("control")
    door = try ControlDoor(path: path, loop, mapper, volumes)
    mapper.eventHappened = { [unowned door] in door.happened(.event, $0) }
  }

  deinit {
    door.close()
    mapper.removeAll()
    workers.close()
    queue.close()
  }

  /// A client, which by default has sent its greeting.
  func client(greets: Bool = true) -> Client {
    let descriptor = dmthin_stream_socket(AF_UNIX)
    #expect(dmthin_connect_unix(descriptor, path) == 0)
    let client = Client(descriptor, loop)
    guard greets else { return client }
    client.send("hello", "version=2")
    #expect(client.answer() == ["hello", "version=2"])
    return client
  }
}

/// A scripted client.
private final class Client {
  private let descriptor: Int32
  private let loop: EventLoop
  private var received: [UInt8] = []

  init(_ descriptor: Int32, _ loop: EventLoop) {
    self.descriptor = descriptor
    self.loop = loop
  }

  deinit { close(descriptor) }

  func send(_ bytes: [UInt8]) {
    var rest = bytes[...]
    for _ in 0..<2000 where !rest.isEmpty {
      let n = rest.withUnsafeBytes {
        Glibc.send(
          descriptor, $0.baseAddress, $0.count, Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n > 0 { rest = rest.dropFirst(n) }
      // The server has closed the connection.
      if n < 0 && errno != EAGAIN { return }
      loop.pass()
    }
  }

  /// Sends a word and fields, in the form of a line.
  func send(_ fields: String...) { send(Array((fields.joined(separator: "\t") + "\n").utf8)) }

  /// Word and fields of the next line; nil if none has arrived.
  func answer() -> [String]? {
    for _ in 0..<50 {
      if let end = received.firstIndex(of: ControlMessage.lineEnd) {
        let line = Array(received[..<end])
        received.removeSubrange(...end)
        return String(decoding: line, as: UTF8.self).split(
          separator: "\t", omittingEmptySubsequences: false
        ).map { String($0) }
      }
      loop.pass()
      var chunk = [UInt8](repeating: 0, count: 65_536)
      let n = recv(descriptor, &chunk, chunk.count, 0)
      if n > 0 { received += chunk[..<n] }
    }
    return nil
  }

  /// The next line of a command that waits for a disk.
  func awaitedAnswer() -> [String]? {
    var line: [String]?
    loop.run(within: 60_000_000_000) {
      if line == nil { line = answer() }
      return line != nil
    }
    return line
  }

  /// Whether the server has closed the connection.
  /// - Parameter taking: whether to read the bytes that the server sent before.
  func isClosed(taking: Bool = true) -> Bool {
    for _ in 0..<50 {
      loop.pass()
      if !taking {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        if poll(&entry, 1, 0) == 1, entry.revents & Int16(POLLHUP) != 0 { return true }
        continue
      }
      var chunk = [UInt8](repeating: 0, count: 65_536)
      let n = recv(descriptor, &chunk, chunk.count, 0)
      if n == 0 || n < 0 && errno != EAGAIN { return true }
    }
    return false
  }
}

@Suite("Clients of the control socket")
struct ControlDoorTests {
  private let fixture: Fixture
  init() throws { fixture = try Fixture() }

  private func makeZero(_ name: String) {
    let client = fixture.client()
    client.send("create", "name=\(name)", "table=1", "line=0 64 zero ")
    #expect(client.answer() == ["ok"])
  }

  @Test("Commands are executed in the order of their arrival, however they are split")
  func pieces() {
    let client = fixture.client()
    let bytes = Array(
      """
      create\tname=z\tuuid=u\ttable=1\tline=0 64 zero \tid=7\tnew_in_version_9=x
      rename\tdevice=name:z\tname=y
      list\tid=18446744073709551615

      """.utf8)
    for byte in bytes { client.send([byte]) }
    #expect(client.answer() == ["ok", "id=7"])
    #expect(client.answer() == ["ok"])
    #expect(
      client.answer() == [
        "item", "id=18446744073709551615", "name=y", "number=254:0", "event_number=1", "uuid=u",
      ])
    #expect(client.answer() == ["ok", "id=18446744073709551615"])
    client.send(bytes)
    #expect(
      client.answer()?.prefix(4) == ["error", "operation=create", "device=z u", "code=16"])
    #expect(client.answer()?.prefix(4) == ["error", "operation=rename", "device=z ", "code=6"])
  }

  @Test("A malformed request is answered with an error and ends only its own connection")
  func malformed() {
    let other = fixture.client()
    for line in [
      "", "=", "Info", "info\t", "info\tname", "info\t=x", "info\tDevice=name:x", "create",
      "list\\",
      "info", "info\tdevice=x", "info\tdevice=number:1", "info\tdevice=name:x\tdevice=name:y",
      "info\tdevice=name:x\toptions=256", "message\tdevice=name:x\tsector=0",
      "reload\tdevice=name:x\tline=0 1 zero", "create\tname=a\ttable=1\tline=x 1 zero ",
      "create\tname=a\ttable=2", "wait\tdevice=name:x\tevent_number=-1", "wait\tdevice=name:x",
      "remove\tdevice=name:x\tdeferred=2", "path\tnumber=1", "list\tid=x",
    ] {
      let client = fixture.client()
      client.send(Array("\(line)\nversion\n".utf8))
      let answer = client.answer()
      #expect(answer?.prefix(2) == ["error", "code=22"], "\(line)")
      #expect(answer?.last?.hasPrefix("message=no request: ") == true, "\(line)")
      #expect(client.answer() == nil && client.isClosed(), "\(line)")
    }
    other.send("version")
    #expect(other.answer() == ["ok", "driver=4.47.0"])
    #expect(fixture.mapper.all.isEmpty)
  }

  @Test("An unknown command of a newer program is refused, and the connection stays")
  func unknownCommand() {
    let client = fixture.client()
    client.send("defragment", "id=3", "device=name:x")
    #expect(client.answer()?.contains("code=38") == true)
    client.send("version", "id=4")
    #expect(client.answer() == ["ok", "id=4", "driver=4.47.0"])
  }

  @Test("Without a common version no command is executed, and the user is told what to do")
  func versions() {
    // First lines of programs of version 1, which parse the text after the word error in this form.
    for line in ["version", "list", "info\tname:x\t0", "", "create\tz\t\t\t\t0\t0"] {
      let old = fixture.client(greets: false)
      old.send(Array("\(line)\n".utf8))
      let answer = old.answer()
      #expect(answer?.prefix(4) == ["error", "version", "", "93"], "\(line)")
      #expect(answer?.last?.contains("use the dmthin that the server was started with") == true)
      #expect(old.isClosed())
    }
    for fields in [["version=1"], ["version=3", "version=x"], []] {
      let stranger = fixture.client(greets: false)
      stranger.send(Array((["hello"] + fields).joined(separator: "\t").utf8) + [10])
      let answer = stranger.answer()
      #expect(answer?.prefix(2) == ["error", "code=93"])
      #expect(answer?.last?.contains("speaks version 2 of the control protocol") == true)
      #expect(stranger.isClosed())
    }
    // A program that speaks several versions, and sends unknown fields.
    let newer = fixture.client(greets: false)
    newer.send("hello", "version=3", "version=2", "compression=zstd")
    #expect(newer.answer() == ["hello", "version=2"])
    newer.send("version")
    #expect(newer.answer() == ["ok", "driver=4.47.0"])
    #expect(fixture.mapper.all.isEmpty)
  }

  @Test("A client that sends nothing, or half of the first line, is disconnected after a while")
  func silentStrangers() {
    let silent = fixture.client(greets: false)
    let half = fixture.client(greets: false)
    half.send(Array("hello\tver".utf8))
    let greeted = fixture.client()
    for _ in 0..<3 {
      fixture.loop.skip(15_500_000_000)
      fixture.loop.pass()
    }
    #expect(silent.isClosed() && half.isClosed())
    greeted.send("version")
    #expect(greeted.answer() == ["ok", "driver=4.47.0"])
  }

  @Test("An endless line is read only up to a limit")
  func endless() {
    let client = fixture.client()
    client.send([UInt8](repeating: 65, count: ControlMessage.requestBytesMax + 65_536))
    #expect(client.isClosed())
  }

  @Test("Mutated sessions harm neither the server nor other clients, wherever they stop")
  func mutations() {
    let sessions = [
      "hello\tversion=2\ncreate\tname=a\tuuid=u\ttable=1\tline=0 8 zero \nlist\tid=1\n"
        + "suspend\tdevice=name:a\toptions=4\nremove\tdevice=uuid:u\tdeferred=1\n",
      "hello\tversion=2\nsubscribe\nreload\tdevice=number:254:0\tline=0 8 linear /none 0\n"
        + "resume\tdevice=name:a\tid=2\nmessage\tdevice=name:a\tsector=0\ttext=x\\ty\n",
      "hello\tversion=2\nwait\tdevice=name:a\tevent_number=0\nremove_all\ntargets\nlisteners\n",
    ]
    var text = HostileText(sessions, seed: 3)
    for _ in 0..<1500 {
      var bytes = Array(text.any(sessions).utf8)
      for _ in 0..<Int.random(in: 0..<6, using: &text.random) { bytes = text.mutated(bytes) }
      // The session stops anywhere, and is sent at once or byte by byte.
      bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &text.random)))
      let client = fixture.client(greets: false)
      if Int.random(in: 0..<8, using: &text.random) == 0 {
        for byte in bytes { client.send([byte]) }
      } else {
        client.send(bytes)
      }
      if Bool.random(using: &text.random) { _ = client.answer() }
    }
    let client = fixture.client()
    client.send("version")
    #expect(client.answer() == ["ok", "driver=4.47.0"])
  }

  @Test("Subscribers receive events of devices on the same connection, and other clients do not")
  func events() {
    let subscriber = fixture.client()
    subscriber.send("subscribe", "id=1")
    #expect(subscriber.answer() == ["ok", "id=1"])
    let client = fixture.client()
    client.send("create", "name=z", "table=1", "line=0 64 zero ")
    #expect(client.answer() == ["ok"])
    #expect(
      subscriber.answer()
        == ["event", "what=created", "name=z", "number=254:0", "event_number=0"])
    client.send("suspend", "device=name:z")
    #expect(subscriber.answer()?.prefix(2) == ["event", "what=suspended"])
    client.send("reload", "device=name:z", "line=0 8 error ")
    #expect(subscriber.answer()?.prefix(2) == ["event", "what=reloaded"])
    client.send("clear", "device=name:z")
    #expect(subscriber.answer()?.prefix(2) == ["event", "what=cleared"])
    client.send("resume", "device=name:z")
    #expect(subscriber.answer()?.prefix(2) == ["event", "what=resumed"])
    client.send("rename", "device=name:z", "name=y")
    #expect(
      subscriber.answer()
        == ["event", "what=event", "name=y", "number=254:0", "event_number=1", "line=0 64 zero "])
    #expect(subscriber.answer()?.prefix(3) == ["event", "what=renamed", "name=y"])
    // The subscriber can still send commands.
    subscriber.send("remove", "device=name:y", "id=2")
    let lines = [subscriber.answer(), subscriber.answer()]
    #expect(lines.contains(["ok", "id=2"]))
    #expect(lines.contains { $0?.prefix(3) == ["event", "what=removed", "name=y"] })
    for _ in 0..<5 { #expect(client.answer()?.first == "ok") }
    #expect(client.answer() == nil && subscriber.answer() == nil)
  }

  @Test("A subscriber that does not read is told that events were lost, and does not delay others")
  func lostEvents() {
    makeZero("z")
    let deaf = fixture.client()
    deaf.send("subscribe")
    #expect(deaf.answer() == ["ok"])
    let client = fixture.client()
    for index in 0..<12_000 {
      client.send(
        "rename", "device=number:254:0", "name=\(String(repeating: "n", count: 100))\(index)")
      #expect(client.answer() == ["ok"])
    }
    var lost = 0
    var told = 0
    while let line = deaf.answer() {
      if line == ["event", "what=lost"] { lost += 1 } else { told += 1 }
    }
    #expect(lost > 0 && told > 100 && told < 24_000)
    client.send("rename", "device=number:254:0", "name=last")
    #expect(deaf.answer()?.contains("name=last") == true)
  }

  @Test("Only the client that waits for a command on a pool receives its progress")
  func progress() throws {
    let metadata = try fixture.folder.zeros("meta", size: 1 << 20)
    let data = try fixture.folder.zeros("data", size: 16 << 20)
    try PoolAtRest(metadata).format(
      PoolAtRest(metadata).open(), blockSectors: 128, dataBlocks: 256)
    var verdict: ((MetadataVerdict) -> Void)?
    fixture.mapper.judgeMetadata = { verdict = $1 }
    let (waiting, idle) = (fixture.client(), fixture.client())
    waiting.send(
      "create", "id=5", "name=p", "table=1", "line=0 32768 thin-pool \(metadata) \(data) 128 0")
    fixture.loop.run(within: 60_000_000_000) { verdict != nil }
    #expect(waiting.answer() == nil && verdict != nil)
    fixture.door.progress("other", "Checking", done: 1, total: 2)
    fixture.door.progress("p", "Checking", done: 7, total: 0)
    #expect(waiting.answer() == ["progress", "id=5", "device=p", "title=Checking", "done=7"])
    verdict?(.sound)
    #expect(waiting.awaitedAnswer() == ["ok", "id=5"])
    fixture.door.progress("p", "Checking", done: 8, total: 9)
    #expect(waiting.answer() == nil && idle.answer() == nil)
  }

  @Test("A waiting client is answered at an event, and leaves nothing behind when it disconnects")
  func waiting() {
    makeZero("z")
    let waiting = fixture.client()
    waiting.send("wait", "device=name:z", "event_number=0")
    #expect(waiting.answer() == nil)
    do {
      let gone = fixture.client()
      gone.send("wait", "device=name:z", "event_number=0")
      fixture.loop.pass()
    }
    for _ in 0..<10 { fixture.loop.pass() }
    #expect(fixture.mapper.waiterCount == 1)
    let client = fixture.client()
    client.send("rename", "device=name:z", "name=y")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "name=y"])
    // The event number differs now, so the answer comes at once.
    waiting.send("wait", "device=name:y", "event_number=0")
    #expect(waiting.answer()?.prefix(2) == ["ok", "name=y"])
    waiting.send("wait", "device=name:y", "event_number=1")
    #expect(waiting.answer() == nil)
    client.send("remove", "device=name:y")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "name=y"])
  }

  @Test("A command that arrives while another waits for an event is executed after it")
  func order() {
    makeZero("z")
    let waiting = fixture.client()
    waiting.send(
      Array("wait\tdevice=name:z\tevent_number=0\nrename\tdevice=name:z\tname=x\n".utf8))
    waiting.send("list")
    #expect(waiting.answer() == nil)
    #expect(fixture.mapper.waiterCount == 1)
    #expect(fixture.mapper.find(.name("z")) != nil)
    let client = fixture.client()
    client.send("rename", "device=name:z", "name=y")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "name=y"])
    #expect(waiting.answer()?.prefix(4) == ["error", "operation=rename", "device=z ", "code=6"])
    #expect(waiting.answer()?.prefix(2) == ["item", "name=y"])
    #expect(waiting.answer() == ["ok"])
  }

  @Test("A renamed volume is open until clients of both its names have gone")
  func renamed() throws {
    makeZero("z")
    let old = try #require(fixture.volumes.exports["z"])
    #expect(old.open())
    let client = fixture.client()
    client.send("rename", "device=name:z", "name=y")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    let new = try #require(fixture.volumes.exports["y"])
    #expect(new !== old && new.open())
    old.close()
    client.send("remove", "device=name:y")
    #expect(
      client.answer()?.prefix(4) == ["error", "operation=remove", "device=y (254:0)", "code=16"])
    new.close()
    client.send("remove", "device=name:y")
    #expect(client.answer() == ["ok"])
  }

  @Test("Exports follow the devices; one that is open cannot be removed")
  func exports() throws {
    makeZero("z")
    #expect(fixture.volumes.exports.exports.map(\.name) == ["z"])
    let opened = try fixture.mapper.open("z", readOnly: true)
    let client = fixture.client()
    client.send("remove", "device=name:z")
    #expect(
      client.answer()?.prefix(4) == ["error", "operation=remove", "device=z (254:0)", "code=16"])
    opened.close()
    client.send("create", "name=l", "table=1", "line=0 8 linear /dev/mapper/z 0")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    // A device that another one uses is not exported.
    #expect(fixture.volumes.exports.exports.map(\.name) == ["l"])
    client.send("remove", "device=name:l")
    #expect(client.answer() == ["ok"])
    client.send("rename", "device=name:z", "name=y")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    #expect(fixture.volumes.exports.exports.map(\.name) == ["y"])
    client.send("remove_all")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    #expect(fixture.volumes.exports.exports.isEmpty)
  }

  @Test("Idle connections are closed for a new one, the oldest first; waiting ones go last")
  func many() {
    makeZero("z")
    let waiting = fixture.client()
    waiting.send("wait", "device=name:z", "event_number=0")
    var clients = (0..<63).map { _ in fixture.client() }
    fixture.loop.pass()
    fixture.loop.skip(1_000_000)
    clients[0].send("version")
    #expect(clients[0].answer()?.first == "ok")
    let next = fixture.client()
    next.send("version")
    #expect(next.answer()?.first == "ok")
    #expect(clients[1].isClosed())
    #expect(!clients[0].isClosed() && !waiting.isClosed())
    clients.removeAll()
    clients = (0..<64).map { _ in fixture.client() }
    for client in clients { client.send("wait", "device=name:z", "event_number=0") }
    for client in clients { #expect(client.answer() == nil) }
    let last = fixture.client()
    last.send("version")
    #expect(last.answer()?.first == "ok")
  }

  @Test("Half a request, or an unread answer, ends the connection after a while")
  func stuck() {
    for index in 0..<600 { makeZero("\(String(repeating: "n", count: 100))\(index)") }
    let half = fixture.client()
    half.send(Array("versi".utf8))
    let deaf = fixture.client()
    for _ in 0..<40 { deaf.send("list") }
    let idle = fixture.client()
    for _ in 0..<3 {
      fixture.loop.skip(15_500_000_000)
      fixture.loop.pass()
    }
    #expect(half.isClosed())
    #expect(deaf.isClosed(taking: false))
    idle.send("version")
    #expect(idle.answer()?.first == "ok")
  }

  @Test(
    "A device suspended while its client is connected is resumed at the end; others are not")
  func abandoned() {
    makeZero("z")
    func isSuspended() -> Bool? { fixture.mapper.find(.name("z"))?.isSuspended }
    let held = "options=\(SuspendOptions.whileConnected.rawValue)"
    do {
      let client = fixture.client()
      client.send("suspend", "device=name:z", held)
      #expect(client.answer() == ["ok"])
      #expect(isSuspended() == true)
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == false)
    // Without the option, as dmsetup does it, the device stays suspended.
    do {
      let client = fixture.client()
      client.send("suspend", "device=name:z")
      #expect(client.answer() == ["ok"])
      // A device that is already suspended is not resumed by this client.
      client.send("suspend", "device=name:z", held)
      #expect(client.answer() == ["ok"])
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == true)
    do {
      let client = fixture.client()
      client.send("resume", "device=name:z")
      #expect(client.answer() == ["ok"])
      client.send("suspend", "device=name:z", held)
      #expect(client.answer() == ["ok"])
      // Another client suspends it for good.
      let other = fixture.client()
      other.send("suspend", "device=name:z")
      #expect(other.answer() == ["ok"])
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == true)
  }

  @Test("Listing and removing thousands of devices is spread over passes of the loop")
  func thousands() throws {
    for minor in 0..<2000 as Range<UInt32> {
      var creation = DeviceCreation(name: "d\(minor)")
      creation.minor = minor
      fixture.mapper.create(creation) { _ in }
    }
    let (client, other) = (fixture.client(), fixture.client())
    var before = fixture.loop.passes
    client.send("list")
    other.send("version")
    #expect(other.answer()?.count == 2)
    var names: [String] = []
    while let line = client.answer(), line.first == "item" { names.append(line[1]) }
    #expect(fixture.loop.passes - before > 7)
    #expect(Set(names) == Set((0..<2000).map { "name=d\($0)" }) && names.count == 2000)
    before = fixture.loop.passes
    client.send("remove_all")
    // A device made in the meantime stays.
    other.send("create", "name=z", "minor=3000")
    #expect(other.answer() == ["ok"])
    var removed: [String]?
    for _ in 0..<100 where removed == nil { removed = client.answer() }
    #expect(removed == ["ok"])
    #expect(fixture.loop.passes - before > 30)
    #expect(fixture.mapper.all.map(\.name) == ["z"])
  }

  @Test("A request that needs far more memory than its length ends the connection")
  func manyFields() {
    let client = fixture.client()
    client.send("targets")
    while let line = client.answer(), line != ["ok"] {}
    client.send(Array("targets".utf8) + [UInt8](repeating: 9, count: 200_000) + [10])
    #expect(client.isClosed())
    let many = fixture.client()
    many.send(
      Array("targets".utf8) + (0...ControlMessage.fieldsMax).flatMap { _ in Array("\ta=".utf8) } + [
        10
      ])
    #expect(many.isClosed())
    // Tables of ten thousand lines are accepted.
    makeZero("z")
    let lines = (0..<10_000).map { "\tline=\($0) 1 error " }.joined()
    let loader = fixture.client()
    loader.send(Array("reload\tdevice=name:z\(lines)\n".utf8))
    #expect(loader.answer() == ["ok"])
  }
}
