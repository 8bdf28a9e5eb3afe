import BlockIO
import DeviceMapper
import Glibc
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import PoolManager

@Suite struct LeaseTests {
  private let scene: Scene
  private let manager: PoolManager

  init() throws {
    scene = try Scene()
    manager = scene.manager()
  }

  private func request(_ owner: String, takesOver: Bool = false) -> LeaseRequest {
    var request = LeaseRequest(owner: owner)
    request.takesOver = takesOver
    return request
  }

  private func reserve(_ request: LeaseRequest) throws -> MetadataBlock {
    try manager.reserveMetadataSnapshot(manager.pool("p"), request)
  }

  @Test("a lease is unchanged after writing and reading, and refused if truncated")
  func roundTrip() throws {
    let lease = Lease(
      owner: "a\nb \\", holder: .current, boot: "b", taken: 5, seconds: .max,
      heldRoot: MetadataBlock(.max))
    #expect(Lease(lease.text) == lease)
    for length in 0..<lease.text.utf8.count {
      #expect(Lease(String(decoding: lease.text.utf8.prefix(length), as: UTF8.self)) == nil)
    }
    #expect(Lease(lease.text.replacing("taken 5", with: "taken 5\ntaken 6")) == nil)
  }

  @Test("a metadata snapshot belongs to its owner until the lease ends or is taken over")
  func ownership() throws {
    #expect(try reserve(request("backup")) == 7)
    let refused = refusal { _ = try reserve(request("other")) }
    #expect(refused?.isInUse == true && refused?.message.contains("'backup' holds") == true)
    let release = refusal {
      try manager.releaseMetadataSnapshot(manager.pool("p"), owner: "other")
    }
    #expect(release?.message.contains("--owner backup") == true)
    #expect(try reserve(request("other", takesOver: true)) == 7)
    try manager.releaseMetadataSnapshot(manager.pool("p"), owner: "other")
    #expect(scene.pool.status.heldRoot == nil && scene.files(.lease) == [:])
  }

  @Test("a lease ends with its process, its time, its boot, or its metadata snapshot")
  func faults() {
    let boot = ProcessIdentity.currentBoot
    var lease = Lease(
      owner: "x", holder: .current, boot: boot, taken: 100, seconds: 10, heldRoot: 7)
    #expect(lease.fault(now: 109, heldRoot: 7) == nil)
    #expect(lease.fault(now: 110, heldRoot: 7)?.contains("10 seconds has passed") == true)
    #expect(lease.fault(now: 99, heldRoot: 7)?.contains("taken later than now") == true)
    #expect(lease.fault(now: 105, heldRoot: 8)?.contains("another metadata snapshot") == true)
    lease.holder = ProcessIdentity(id: getpid(), start: 1, boot: boot)
    #expect(lease.fault(now: 105, heldRoot: 7)?.contains("has ended") == true)
    lease.holder = nil
    lease.boot = "another"
    #expect(lease.fault(now: 105, heldRoot: 7)?.contains("last boot") == true)
  }

  @Test("a lease's time is counted from boot, independent of the clock of day")
  func clock() throws {
    var short = request("short")
    short.seconds = 3600
    _ = try reserve(short)
    let lease = try #require(try manager.lease(manager.pool("p")))
    let uptime = try #require(WholeFile.systemText("/proc/uptime"))
    let seconds = try #require(UInt64(uptime.prefix { $0 != "." }))
    #expect(lease.taken <= seconds && lease.taken + 600 >= seconds)
    // A time from the clock of day, by an old program or a wrong clock, ends the lease too.
    var late = lease
    late.taken = UInt64(time(nil))
    #expect(late.fault(now: Lease.now(), heldRoot: 7) != nil)
  }

  @Test("an ended lease is taken over automatically, an unreadable one is not")
  func stale() throws {
    var short = request("short")
    short.seconds = 0
    _ = try reserve(short)
    _ = try reserve(request("next"))
    #expect(scene.notes.contains { $0.contains("from 'short': its limit") })
    try scene.run.save("dmthin lease 2\nowner", "7:0", .lease)
    let error = refusal { _ = try reserve(request("third")) }
    #expect(error?.message.contains("its owner is unknown") == true)
    #expect(try reserve(request("third", takesOver: true)) == 7)
  }

  @Test("a lease stays with its pool after a rename, and after the next activation")
  func renamed() throws {
    _ = try reserve(request("backup"))
    try scene.backend.rename(.name("p"), to: "renamed")
    #expect(try manager.lease(manager.pool("renamed"))?.owner == "backup")
    try manager.deactivate("renamed", all: true)
    try scene.backend.create(
      DeviceCreation(
        name: "again", table: [scene.line("thin-pool", "7:0 7:1 128 10 0 ", sectors: 204800)]))
    let lease = try #require(try manager.lease(manager.pool("again")))
    let held = scene.pool.status.heldRoot.map { MetadataBlock($0) }
    #expect(lease.fault(now: lease.taken, heldRoot: held) == nil)
  }

  @Test("a new pool inherits no lease from its metadata device")
  func notInherited() throws {
    try scene.run.save(
      Lease(owner: "x", holder: nil, boot: "b", taken: 1, seconds: nil, heldRoot: 7).text, "7:2",
      .lease)
    _ = try manager.create(scene.activation())
    #expect(scene.files(.lease) == [:])
  }
}
