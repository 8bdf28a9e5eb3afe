import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Targets
import Testing

// example: a pool in user space with one volume of 1 GiB, by the kernel's table lines
func makeVolume(_ host: ExampleHost) throws -> UserspaceBackend {
  let mapper = UserspaceBackend(
    UserspaceDeviceMapper(loop: host.loop, queue: host.queue, workers: host.workers),
    loop: host.loop)
  let pool = TableLine(
    start: 0, length: 131_072, type: "thin-pool", parameters: "memory:1m memory:64m 128 0")
  try mapper.create(DeviceCreation(name: "pool", table: [pool]))
  _ = try mapper.message(.name("pool"), sector: 0, "create_thin 1")
  let volume = TableLine(start: 0, length: 2_097_152, type: "thin", parameters: "pool 1")
  try mapper.create(DeviceCreation(name: "volume", table: [volume]))
  return mapper
}
// end

@Suite("Examples of the library Targets")
struct TargetsExample {
  @Test("a volume of a pool in user space is written, and found in the pool's status")
  func example() throws {
    let host = try ExampleHost()
    defer { host.close() }
    // example: the volume is a destination of requests like a disk
    let backend = try makeVolume(host)
    let volume = try backend.mapper.open("volume", readOnly: false)
    let buffer = AlignedBuffer(count: 4096)
    let write = Transfer()
    write.begin(.write, volume.destination, at: 1 << 20, buffer)
    host.loop.run(within: 10_000_000_000) { write.error != nil }
    // end
    #expect(write.error == 0)
    #expect(
      try backend.status(.name("volume"), [])?.lines.map(\.parameters)
        == ["128 \((1 << 20) / 512 + 127)"])
    volume.close()
    backend.mapper.removeAll()
  }
}
