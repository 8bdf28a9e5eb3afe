import BlockServer
import DataPath
import Glibc
import ServerSimulation
import Testing

@Suite("Limits of work and memory")
struct TurnTests {
  @Test("The status of scattered blocks counts as a buffer while the client does not read it")
  func status() throws {
    var limits = ServerLimits()
    limits.bytes = 64 << 20
    let fixture = try Fixture(byteCount: 16 << 20, limits: limits)
    let writer = fixture.connected()
    for block in 0..<2048 {
      writer.request(
        1, offset: UInt64(block * 8192), length: 512, payload: pattern(512, seed: 1))
    }
    fixture.pass(200)
    let deaf = (0..<100).map { _ in fixture.connected(status: true) }
    let header = NBDClient.header(7, cookie: 1, offset: 0, length: 16 << 20)
    for client in deaf { client.send(Array(repeatElement(header, count: 256).joined()), passes: 2) }
    fixture.pass(2000)
    #expect(fixture.server.bytesInUse <= limits.bytes)
    #expect(fixture.connected().read(0, 512) == pattern(512, seed: 1))
  }

  @Test("More options than fit into a buffer are answered, one after the other")
  func optionsAhead() throws {
    let fixture = try Fixture()
    let client = fixture.client()
    let option =
      NBDClient.big(0x4948_4156_454f_5054 as UInt64) + NBDClient.big(99 as UInt32)
      + NBDClient.big(1000 as UInt32) + [UInt8](repeating: 0, count: 1000)
    client.greet()
    #expect(client.send(Array(repeatElement(option, count: 400).joined()), passes: 2000))
    fixture.pass(500)
    #expect(!client.isClosed(passes: 1))
    #expect(fixture.server.counters.dropped == 0)
  }

  @Test("A large request goes down in pieces, and comes back as one")
  func pieces() throws {
    let fixture = try Fixture(byteCount: 32 << 20)
    let client = fixture.connected()
    let bytes = pattern(32 << 20, seed: 3)
    var largest = 0
    fixture.volume.fault = { request in
      largest = max(largest, request.pointee.byteCount)
      return 0
    }
    #expect(client.write(0, bytes) == 0)
    #expect(client.read(0, 32 << 20) == bytes)
    #expect(largest == 4 << 20)
  }

  @Test("Requests without data are counted by the parts that they may become, and wait beyond that")
  func parts() throws {
    var limits = ServerLimits()
    limits.bytes = 64 << 20
    let fixture = try Fixture(byteCount: 4 << 20, limits: limits)
    fixture.volume.holds = true
    // It takes no time to fail.
    fixture.volume.fault = { _ in EIO }
    let zeroes = NBDClient.header(6, flags: 2, cookie: 1, offset: 0, length: 4 << 20)
    let trim = NBDClient.header(4, cookie: 2, offset: 0, length: 4 << 20)
    let clients = (0..<100).map { _ in fixture.connected() }
    for client in clients {
      client.send(Array(repeatElement(zeroes + trim, count: 16).joined()), passes: 2)
    }
    fixture.pass(50)
    let most = fixture.server.bytesInUse
    #expect(most > 16 << 20 && most <= limits.bytes)
    #expect(fixture.server.counters.zeroes < 1600)
    for _ in 0..<2000 where fixture.server.counters.errors < 3200 {
      fixture.volume.letGo()
      fixture.pass(4)
    }
    #expect(fixture.server.counters.zeroes == 1600 && fixture.server.counters.discards == 1600)
    #expect(fixture.server.bytesInUse == 0)
  }
}
