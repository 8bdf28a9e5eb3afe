import BlockServer
import CDMThin
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Targets
import TestSupport
import Testing

@testable import PoolServer

@Suite("Clients of the metrics")
struct MetricsDoorTests {
  private let folder: ScratchFolder
  private let loop: EventLoop
  private let door: MetricsDoor
  private let exports = ExportList()
  private let mapper: UserspaceDeviceMapper

  init() throws {
    folder = try ScratchFolder()
    loop = try EventLoop()
    loop.holdTime()
    let (queue, workers) = (try IOQueue(loop), try Workers(loop))
    let mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    let exports = exports
    let server = BlockServer(loop, exports: exports)
    self.mapper = mapper
    door = try MetricsDoor(folder.file("m"), loop) { MetricsText(mapper, server, exports) }
  }

  private func client(_ text: String) -> Int32 {
    let descriptor = dmthin_stream_socket(AF_UNIX)
    #expect(dmthin_connect_unix(descriptor, folder.file("m")) == 0)
    #expect(send(descriptor, text, text.utf8.count, 0) == text.utf8.count)
    return descriptor
  }

  /// What the server has said until it hung up; nil where it does not.
  private func answer(_ descriptor: Int32) -> String? {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    for _ in 0..<200 {
      loop.pass()
      let n = recv(descriptor, &chunk, chunk.count, 0)
      if n == 0 || n < 0 && errno != EAGAIN {
        close(descriptor)
        return String(decoding: bytes, as: UTF8.self)
      }
      if n > 0 { bytes += chunk[..<n] }
    }
    return nil
  }

  @Test("The text is made a piece at a time, and once for all clients within a second")
  func cached() throws {
    for index in 0..<300 {
      mapper.create(
        DeviceCreation(
          name: "z\(index)",
          table: [TableLine(start: 0, length: 64, type: "zero", parameters: "")])
      ) { _ in }
    }
    for _ in 0..<5 { loop.pass() }
    let first = client("GET /metrics HTTP/1.0\r\n\r\n")
    let second = client("GET /metrics HTTP/1.0\n\n")
    let before = loop.passes
    let text = try #require(answer(first))
    #expect(text.hasPrefix("HTTP/1.1 200 OK\r\n") && text.contains("dmthin_nbd_reads_total 0\n"))
    // 300 devices are more than a step looks at.
    #expect(loop.passes - before > 5)
    #expect(answer(second) == text)
    #expect(door.textsMade == 1)
    loop.skip(1_100_000_000)
    #expect(answer(client("GET /metrics HTTP/1.0\r\n\r\n")) == text)
    #expect(door.textsMade == 2)
  }

  @Test("A client without a request is disconnected after a while")
  func idle() {
    let idle = client("GET /met")
    #expect(answer(idle) == nil)
    loop.skip(11_000_000_000)
    #expect(answer(idle) == "")
  }

  /// Exports with names as long as names can be.
  private func offer(_ count: Int) {
    for index in 0..<count {
      let name = "\(index) " + String(repeating: "x", count: 4000)
      exports.add(Export(name: name, destination: BlockDestination(loop)))
    }
  }

  @Test("A text that is too long is cut, after pools and the server itself")
  func cut() throws {
    offer(700)
    let text = try #require(answer(client("GET /metrics HTTP/1.0\r\n\r\n")))
    #expect(text.utf8.count < 2_200_000)
    #expect(text.contains("dmthin_nbd_reads_total 0\n"))
    #expect(text.hasSuffix("dmthin_metrics_cut 1\n"))
  }

  @Test("While a slow client receives an earlier text, the others get the last one")
  func twoTexts() throws {
    // More than a socket takes.
    offer(300)
    let slow = client("GET /metrics HTTP/1.0\r\n\r\n")
    for _ in 0..<50 { loop.pass() }
    #expect(door.textsMade == 1)
    for _ in 0..<3 {
      loop.skip(1_100_000_000)
      #expect(answer(client("GET /metrics HTTP/1.0\r\n\r\n")) != nil)
    }
    #expect(door.textsMade == 2)
    #expect(answer(slow) != nil)
    #expect(answer(client("GET /metrics HTTP/1.0\r\n\r\n")) != nil)
    #expect(door.textsMade == 3)
  }
}
