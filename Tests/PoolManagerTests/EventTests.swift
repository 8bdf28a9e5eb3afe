import DeviceMapper
import TestSupport
import Testing
import ThinTools

@testable import PoolManager

@Suite struct EventTests {
  private let details = ThinPoolStatus.Details(
    transactionID: 0, metadata: BlockUsage(used: 20, total: 1024),
    data: BlockUsage(used: 100, total: 1600), metadataLowWater: 256)

  private func observation(
    _ number: UInt32 = 0, _ change: (inout ThinPoolStatus.Details) -> Void = { _ in }
  ) -> PoolObservation {
    var details = details
    change(&details)
    return PoolObservation(eventNumber: number, status: .working(details), lowWaterBlocks: 10)
  }

  private func kinds(_ events: [PoolEvent]) -> [PoolEvent.Kind] { events.map(\.kind) }

  @Test("every change of state is an event, and no change is none")
  func changes() {
    let quiet = observation()
    #expect(observation().events(since: quiet) == [])
    let low = observation(1) { $0.data.used = 1590 }
    #expect(kinds(low.events(since: quiet)) == [.lowData])
    #expect(observation(1) { $0.data.used = 1591 }.events(since: low) == [])
    let lowMetadata = observation(1) { $0.metadata.used = 1000 }
    #expect(kinds(lowMetadata.events(since: quiet)) == [.lowMetadata])
    let full = observation(2) {
      ($0.mode, $0.data.used, $0.noSpace) = (.outOfDataSpace, 1600, .error)
    }
    #expect(kinds(full.events(since: low)) == [.mode, .noSpacePolicy])
    let broken = observation(3) { ($0.mode, $0.needsCheck) = (.readOnly, true) }
    #expect(kinds(broken.events(since: quiet)) == [.mode, .needsCheck])
    var failed = quiet
    failed.status = .failed
    #expect(failed.events(since: quiet) == [PoolEvent(.mode, "mode rw -> fail")])
    #expect(quiet.events(since: failed) == [PoolEvent(.mode, "mode fail -> rw")])
  }

  @Test("an unexplained event of the kernel is reported, and a repeated mark again")
  func unexplained() {
    #expect(kinds(observation(1).events(since: observation())) == [.other])
    let low = observation(4) { $0.data.used = 1600 }
    #expect(kinds(observation(5) { $0.data.used = 1600 }.events(since: low)) == [.lowData])
  }

  @Test("numbers of any size are compared without a trap")
  func extremes() {
    let odd = observation {
      ($0.data, $0.metadata) = (BlockUsage(used: .max, total: 0), BlockUsage(used: .max, total: 1))
    }
    _ = odd.events(since: observation(.max))
    _ = observation().events(since: odd)
  }

  @Test("a watch reports pools that appear, change and disappear, in order")
  func watch() throws {
    let scene = try Scene()
    let manager = scene.manager()
    let watch = try PoolWatch(manager, [])
    #expect(try watch.next(milliseconds: 0).isEmpty)
    scene.backend.happenings = [
      {
        $0.state.pools["7:0"]?.status.mode = .readOnly; $0.state.devices["p"]?.eventNumber = 1
      },
      { _ in },
      { $0.state.devices["q"] = $0.state.devices["p"] },
      { $0.state.devices["q"] = nil },
    ]
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.mode])
    let appeared = try watch.next(milliseconds: nil)
    #expect(appeared.map(\.pool) == ["q"] && appeared.map(\.1.kind) == [.appeared])
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.removed])
    #expect(try watch.next(milliseconds: 0).isEmpty)
  }

  @Test(
    "pools of several places are watched together; if a place goes, the others are still watched")
  func places() throws {
    let (kernel, server) = (try Scene(), try Scene())
    let watch = try PoolWatch([(kernel.manager(), []), (server.manager(), ["p"])])
    #expect(watch.count == 2)
    #expect(try watch.next(milliseconds: 0).isEmpty)
    kernel.backend.happenings = [{ $0.state.pools["7:0"]?.status.mode = .readOnly }]
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.mode])
    server.backend.happenings = [{ $0.state.pools["7:0"]?.status.needsCheck = true }]
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.needsCheck])
    server.backend.happenings = [{ $0.reset(.from(1)) }]
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.removed])
    #expect(server.warnings.last?.contains("no longer watched") == true)
    kernel.backend.happenings = [{ $0.state.devices["q"] = $0.state.devices["p"] }]
    #expect(try watch.next(milliseconds: nil).map(\.pool) == ["q"])
  }

  @Test("a watch of named pools ends when the last one has gone")
  func named() throws {
    let scene = try Scene()
    let watch = try PoolWatch(scene.manager(), ["p"])
    scene.backend.happenings = [
      {
        $0.state.devices["t1"] = nil; $0.state.devices["t2"] = nil; $0.state.devices["p"] = nil
      }
    ]
    #expect(try watch.next(milliseconds: nil).map(\.1.kind) == [.removed])
    #expect(watch.count == 0)
    #expect(try watch.next(milliseconds: nil).isEmpty)
    #expect(refusal { _ = try PoolWatch(scene.manager(), ["nothing"]) }?.cause == .notFound(.input))
  }
}
