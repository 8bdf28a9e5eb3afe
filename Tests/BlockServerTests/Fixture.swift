import BlockServer
import DataPath
import EventLoop
import ServerSimulation
import Simulation

/// A server over memory, with one export, `volume`, of 1 MiB by default.
final class Fixture {
  let loop: EventLoop
  let exports = ExportList()
  let volume: MemoryDestination
  let server: BlockServer

  init(
    byteCount: Int = 1 << 20, seed: UInt64? = nil, readOnly: Bool = false,
    limits: ServerLimits = ServerLimits()
  ) throws {
    loop = try EventLoop()
    loop.holdTime()
    volume = MemoryDestination(loop, byteCount: byteCount, seed: seed)
    exports.add(
      Export(
        name: "volume", summary: "in memory", destination: volume, isReadOnly: readOnly))
    server = BlockServer(loop, exports: exports, limits: limits)
  }

  func client() -> NBDClient { NBDClient(server, loop) }

  /// A client past the handshake.
  func connected(structured: Bool = true, status: Bool = false) -> NBDClient {
    let client = client()
    client.connect("volume", structured: structured, status: status)
    return client
  }

  func pass(_ count: Int = 10) {
    for _ in 0..<count { loop.pass() }
  }
}

/// Bytes that differ from place to place: random ones, repeated in a period that fits no block.
func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var random = SplitMix64(seed: seed)
  var bytes = (0..<min(count, 4099)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
  while bytes.count < count { bytes += bytes.prefix(count - bytes.count) }
  return bytes
}
