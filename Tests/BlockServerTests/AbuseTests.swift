import BlockServer
import CDMThin
import DataPath
import EventLoop
import Glibc
import ServerSimulation
import Simulation
import Testing

@Suite("Clients that misbehave, and those beside them")
struct AbuseTests {
  @Test("A client that sends requests and reads no replies is soon not read from any more")
  func deafReader() throws {
    var limits = ServerLimits()
    limits.bytesPerConnection = 64 << 20
    let fixture = try Fixture(byteCount: 4 << 20, limits: limits)
    #expect(fixture.connected().write(0, pattern(4 << 20, seed: 1)) == 0)
    let deaf = fixture.connected()
    let header = NBDClient.header(0, cookie: 1, offset: 0, length: 1 << 20)
    #expect(!deaf.send(Array(repeatElement(header, count: 100_000).joined()), passes: 500))
    #expect(fixture.connected().read(4096, 4096) == Array(pattern(8192, seed: 1)[4096...]))
  }

  @Test("A client that holds buffers without progress is dropped when others wait for them")
  func holdUp() throws {
    var limits = ServerLimits()
    limits.bytes = 128 << 20
    let fixture = try Fixture(byteCount: 64 << 20, limits: limits)
    let silent = [fixture.connected(), fixture.connected()]
    for client in silent { client.request(1, length: 32 << 20, payload: [1, 2, 3]) }
    fixture.pass()
    let client = fixture.connected()
    client.request(0, length: 16 << 20)
    fixture.pass()
    #expect(fixture.server.counters.dropped == 0)
    fixture.loop.skip(6_000_000_000)
    // One is enough.
    fixture.pass()
    #expect(fixture.server.counters.dropped == 1)
    #expect(client.reply()?.error == 0)
    #expect(silent.count { $0.isClosed(passes: 10) } == 1)
  }

  @Test("A client gets its share of the buffers at once, whatever the others hold")
  func shares() throws {
    var limits = ServerLimits()
    limits.bytes = 128 << 20
    limits.connections = 64
    // However slow this machine is just now.
    limits.stallNanoseconds = 3_600_000_000_000
    let fixture = try Fixture(byteCount: 64 << 20, limits: limits)
    // Holes take no buffers.
    #expect(fixture.connected().write(0, pattern(4 << 20, seed: 1)) == 0)
    let greedy = (0..<8).map { _ in fixture.connected() }
    for client in greedy { client.request(1, length: 32 << 20, payload: [1, 2, 3]) }
    fixture.pass()
    #expect(fixture.server.bytesInUse <= limits.bytes)
    let client = fixture.connected()
    // A MiB, again and again, beside one request for more that waits.
    for _ in 0..<3 { #expect(client.read(0, 1 << 20) != nil) }
    // Several at once: those that wait for their own share do not wait in line.
    let requests = [1, 1, 1, 1, 4].enumerated().map { index, mebibytes in
      NBDClient.header(0, cookie: UInt64(index), offset: 0, length: mebibytes << 20)
    }
    #expect(client.send(Array(requests.joined())))
    for _ in 0..<1000 {
      fixture.loop.pass()
      client.drain()
    }
    #expect(fixture.server.counters.reads == 7 && fixture.server.counters.dropped == 0)
    for client in greedy { #expect(!client.isClosed(passes: 1)) }
    // Those who wait get what others gave back.
    #expect(fixture.connected().read(0, 4096) != nil)
  }

  @Test("Silent clients are dropped in the end, and earlier when there are too many")
  func silence() throws {
    var limits = ServerLimits()
    limits.connections = 3
    let fixture = try Fixture(limits: limits)
    let busy = fixture.connected()
    let silent = [fixture.client(), fixture.client()]
    fixture.pass()
    // No client has been silent for long yet.
    #expect(fixture.client().isClosed())
    fixture.loop.skip(5_000_000_000)
    let late = fixture.connected()
    #expect(late.read(0, 512) != nil)
    #expect(silent[0].isClosed(passes: 10) && !silent[1].isClosed(passes: 10))
    fixture.loop.skip(16_000_000_000)
    #expect(silent[1].isClosed(passes: 10))
    #expect(fixture.server.connectionCount == 2)
    #expect(busy.read(0, 512) != nil)
  }

  @Test("The buffers of clients that leave stay as long as the device writes to them")
  func leaving() throws {
    let fixture = try Fixture()
    var opened: [Bool] = []
    fixture.exports.add(
      Export(name: "watched", destination: fixture.volume) {
        opened.append($0)
        return true
      })
    fixture.volume.holds = true
    do {
      let client = fixture.client()
      client.connect("watched")
      client.request(0, length: 65_536)
      client.request(1, length: 4096, payload: pattern(4096, seed: 4))
      client.request(1, length: 4096, payload: [1, 2, 3])
      fixture.pass()
    }
    fixture.pass()
    #expect(opened == [true])
    fixture.volume.letGo()
    fixture.pass()
    #expect(opened == [true, false])
    #expect(fixture.server.connectionCount == 0)
    #expect(Array(fixture.volume.bytes[0..<4096]) == pattern(4096, seed: 4))
  }

  @Test("A disconnect request waits for pending requests, and later ones are ignored")
  func goodbye() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    fixture.volume.holds = true
    client.request(1, cookie: 5, length: 512, payload: pattern(512, seed: 6))
    client.request(2)
    client.request(1, cookie: 6, length: 512, payload: pattern(512, seed: 7))
    fixture.pass()
    fixture.volume.holds = false
    fixture.volume.letGo()
    #expect(client.reply()?.cookie == 5)
    #expect(client.isClosed())
    #expect(Array(fixture.volume.bytes[0..<512]) == pattern(512, seed: 6))
  }

  @Test("Stopping completes pending requests, refuses the rest, and closes every connection")
  func stopping() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    let waiting = fixture.client()
    fixture.volume.holds = true
    client.request(3, cookie: 8)
    fixture.pass()
    var isDone = false
    fixture.server.stop { isDone = true }
    fixture.pass()
    #expect(waiting.isClosed() && !isDone)
    #expect(fixture.client().isClosed())
    fixture.volume.letGo()
    #expect(client.reply()?.cookie == 8)
    #expect(client.isClosed() && isDone)
  }

  @Test("Random bytes after a handshake do no harm", arguments: 0..<40 as Range<UInt64>)
  func noise(seed: UInt64) throws {
    let fixture = try Fixture(seed: seed)
    let good = fixture.connected()
    #expect(good.write(65_536, pattern(4096, seed: seed)) == 0)
    for phase in 0..<3 {
      let bad = fixture.client()
      if phase > 0 { bad.greet() }
      if phase > 1 { bad.option(7, NBDClient.information("volume")) }
      bad.send(pattern(3000, seed: seed &+ UInt64(phase)), passes: 50)
    }
    #expect(good.read(65_536, 4096) == pattern(4096, seed: seed))
  }

  @Test("A thousand connections are served")
  func thousand() throws {
    var limits = ServerLimits()
    limits.connections = 1000
    let fixture = try Fixture(limits: limits)
    let clients = (0..<1000).map { _ in fixture.connected() }
    for (i, client) in clients.enumerated() {
      client.request(0, cookie: UInt64(i), offset: UInt64(i) * 512, length: 512)
    }
    for (i, client) in clients.enumerated() { #expect(client.reply()?.cookie == UInt64(i)) }
    #expect(fixture.server.connectionCount == 1000)
  }
}
