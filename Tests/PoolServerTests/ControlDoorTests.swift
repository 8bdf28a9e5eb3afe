import CDMThin
import DataPath
import DeviceMapper
import Glibc
import ServerControl
import Simulation
import Targets
import TestSupport
import Testing

@testable import BlockServer
@testable import PoolServer

/// A control socket, with the loop in the hands of the test.
private final class Fixture {
  let folder: ScratchFolder
  let loop: EventLoop
  let mapper: UserspaceDeviceMapper
  let volumes: VolumeExports
  let door: ControlDoor
  let path: String
  private let queue: IOQueue
  private let worker: BlockingWorker

  init() throws {
    folder = try ScratchFolder()
    loop = try EventLoop()
    queue = try IOQueue(loop)
    worker = try BlockingWorker(loop)
    mapper = UserspaceDeviceMapper(loop: loop, queue: queue, worker: worker)
    volumes = VolumeExports(mapper, loop)
    path = folder.file("control")
    door = try ControlDoor(path: path, loop, mapper, volumes)
    mapper.eventHappened = { [unowned door] _ in door.eventHappened() }
  }

  deinit {
    door.close()
    mapper.removeAll()
    worker.close()
    queue.close()
  }

  func client() -> Client {
    let descriptor = dmthin_stream_socket(AF_UNIX)
    #expect(dmthin_connect_unix(descriptor, path) == 0)
    return Client(descriptor, loop)
  }
}

/// A client that sends what it is told to.
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
      // The server has hung up.
      if n < 0 && errno != EAGAIN { return }
      loop.pass()
    }
  }

  func send(_ fields: String...) { send(ControlMessage(fields).line) }

  /// The fields of the next answer; nil where none comes for now.
  func answer() -> [String]? {
    for _ in 0..<50 {
      if let end = received.firstIndex(of: ControlMessage.lineEnd) {
        let line = Array(received[..<end])
        received.removeSubrange(...end)
        return (try? ControlMessage(line: line))?.fields
      }
      loop.pass()
      var chunk = [UInt8](repeating: 0, count: 65_536)
      let n = recv(descriptor, &chunk, chunk.count, 0)
      if n > 0 { received += chunk[..<n] }
    }
    return nil
  }

  /// Whether the server has hung up.
  /// - Parameter taking: whether what it has said before is taken.
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
    client.send("create", name, "", "", "", "0", "1", "0", "64", "zero", "")
    #expect(client.answer() == ["ok"])
  }

  @Test("Commands are carried out in the order in which they come, however they are cut up")
  func pieces() {
    let client = fixture.client()
    var bytes = ControlMessage(["create", "z", "u", "", "", "0", "1", "0", "64", "zero", ""]).line
    bytes += ControlMessage(["rename", "name:z", "y"]).line
    bytes += ControlMessage(["list"]).line
    for byte in bytes { client.send([byte]) }
    #expect(client.answer() == ["ok"])
    #expect(client.answer() == ["ok"])
    #expect(client.answer() == ["ok", "y", "254", "0", "1", "u"])
    client.send(bytes)
    #expect(client.answer()?.prefix(4) == ["error", "create", "z u", "16"])
    #expect(client.answer()?.prefix(4) == ["error", "rename", "z ", "6"])
  }

  @Test("What is no command ends the connection, and no other")
  func malformed() {
    let other = fixture.client()
    for line in [
      "", "nothing", "create", "list\\", "info\tname", "info\tname:x\t256", "message\tname:x\t0",
      "reload\tname:x\t0\t0\t1\tzero", "create\ta\t\t\t\t0\t1\t0", "wait\tname:x\t0\t-1",
      "await_events\t0\tx", "remove\tname:x\t2", "path\t1",
    ] {
      let client = fixture.client()
      client.send(Array("\(line)\n".utf8))
      #expect(client.isClosed(), "\(line)")
    }
    other.send("version")
    #expect(other.answer() == ["ok", "4.47.0"])
    #expect(fixture.mapper.all.isEmpty)
  }

  @Test("A line without end is read up to a limit only")
  func endless() {
    let client = fixture.client()
    client.send([UInt8](repeating: 65, count: ControlMessage.requestBytesMax + 65_536))
    #expect(client.isClosed())
  }

  @Test("Random bytes bring down neither the server nor other clients")
  func randomBytes() {
    var generator = SplitMix64(seed: 3)
    let words = [
      "create", "reload", "remove", "info", "status", "wait", "name:a", "number:254:0", "0", "1",
      "zero", "linear", "thin-pool", "/none 0", "\t", "\n", "\n", "\\", "18446744073709551615",
    ]
    for _ in 0..<500 {
      let client = fixture.client()
      for _ in 0..<10 {
        var bytes: [UInt8] = []
        for _ in 0..<Int.random(in: 1..<12, using: &generator) {
          bytes += Array((words.randomElement(using: &generator) ?? "").utf8)
          bytes += Bool.random(using: &generator) ? [9] : []
        }
        if Int.random(in: 0..<9, using: &generator) == 0 {
          bytes.append(UInt8.random(in: 0...255, using: &generator))
        }
        client.send(bytes)
      }
    }
    let client = fixture.client()
    client.send("version")
    #expect(client.answer() == ["ok", "4.47.0"])
  }

  @Test("Who waits is answered upon an event, and leaves nothing behind when gone")
  func waiting() {
    makeZero("z")
    let waiting = fixture.client()
    waiting.send("wait", "name:z", "0", "0")
    #expect(waiting.answer() == nil)
    do {
      let gone = fixture.client()
      gone.send("wait", "name:z", "0", "0")
      let follower = fixture.client()
      follower.send("await_events", "0", "")
      fixture.loop.pass()
    }
    for _ in 0..<10 { fixture.loop.pass() }
    #expect(fixture.mapper.waiterCount == 1)
    #expect(fixture.door.watcherCount == 0)
    let client = fixture.client()
    client.send("rename", "name:z", "y")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "y"])
    // The count differs now: no need to wait.
    waiting.send("wait", "name:y", "0", "0")
    #expect(waiting.answer()?.prefix(2) == ["ok", "y"])
    waiting.send("wait", "name:y", "0", "1")
    #expect(waiting.answer() == nil)
    client.send("remove", "name:y", "0")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "y"])
  }

  @Test("Waiting for any event ends with one, or when the time is up")
  func watching() {
    makeZero("z")
    let client = fixture.client()
    client.send("await_events", "0", "0")
    #expect(client.answer() == ["ok", "0"])
    client.send("await_events", "0", "60000")
    #expect(client.answer() == nil)
    fixture.client().send("rename", "name:z", "y")
    #expect(client.answer() == ["ok", "1"])
    client.send("arm_events")
    #expect(client.answer() == ["ok", "1"])
    client.send("await_events", "7", "")
    #expect(client.answer() == ["ok", "1"])
  }

  @Test("A command that comes while another one waits for an event is carried out after it")
  func order() {
    makeZero("z")
    let waiting = fixture.client()
    let second = ControlMessage(["rename", "name:z", "x"]).line
    waiting.send(ControlMessage(["wait", "name:z", "0", "0"]).line + second)
    waiting.send(ControlMessage(["list"]).line)
    #expect(waiting.answer() == nil)
    #expect(fixture.mapper.waiterCount == 1)
    #expect(fixture.mapper.find(.name("z")) != nil)
    let client = fixture.client()
    client.send("rename", "name:z", "y")
    #expect(client.answer() == ["ok"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "y"])
    #expect(waiting.answer()?.prefix(4) == ["error", "rename", "z ", "6"])
    #expect(waiting.answer()?.prefix(2) == ["ok", "y"])
  }

  @Test("A volume that was renamed is open until clients of both its names are gone")
  func renamed() throws {
    makeZero("z")
    let old = try #require(fixture.volumes.exports["z"])
    #expect(old.open())
    let client = fixture.client()
    client.send("rename", "name:z", "y")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    let new = try #require(fixture.volumes.exports["y"])
    #expect(new !== old && new.open())
    old.close()
    client.send("remove", "name:y", "0")
    #expect(client.answer()?.prefix(4) == ["error", "remove", "y (254:0)", "16"])
    new.close()
    client.send("remove", "name:y", "0")
    #expect(client.answer() == ["ok"])
  }

  @Test("Exports follow the devices; one that is open cannot be removed")
  func exports() throws {
    makeZero("z")
    #expect(fixture.volumes.exports.exports.map(\.name) == ["z"])
    let opened = try fixture.mapper.open("z", readOnly: true)
    let client = fixture.client()
    client.send("remove", "name:z", "0")
    #expect(client.answer()?.prefix(4) == ["error", "remove", "z (254:0)", "16"])
    opened.close()
    client.send("create", "l", "", "", "", "0", "1", "0", "8", "linear", "/dev/mapper/z 0")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    // What another device stands on is not for clients.
    #expect(fixture.volumes.exports.exports.map(\.name) == ["l"])
    client.send("remove", "name:l", "0")
    #expect(client.answer() == ["ok"])
    client.send("rename", "name:z", "y")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    #expect(fixture.volumes.exports.exports.map(\.name) == ["y"])
    client.send("remove_all", "0")
    #expect(client.answer() == ["ok"])
    fixture.loop.pass()
    #expect(fixture.volumes.exports.exports.isEmpty)
  }

  @Test("Idle connections make room for another, the oldest first; those that wait go last")
  func many() {
    makeZero("z")
    let waiting = fixture.client()
    waiting.send("wait", "name:z", "0", "0")
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
    for client in clients { client.send("wait", "name:z", "0", "0") }
    for client in clients { #expect(client.answer() == nil) }
    let last = fixture.client()
    last.send("version")
    #expect(last.answer()?.first == "ok")
  }

  @Test("Half a request, and an answer that is not taken, end the connection after a while")
  func stuck() {
    for index in 0..<600 { makeZero("\(String(repeating: "n", count: 100))\(index)") }
    let half = fixture.client()
    half.send(Array("versi".utf8))
    let deaf = fixture.client()
    for _ in 0..<40 { deaf.send(ControlMessage(["list"]).line) }
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
    "A device suspended for as long as its client is there is resumed when that goes, and no other")
  func abandoned() {
    makeZero("z")
    func isSuspended() -> Bool? { fixture.mapper.find(.name("z"))?.isSuspended }
    let held = "\(SuspendOptions.whileConnected.rawValue)"
    do {
      let client = fixture.client()
      client.send("suspend", "name:z", held)
      #expect(client.answer() == ["ok"])
      #expect(isSuspended() == true)
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == false)
    // As dmsetup does it: it stays.
    do {
      let client = fixture.client()
      client.send("suspend", "name:z", "0")
      #expect(client.answer() == ["ok"])
      // What is suspended already is not this one's to resume.
      client.send("suspend", "name:z", held)
      #expect(client.answer() == ["ok"])
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == true)
    do {
      let client = fixture.client()
      client.send("resume", "name:z", "0")
      #expect(client.answer() == ["ok"])
      client.send("suspend", "name:z", held)
      #expect(client.answer() == ["ok"])
      // Another wants it to stay suspended.
      let other = fixture.client()
      other.send("suspend", "name:z", "0")
      #expect(other.answer() == ["ok"])
    }
    for _ in 0..<5 { fixture.loop.pass() }
    #expect(isSuspended() == true)
  }

  @Test("A list of thousands of devices, and their removal, are spread over passes of the loop")
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
    let answer = try #require(client.answer())
    #expect(fixture.loop.passes - before > 7)
    let names = stride(from: 1, to: answer.count, by: 5).map { answer[$0] }
    #expect(Set(names) == Set((0..<2000).map { "d\($0)" }) && names.count == 2000)
    before = fixture.loop.passes
    client.send("remove_all", "0")
    // What comes meanwhile stays.
    other.send("create", "z", "", "", "3000", "0", "0")
    #expect(other.answer() == ["ok"])
    var removed: [String]?
    for _ in 0..<100 where removed == nil { removed = client.answer() }
    #expect(removed == ["ok"])
    #expect(fixture.loop.passes - before > 30)
    #expect(fixture.mapper.all.map(\.name) == ["z"])
  }

  @Test("A request that takes far more memory than it has bytes ends the connection")
  func manyFields() {
    let client = fixture.client()
    client.send("targets")
    #expect(client.answer() != nil)
    client.send(Array("targets".utf8) + [UInt8](repeating: 9, count: 200_000) + [10])
    #expect(client.isClosed())
    // Tables of ten thousand lines are none of these.
    makeZero("z")
    let lines = (0..<10_000).flatMap { ["\($0)", "1", "error", ""] }
    let loader = fixture.client()
    loader.send(ControlMessage(["reload", "name:z", "0"] + lines).line)
    #expect(loader.answer() == ["ok"])
  }
}
