import DataPath
import DeviceMapper
import EventLoop
import Simulation
import Targets
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

private let block = blockBytes

@Suite("Discards of very many blocks")
struct DiscardTurnTests {
  /// Metadata of a pool whose thin device 1 has `count` blocks, `step` apart.
  private func made(_ count: UInt64, step: UInt64) throws -> [UInt8] {
    let device = MemoryDevice(byteCount: 4 << 20)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: count)
    try pool.commit()
    try pool.createThin(1)
    try pool.openDevice(1)
    for number in 0..<count {
      try pool.insert(
        1, VirtualBlock(number * step), dataBlock: try pool.allocateDataBlock())
    }
    try pool.commit()
    var bytes = zeros(4 << 20)
    try bytes.withUnsafeMutableBytes { try device.read(into: $0, at: 0) }
    return bytes
  }

  /// Discards all of thin device 1. Returns the number of blocks still mapped after each pass of
  /// the loop in which some were unmapped.
  /// some were unmapped.
  private func discard(_ world: World, _ blocks: Int) throws -> [UInt64] {
    let request = try world.start(.discard, "thin1", count: blocks * block)
    var left: [UInt64] = []
    for _ in 0..<100_000 where !request.isDone {
      world.loop.pass()
      let now = try world.pool().data.used
      if now != left.last { left.append(now) }
    }
    #expect(request.isDone && request.error == 0)
    return left
  }

  @Test("they are spread over passes of the loop, passed down or not, and end with all unmapped")
  func spread() throws {
    let scattered = try World()
    try scattered.makePool(meta: try made(512, step: 2), data: zeros(512 * block))
    try scattered.activate(1, bytes: 1024 * block)
    // Querying commits, which is not part of a pass.
    var left = try discard(scattered, 1024)
    #expect(left.count > 6 && left.last == 0, "\(left)")
    #expect(scattered.disks["data"]?.count(.discard) == 512)
    #expect(try scattered.checkedAtEnd().findings.isEmpty)

    let whole = try World()
    try whole.add("meta", MemoryDisk(whole.loop, bytes: try made(12_000, step: 1), seed: 1))
    try whole.create("data", [whole.line(12_000 * 128, "zero", "")])
    try whole.create(
      "pool",
      [
        whole.line(
          12_000 * 128, "thin-pool", "\(whole.path("meta")) data 128 0 1 no_discard_passdown")
      ])
    try whole.activate(1, bytes: 12_000 * block)
    left = try discard(whole, 12_000)
    #expect(left.count > 3 && left.last == 0, "\(left)")
    #expect(try whole.checkedAtEnd().findings.isEmpty)
  }
}
