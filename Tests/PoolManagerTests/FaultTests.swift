import DeviceMapper
import Glibc
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import PoolManager

/// A verb, and the preparation that it needs.
struct Verb: Sendable, CustomTestStringConvertible {
  var name: String
  var prepare: @Sendable (Scene) throws -> Void = { _ in }
  var run: @Sendable (Scene, PoolManager) throws -> Void
  var testDescription: String { name }

  static var all: [Verb] {
    [
      Verb(name: "create-thin of a range") { try $1.createThin($1.pool("p"), 10...12) },
      Verb(name: "create-thin and activate") {
        try $1.createThin(
          $1.pool("p"), 10...10, activate: ThinActivation(name: "t10", id: 10, sectors: 80))
      },
      Verb(name: "snapshot of two active devices and another") {
        try $1.snapshot(
          $1.pool("p"), [(1, 11), (2, 12), (3, 13)].map { SnapshotVolume(origin: $0, new: $1) })
      },
      Verb(name: "snapshot and activate") {
        try $1.snapshot(
          $1.pool("p"), [SnapshotVolume(origin: 1, new: 11)],
          activate: ThinActivation(name: "s", id: 11, sectors: 80))
      },
      Verb(name: "activate-thin") {
        try $1.activateThin($1.pool("p"), ThinActivation(name: "t3", id: 3, sectors: 80))
      },
      Verb(name: "deactivate a thin device") { try $1.deactivate("t1") },
      Verb(name: "deactivate --all") { try $1.deactivate("p", all: true) },
      Verb(name: "delete --deactivate") { try $1.delete($1.pool("p"), 1...3, deactivates: true) },
      Verb(name: "resize") { try $1.resizeThin("t1", sectors: 16384) },
      Verb(name: "grow", prepare: { $0.sizes["7:1"] = 409600 }) { _ = try $1.grow($1.pool("p")) },
      Verb(name: "features") {
        try $1.changeFeatures($1.pool("p"), enable: [.errorIfNoSpace], disable: [])
      },
      Verb(name: "set-transaction-id") { try $1.setTransactionID($1.pool("p"), from: 0, to: 9) },
      Verb(name: "reserve-metadata-snap") {
        _ = try $1.reserveMetadataSnapshot($1.pool("p"), LeaseRequest(owner: "backup"))
      },
      Verb(
        name: "reserve-metadata-snap --take-over",
        prepare: {
          let manager = $0.manager()
          _ = try manager.reserveMetadataSnapshot(manager.pool("p"), LeaseRequest(owner: "old"))
        }
      ) {
        var request = LeaseRequest(owner: "new")
        request.takesOver = true
        _ = try $1.reserveMetadataSnapshot($1.pool("p"), request)
      },
      Verb(
        name: "release-metadata-snap",
        prepare: {
          let manager = $0.manager()
          _ = try manager.reserveMetadataSnapshot(manager.pool("p"), LeaseRequest(owner: "old"))
        }
      ) { try $1.releaseMetadataSnapshot($1.pool("p"), owner: "old") },
      Verb(name: "create") { _ = try $1.create($0.activation()) },
      Verb(name: "activate", prepare: { try $0.format() }) {
        _ = try $1.activatePool($0.activation())
      },
    ]
  }
}

/// The differences between two states that `message` does not mention.
func unmentioned(_ before: Scene, _ then: FakeDeviceMapper.State, _ message: String) -> [String] {
  let now = before.backend.state
  var found: [String] = []
  func require(_ difference: Bool, _ what: String, _ words: String...) {
    if difference && !words.contains(where: { message.contains($0) }) { found.append(what) }
  }
  for name in Set(now.devices.keys).union(then.devices.keys) {
    guard let device = now.devices[name] else {
      require(!message.contains("already deactivated: \(name)"), "\(name) is gone", ", \(name)")
      continue
    }
    guard let old = then.devices[name] else {
      found.append("\(name) was made")
      continue
    }
    let unknown = "the state of \(name) cannot be read"
    require(
      device.isSuspended != old.isSuspended, "\(name) is suspended", "\(name) is still suspended",
      unknown)
    require(device.inactive != nil, "\(name) has an inactive table", "dm clear \(name)", unknown)
    require(
      device.live != old.live, "\(name) has a new table", "dm reload \(name) --table", unknown,
      "the new table is in use", "\(name) was extended")
  }
  for (key, pool) in then.pools {
    let thins = now.pools[key]?.thins ?? []
    for id in thins.subtracting(pool.thins) {
      require(
        true, "\(id) was made", "delete it with: dmthin pool delete p \(id)",
        "the snapshots were taken and are kept: 11, 12, 13",
        "the snapshots were taken and are kept: 11")
    }
    for id in pool.thins.subtracting(thins) {
      require(
        true, "\(id) was deleted", "already deleted: 1 to \(id)", "already deleted: 1 to 3",
        "already deleted: 1 to 2")
    }
    let held = (pool.status.heldRoot, now.pools[key]?.status.heldRoot)
    require(
      held.0 == nil && held.1 != nil, "a metadata snapshot is held", "release-metadata-snap p")
    require(held.0 != nil && held.1 == nil, "the metadata snapshot is gone", "was released")
    require(
      pool.status.transactionID != now.pools[key]?.status.transactionID,
      "the transaction id has changed")
  }
  return found
}

@Suite struct FaultTests {
  /// Runs `verb` in a new scene.
  private func run(_ verb: Verb, _ fault: FakeDeviceMapper.Fault) throws
    -> (scene: Scene, before: FakeDeviceMapper.State, error: ToolError?)
  {
    let scene = try Scene()
    try verb.prepare(scene)
    let before = scene.backend.state
    scene.backend.reset(fault)
    let error = refusal { try verb.run(scene, scene.manager()) }
    return (scene, before, error)
  }

  /// Requires that the next verb leaves nothing suspended and no file behind.
  private func expectSettled(
    _ scene: Scene, _ before: FakeDeviceMapper.State, _ what: Comment
  ) {
    scene.backend.reset()
    scene.manager().recover()
    #expect(scene.suspended == [], what)
    #expect(scene.files(.intent) == [:], what)
    for (name, device) in scene.backend.state.devices {
      #expect(device.inactive == nil, "\(what): \(name) has an inactive table")
    }
    #expect(scene.backend.torn == [], what)
  }

  @Test(
    "a verb in which any one call fails undoes what it did or says what stands", arguments: Verb.all
  )
  func oneFault(_ verb: Verb) throws {
    let sound = try run(verb, .none)
    #expect(
      sound.error == nil && sound.scene.suspended.isEmpty && sound.scene.files(.intent).isEmpty)
    let hasNewLease = sound.scene.files(.lease).values.contains { $0.contains("owner new") }
    #expect(sound.scene.backend.state != sound.before || hasNewLease, "it does nothing")
    let calls = sound.scene.backend.calls
    try #require(calls > 0)
    for call in 1...calls {
      for fault in [FakeDeviceMapper.Fault.at(call), .after(call)] {
        let (scene, before, error) = try run(verb, fault)
        if let error {
          #expect(unmentioned(scene, before, error.message) == [], "\(fault): \(error.message)")
        } else {
          #expect(scene.backend.state == sound.scene.backend.state, "\(fault)")
        }
        expectSettled(scene, before, "\(fault)")
      }
    }
  }

  @Test(
    "a verb whose backend stops answering says what stands, and the next one puts it right",
    arguments: Verb.all)
  func allFault(_ verb: Verb) throws {
    let calls = try run(verb, .none).scene.backend.calls
    for call in 1...max(1, calls) {
      let (scene, before, error) = try run(verb, .from(call))
      #expect(
        unmentioned(scene, before, error?.message ?? "") == [],
        "from \(call): \(error?.message ?? "none")")
      expectSettled(scene, before, "from \(call)")
    }
  }

  @Test(
    "what a killed verb leaves suspended the next verb resumes, with the old table or the new",
    arguments: Verb.all)
  func death(_ verb: Verb) throws {
    let sound = try run(verb, .none)
    for call in 1...max(1, sound.scene.backend.calls) {
      let scene = try Scene()
      try verb.prepare(scene)
      let before = scene.backend.state
      var left: [String: String] = [:]
      scene.backend.atDeath = { [unowned scene] in left = scene.files(.intent) }
      scene.backend.reset(.death(call))
      _ = refusal { try verb.run(scene, scene.manager()) }
      for (key, text) in left { try scene.run.save(text, key, .intent) }
      expectSettled(scene, before, "killed before call \(call)")
      for (name, device) in scene.backend.state.devices {
        let tables = [before, sound.scene.backend.state].map { $0.devices[name]?.live }
        #expect(tables.contains(device.live), "killed before call \(call): \(name)")
      }
      // Snapshots that were not reported get at least a warning.
      for id in scene.pool.thins.subtracting(before.pools["7:0"]?.thins ?? []) where !left.isEmpty {
        #expect(scene.warnings.contains { $0.contains("\(id)") }, "killed before call \(call)")
      }
    }
  }

  @Test(
    "a run folder that cannot be written to stops a verb before it changes anything",
    arguments: Verb.all)
  func noRunFolder(_ verb: Verb) throws {
    let scene = try Scene()
    try verb.prepare(scene)
    let before = scene.backend.state
    let manager = PoolManager(scene.backend, runFolder: RunFolder("\(scene.folder.path)/no/folder"))
    manager.devices = scene.manager().devices
    let error = refusal { try verb.run(scene, manager) }
    #expect(error?.message.contains("cannot create") == true)
    #expect(scene.backend.state == before)
  }

  @Test("a table with which a device does not run makes way for the old one")
  func putBack() throws {
    for verb in Verb.all where ["resize", "grow", "features"].contains(verb.name) {
      let scene = try Scene()
      try verb.prepare(scene)
      let before = scene.backend.state
      let old = before.devices.values.map(\.live)
      scene.backend.refusesToRun = { !old.contains($0) }
      let error = refusal { try verb.run(scene, scene.manager()) }
      #expect(error?.message.contains("the old table is in use") == true)
      #expect(scene.backend.state == before, "\(verb.name)")
      #expect(scene.files(.intent) == [:])
    }
  }

  @Test("a pool that cannot be activated leaves the metadata device empty")
  func wiped() throws {
    let scene = try Scene()
    let path = scene.folder.file("meta2")
    scene.backend.atActivation = {
      let fd = open(path, O_WRONLY | O_CLOEXEC)
      _ = write(fd, "formatted", 9)
      close(fd)
    }
    scene.backend.refusesToRun = { $0.first?.type == "thin-pool" }
    #expect(
      refusal { _ = try scene.manager().create(scene.activation()) }?.cause
        == .command(code: EINVAL))
    #expect(try scene.firstBlockIsZero("meta2"))
    scene.backend.refusesToRun = { _ in false }
    _ = try scene.manager().create(scene.activation())
    #expect(try !scene.firstBlockIsZero("meta2"))
  }
}
