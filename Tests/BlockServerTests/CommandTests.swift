import DataPath
import Glibc
import ServerSimulation
import Testing

@Suite("Requests")
struct CommandTests {
  @Test("Data of every size is written and read back, with simple and structured replies")
  func sizes() throws {
    let fixture = try Fixture(byteCount: 64 << 20)
    for structured in [false, true] {
      let client = fixture.connected(structured: structured)
      for count in [512, 4096, 65_536, 66_048, 131_072, 1 << 20, (1 << 20) + 512, 32 << 20] {
        let data = pattern(count, seed: UInt64(count))
        #expect(client.write(512, data) == 0)
        #expect(client.read(512, count) == data)
      }
    }
  }

  @Test("Many requests in one piece are all answered, in any order of completion")
  func batch() throws {
    let fixture = try Fixture(seed: 7)
    let client = fixture.connected()
    var bytes: [UInt8] = []
    for i in 0..<200 as Range<UInt64> {
      bytes += NBDClient.header(1, cookie: i, offset: i * 512, length: 512)
      bytes += pattern(512, seed: i)
    }
    client.send(bytes)
    let cookies = (0..<200).compactMap { _ in client.reply()?.cookie }
    #expect(cookies.sorted() == Array(0..<200))
    #expect(cookies != Array(0..<200))
    for i in 0..<200 as Range<UInt64> {
      #expect(client.read(i * 512, 512) == pattern(512, seed: i))
    }
  }

  @Test("Requests and payloads may arrive byte by byte")
  func trickle() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    let data = pattern(1024, seed: 3)
    for byte in NBDClient.header(1, cookie: 9, offset: 0, length: 1024) + data {
      client.send([byte])
      fixture.pass(1)
    }
    #expect(client.reply()?.error == 0)
    #expect(client.read(0, 1024) == data)
  }

  @Test("Force unit access reaches the device with writes, and as a flush after the others")
  func durable() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    #expect(client.write(0, pattern(512, seed: 1), flags: 1) == 0)
    #expect(fixture.volume.lastFlags == .durable && fixture.volume.flushes == 0)
    #expect(client.write(0, pattern(512, seed: 1)) == 0)
    #expect(fixture.volume.lastFlags == [])
    #expect(client.perform(4, flags: 1, length: 4096) == 0 && fixture.volume.flushes == 1)
    #expect(client.perform(6, flags: 1, length: 4096) == 0 && fixture.volume.flushes == 2)
    #expect(client.perform(3) == 0 && fixture.volume.flushes == 3)
    #expect(client.perform(3, flags: 1) == 0)
    #expect(client.perform(5, flags: 1, length: 4096) == 0)
  }

  @Test("Zeroed and trimmed ranges read as zeros; no-hole keeps them allocated")
  func zeroes() throws {
    let fixture = try Fixture()
    let client = fixture.connected(status: true)
    #expect(client.write(0, pattern(65_536, seed: 5)) == 0)
    #expect(client.perform(6, offset: 4096, length: 8192) == 0)
    #expect(client.perform(6, flags: 2, offset: 16_384, length: 4096) == 0)
    #expect(client.perform(4, offset: 32_768, length: 4096) == 0)
    var expected = pattern(65_536, seed: 5)
    for range in [4096..<12_288, 16_384..<20_480, 32_768..<36_864] {
      expected.replaceSubrange(range, with: repeatElement(0, count: range.count))
    }
    #expect(client.read(0, 65_536) == expected)
    client.request(7, offset: 0, length: 65_536)
    #expect(
      client.reply().map(extents) == [
        [4096, 0], [8192, 3], [20_480, 0], [4096, 3], [28_672, 0],
      ])
  }

  @Test("Fast zeroing succeeds on holes, and elsewhere where the device is fast")
  func fastZero() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    #expect(client.perform(6, flags: 16, offset: 0, length: 65_536) == 0)
    #expect(client.write(4096, pattern(4096, seed: 1)) == 0)
    #expect(client.perform(6, flags: 16, offset: 0, length: 65_536) == 95)
    #expect(client.read(4096, 4096) == pattern(4096, seed: 1))
    fixture.volume.isFastAtZeroes = true
    #expect(client.perform(6, flags: 16, offset: 0, length: 65_536) == 0)
    #expect(client.read(4096, 4096) == [UInt8](repeating: 0, count: 4096))
  }

  @Test("If the device cannot zero, exactly the range is written with zeros")
  func zeroesByWriting() throws {
    let fixture = try Fixture(byteCount: 8 << 20)
    fixture.volume.takesZeroes = false
    let client = fixture.connected()
    let data = pattern(8 << 20, seed: 8)
    #expect(client.write(0, data) == 0)
    #expect(client.perform(6, flags: 1, offset: 512, length: (3 << 20) + 512) == 0)
    #expect(fixture.volume.flushes == 1)
    var expected = data
    expected.replaceSubrange(512..<(3 << 20) + 1024, with: repeatElement(0, count: (3 << 20) + 512))
    #expect(fixture.volume.bytes == expected)
  }

  @Test("Reads of holes come without data; don't-fragment makes them one piece with it")
  func sparseReads() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    let data = pattern(8192, seed: 2)
    #expect(client.write(65_536, data) == 0)
    client.request(0, offset: 131_072, length: 65_536)
    let hole = try #require(client.reply())
    #expect(hole.chunks.map(\.type) == [2])
    client.request(0, offset: 0, length: 131_072)
    let mixed = try #require(client.reply())
    #expect(mixed.chunks.map(\.type) == [2, 1, 2] && mixed.chunks.map(\.flags) == [0, 0, 1])
    var expected = [UInt8](repeating: 0, count: 131_072)
    expected.replaceSubrange(65_536..<65_536 + 8192, with: data)
    #expect(NBDClient.assemble(mixed, offset: 0, length: 131_072) == expected)
    client.request(0, flags: 4, offset: 0, length: 131_072)
    let whole = try #require(client.reply())
    #expect(whole.chunks.map(\.type) == [1])
    #expect(NBDClient.assemble(whole, offset: 0, length: 131_072) == expected)
  }

  @Test("Block status has one extent if asked for one, and is cut to the range")
  func blockStatus() throws {
    let fixture = try Fixture()
    let client = fixture.connected(status: true)
    #expect(client.write(8192, pattern(4096, seed: 2)) == 0)
    client.request(7, offset: 512, length: 65_536)
    #expect(client.reply().map(extents) == [[7680, 3], [4096, 0], [53_760, 3]])
    client.request(7, flags: 8, offset: 512, length: 65_536)
    #expect(client.reply().map(extents) == [[7680, 3]])
    client.request(7, flags: 8, offset: 512, length: 512)
    #expect(client.reply().map(extents) == [[512, 3]])
  }

  /// Lengths and flags of a reply to block status.
  private func extents(_ reply: NBDClient.Reply) -> [[Int]] {
    guard reply.chunks.count == 1, reply.chunks[0].type == 5 else { return [] }
    let payload = reply.chunks[0].payload
    return stride(from: 4, to: payload.count, by: 8).map { at in
      [
        Int(NBDClient.integer(payload[at..<at + 4])),
        Int(NBDClient.integer(payload[at + 4..<at + 8])),
      ]
    }
  }

  @Test("A grown volume is served in its new size, also on existing connections")
  func growth() throws {
    let fixture = try Fixture()
    let old = fixture.connected()
    #expect(old.perform(0, offset: 1 << 20, length: 512) == 22)
    fixture.volume.grow(to: 2 << 20)
    let new = fixture.connected()
    #expect(new.exportBytes == 2 << 20)
    #expect(new.write(1 << 20, pattern(512, seed: 1)) == 0)
    #expect(old.read(1 << 20, 512) == pattern(512, seed: 1))
  }
}
