import CDMThin
import Glibc
import ServerControl
import Testing

@Suite("Outgoing bytes")
struct OutgoingBytesTests {
  private func pair() throws -> (Int32, Int32) {
    var ends: [Int32] = [0, 0]
    try #require(dmthin_stream_pair(&ends) == 0)
    return (ends[0], ends[1])
  }

  @Test("More bytes than a socket accepts at once arrive complete and in order")
  func pieces() throws {
    let (near, far) = try pair()
    defer {
      close(near)
      close(far)
    }
    let bytes = (0..<3_000_000).map { UInt8($0 % 251) }
    var outgoing = OutgoingBytes(bytes)
    var received: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 50_000)
    var waits = 0
    while received.count < bytes.count {
      switch outgoing.send(to: near) {
      case .waits:
        waits += 1
        #expect(!outgoing.isEmpty)
      case .done: #expect(outgoing.isEmpty)
      case .failed: Issue.record("failed")
      }
      let n = recv(far, &chunk, chunk.count, 0)
      try #require(n > 0)
      received += chunk[..<n]
    }
    #expect(waits > 0 && received == bytes)
  }

  @Test("If the other side has gone, an error is returned, and no signal is raised")
  func gone() throws {
    let (near, far) = try pair()
    close(far)
    defer { close(near) }
    var outgoing = OutgoingBytes([1])
    #expect(outgoing.send(to: near) == .failed)
    #expect(errno == EPIPE)
  }
}
