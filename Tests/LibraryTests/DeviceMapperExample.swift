import DataPath
import DeviceMapper
import EventLoop
import Targets
import Testing

// example: how full a pool is, and whether it can still be written to
func summary(ofPool name: String, _ mapper: any DeviceMapperBackend) throws -> String? {
  guard let device = try mapper.status(.name(name), [.noFlush]),
    let line = device.lines.first, line.type == "thin-pool",
    let status = ThinPoolStatus(line.parameters)
  else { return nil }
  guard case .working(let pool) = status else { return "\(name) has failed" }
  let percent = pool.data.used * 100 / max(1, pool.data.total)
  return "\(name): \(percent) % of \(pool.data.total) data blocks in use, \(pool.mode.rawValue)"
}
// end

@Suite("Examples of the library DeviceMapper")
struct DeviceMapperExample {
  @Test("a pool's status is read through a backend")
  func example() throws {
    let host = try ExampleHost()
    defer { host.close() }
    let backend = try makeVolume(host)
    #expect(try summary(ofPool: "pool", backend) == "pool: 0 % of 1024 data blocks in use, rw")
    #expect(try summary(ofPool: "volume", backend) == nil)
    #expect(try summary(ofPool: "nothing", backend) == nil)
    backend.mapper.removeAll()
  }
}
