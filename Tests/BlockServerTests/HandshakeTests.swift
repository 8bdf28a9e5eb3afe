import BlockServer
import DataPath
import EventLoop
import ServerSimulation
import Testing

@Suite("Choice of an export")
struct HandshakeTests {
  private static let ack: UInt32 = 1
  private static let invalid: UInt32 = 0x8000_0003
  private static let unknown: UInt32 = 0x8000_0006

  @Test("The greeting offers fixed newstyle without zeros")
  func greeting() throws {
    let client = try Fixture().client()
    #expect(client.receive(18) == Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
  }

  @Test("An export chosen by its name alone comes with 124 zeros unless the client wants none")
  func exportName() throws {
    let fixture = try Fixture()
    for (flags, zeros) in [(1, 124), (3, 0)] as [(UInt32, Int)] {
      let client = fixture.client()
      client.greet(flags: flags)
      client.option(1, Array("volume".utf8))
      let answer = client.receive(10)
      #expect(NBDClient.integer(answer[0..<8]) == 1 << 20)
      // Flags without the one that needs structured replies.
      #expect(NBDClient.integer(answer[8..<10]) == 0b1101_0110_1101)
      #expect(client.receive(zeros) == [UInt8](repeating: 0, count: zeros))
      #expect(client.read(0, 512)?.count == 512)
    }
  }

  @Test("The only export is the default one; of two, the one chosen as default")
  func defaultExport() throws {
    let fixture = try Fixture()
    #expect(fixture.client().connect(""))
    let small = MemoryDestination(fixture.loop, byteCount: 4096)
    fixture.exports.add(Export(name: "small", destination: small))
    #expect(!fixture.client().connect(""))
    fixture.exports.defaultName = "small"
    let client = fixture.client()
    #expect(client.connect("") && client.exportBytes == 4096)
  }

  @Test("Exports are listed with their descriptions, and not twice")
  func list() throws {
    let fixture = try Fixture()
    #expect(!fixture.exports.add(Export(name: "volume", destination: fixture.volume)))
    let client = fixture.client()
    client.greet()
    client.option(3)
    let replies = client.optionReplies()
    #expect(replies.map(\.type) == [2, Self.ack])
    #expect(replies[0].data == [0, 0, 0, 6] + Array("volumein memory".utf8))
  }

  @Test("The requested information is sent: size, name, description, block sizes")
  func information() throws {
    let client = try Fixture().client()
    client.greet()
    client.option(6, NBDClient.information("", [3, 2, 1, 9, 3]))
    let replies = client.optionReplies()
    #expect(replies.map(\.type) == [3, 3, 3, 3, Self.ack])
    #expect(replies[0].data == [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0])
    #expect(replies[1].data == [0, 2] + Array("in memory".utf8))
    #expect(replies[2].data == [0, 1] + Array("volume".utf8))
    #expect(replies[3].data.count == 12)
    // That was not the end of it.
    client.option(2)
    #expect(client.optionReplies().last?.type == Self.ack)
    #expect(client.isClosed())
  }

  @Test("The allocation context is listed and selected, and needs structured replies")
  func contexts() throws {
    let client = try Fixture().client()
    client.greet()
    client.option(10, NBDClient.contexts("volume", ["base:allocation"]))
    #expect(client.optionReplies().map(\.type) == [Self.invalid])
    client.option(8)
    #expect(client.optionReplies().map(\.type) == [Self.ack])
    for (code, queries, found) in [
      (9, [], true), (9, ["base:"], true), (10, ["base:"], false), (10, [], false),
      (9, ["other:thing"], false), (10, ["x:y", "base:allocation"], true),
    ] as [(UInt32, [String], Bool)] {
      client.option(code, NBDClient.contexts("volume", queries))
      #expect(client.optionReplies().map(\.type) == (found ? [4, Self.ack] : [Self.ack]))
    }
    client.option(10, NBDClient.contexts("nothing", ["base:allocation"]))
    #expect(client.optionReplies().map(\.type) == [Self.unknown])
    // The last answer was an error, so nothing is selected.
    client.option(7, NBDClient.information("volume"))
    #expect(client.optionReplies().last?.type == Self.ack)
    client.request(7, length: 512)
    #expect(client.reply()?.error == 22)
  }

  @Test("Malformed options are refused, and the handshake goes on")
  func malformed() throws {
    let client = try Fixture().client()
    client.greet()
    let name = Array("volume".utf8)
    let bad: [(UInt32, [UInt8], UInt32)] = [
      (99, [1, 2, 3], 0x8000_0001),
      (3, [0], Self.invalid),
      (8, [0], Self.invalid),
      (6, [], Self.invalid),
      (6, [0xff, 0xff, 0xff, 0xff, 0, 0], Self.invalid),
      (6, [0, 0, 0, 6] + name + [0, 2, 0, 1], Self.invalid),
      (6, [0, 0, 0, 6] + name + [0, 0, 0], Self.invalid),
      (7, NBDClient.information("nothing"), Self.unknown),
      (5, [], 0x8000_0001),
      (6, [UInt8](repeating: 0, count: 70_000), 0x8000_0009),
    ]
    for (code, data, type) in bad {
      client.option(code, data)
      #expect(client.optionReplies().map(\.type) == [type], "option \(code)")
    }
    client.option(8)
    #expect(client.optionReplies().map(\.type) == [Self.ack])
    let contexts: [[UInt8]] = [
      [], [0, 0, 0, 0, 0, 0, 0, 9], [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1],
    ]
    for data in contexts {
      client.option(10, data)
      #expect(client.optionReplies().map(\.type) == [Self.invalid])
    }
    client.option(7, NBDClient.information("volume"))
    #expect(client.optionReplies().last?.type == Self.ack)
  }

  @Test("Unknown client flags, wrong magic and unknown names by the old way end the connection")
  func hardErrors() throws {
    let fixture = try Fixture()
    let flags = fixture.client()
    flags.greet(flags: 7)
    #expect(flags.isClosed())
    let magic = fixture.client()
    magic.greet()
    magic.send([UInt8](repeating: 7, count: 16))
    #expect(magic.isClosed())
    let name = fixture.client()
    name.greet()
    name.option(1, Array("nothing".utf8))
    #expect(name.isClosed())
    #expect(fixture.server.connectionCount == 0)
  }

  @Test("Options may arrive in one piece with the first requests")
  func pipelined() throws {
    let fixture = try Fixture()
    let client = fixture.client()
    let option = { (code: UInt32, data: [UInt8]) in
      NBDClient.big(0x4948_4156_454f_5054 as UInt64) + NBDClient.big(code)
        + NBDClient.big(UInt32(data.count)) + data
    }
    let go = option(7, NBDClient.information("volume"))
    client.send([0, 0, 0, 3] + option(3, []) + go)
    client.send(NBDClient.header(0, cookie: 5, offset: 0, length: 512))
    _ = client.receive(18)
    #expect(client.optionReplies().count == 2)
    #expect(client.optionReplies().count == 2)
    #expect(client.reply(dataBytes: 512)?.data.count == 512)
  }

  @Test("A client that requests lists and reads no answers uses no memory")
  func deafClient() throws {
    let fixture = try Fixture()
    let client = fixture.client()
    client.greet()
    let option = NBDClient.big(0x4948_4156_454f_5054 as UInt64) + [0, 0, 0, 3, 0, 0, 0, 0]
    let many = Array(repeatElement(option, count: 100_000).joined())
    // The server stops listening as soon as the client does.
    #expect(!client.send(many, passes: 2000))
    #expect(fixture.connected().read(0, 512) != nil)
  }
}
