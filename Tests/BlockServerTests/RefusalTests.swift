import BlockServer
import DataPath
import Glibc
import ServerSimulation
import Testing

@Suite("Refusals")
struct RefusalTests {
  private struct Case {
    let command: UInt16
    var flags: UInt16 = 0
    var offset: UInt64 = 0
    var length: UInt32 = 512
    let error: UInt32
  }

  private static let size: UInt64 = 1 << 20

  private static let cases = [
    Case(command: 0, offset: size - 512, length: 1024, error: 22),
    Case(command: 1, offset: size - 512, length: 1024, error: 28),
    Case(command: 6, offset: size - 512, length: 1024, error: 28),
    Case(command: 4, offset: size, error: 22),
    Case(command: 5, offset: size, error: 22),
    Case(command: 7, offset: size, error: 22),
    Case(command: 0, offset: .max - 511, error: 22),
    Case(command: 1, offset: .max, error: 28),
    Case(command: 0, offset: 1, error: 22),
    Case(command: 0, length: 100, error: 22),
    Case(command: 1, length: 100, error: 22),
    Case(command: 6, offset: 256, error: 22),
    Case(command: 0, flags: 2, error: 22),
    Case(command: 0, flags: 32, error: 22),
    Case(command: 1, flags: 4, error: 22),
    Case(command: 3, offset: 512, length: 0, error: 22),
    Case(command: 3, length: 512, error: 22),
    Case(command: 4, flags: 8, error: 22),
    Case(command: 7, length: 0, error: 22),
    Case(command: 8, error: 22),
    Case(command: 0xffff, error: 22),
  ]

  @Test("Invalid requests get an error with the reason, and the next one is served")
  func refused() throws {
    let fixture = try Fixture()
    let client = fixture.connected(status: true)
    for test in Self.cases {
      let payload = test.command == 1 ? pattern(Int(test.length), seed: 1) : []
      client.request(
        test.command, flags: test.flags, offset: test.offset, length: test.length,
        payload: payload)
      let reply = client.reply()
      #expect(reply?.error == test.error, "\(test)")
      #expect(reply?.message.isEmpty == false)
    }
    #expect(client.read(0, 512) == [UInt8](repeating: 0, count: 512))
    #expect(fixture.server.counters.errors == UInt64(Self.cases.count))
  }

  @Test("Without structured replies errors are simple, and flags that need them refused")
  func simpleErrors() throws {
    let fixture = try Fixture()
    let client = fixture.connected(structured: false)
    #expect(client.perform(0, offset: 1 << 20, length: 512) == 22)
    #expect(client.perform(0, flags: 4, length: 512) == 22)
    #expect(client.perform(7, length: 512) == 22)
    #expect(client.read(0, 512)?.count == 512)
  }

  @Test("Reads of more than 32 MiB are refused, writes of more end the connection")
  func oversized() throws {
    let fixture = try Fixture(byteCount: 40 << 20)
    let client = fixture.connected()
    #expect(client.perform(0, length: (32 << 20) + 512) == 75)
    client.request(1, length: (32 << 20) + 512)
    #expect(client.isClosed())
  }

  @Test("Requests for no bytes succeed and do nothing")
  func empty() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    for command in [0, 1, 4, 5, 6] as [UInt16] {
      #expect(client.perform(command, offset: 512) == 0)
    }
    #expect(fixture.volume.flushes == 0)
  }

  @Test("No request writes to a read-only export")
  func readOnly() throws {
    let fixture = try Fixture(readOnly: true)
    let client = fixture.connected()
    #expect(client.exportFlags & 2 != 0 && client.exportFlags & (1 << 5 | 1 << 6) == 0)
    #expect(client.write(0, pattern(4096, seed: 1)) == 1)
    #expect(client.perform(4, length: 4096) == 1)
    #expect(client.perform(6, length: 4096) == 1)
    #expect(client.perform(3) == 0)
    #expect(client.read(0, 4096) == [UInt8](repeating: 0, count: 4096))
  }

  @Test(
    "Errors of the device are told as the protocol calls them",
    arguments: [
      (EIO, 5), (ENOSPC, 28), (EDQUOT, 28), (EROFS, 1), (EINVAL, 22), (ENOMEM, 12), (ENODEV, 5),
    ] as [(Int32, UInt32)])
  func deviceErrors(code: Int32, error: UInt32) throws {
    let fixture = try Fixture()
    for structured in [false, true] {
      let client = fixture.connected(structured: structured)
      fixture.volume.fault = { _ in code }
      #expect(client.perform(0, length: 4096) == error)
      #expect(client.write(0, pattern(512, seed: 1)) == error)
      #expect(client.perform(3) == error)
      #expect(client.perform(6, flags: 2, length: 512) == error)
      fixture.volume.fault = { _ in 0 }
      #expect(client.read(0, 512) == [UInt8](repeating: 0, count: 512))
    }
  }

  @Test("A flush that fails after a durable discard fails the discard")
  func lateFailure() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    fixture.volume.fault = { $0.pointee.operation == .flush ? EIO : 0 }
    #expect(client.perform(4, flags: 1, length: 4096) == 5)
    #expect(client.perform(4, length: 4096) == 0)
  }

  @Test("A discard that the device does not support is not an error")
  func unsupportedDiscard() throws {
    let fixture = try Fixture()
    let client = fixture.connected()
    fixture.volume.fault = { $0.pointee.operation == .discard ? EOPNOTSUPP : 0 }
    #expect(client.perform(4, length: 4096) == 0)
  }
}
