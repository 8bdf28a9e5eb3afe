import DeviceMapper
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import PoolManager

@Suite struct RecoveryTests {
  private let scene: Scene

  init() throws { scene = try Scene() }

  /// A process that has ended; no process has the number 0.
  private static let gone = ProcessIdentity(
    id: Int32.max, start: 1, boot: ProcessIdentity.currentBoot)

  /// An intent on a device in its present state, of a process that has ended.
  private func intent(
    _ name: String, swaps: Bool = false, owner: ProcessIdentity = gone, created: [ThinID] = []
  ) throws -> Intent {
    let found = try #require(try scene.backend.table(.name(name), []))
    return Intent(
      owner: owner, pool: "p", action: "snapshot",
      devices: [Intent.Device(found.info, found.lines, swaps: swaps)], created: created)
  }

  private func leave(_ intent: Intent) throws {
    try scene.run.save(intent.text, "7:0", .intent)
    try scene.backend.suspend(.name("t1"), [])
  }

  @Test("an intent is unchanged after writing and reading")
  func roundTrip() throws {
    var intent = try intent("p", swaps: true, created: [0, 5, ThinID(.max)])
    intent.pool = "a b\\c\nd"
    intent.action = "resize\u{7f} ü"
    intent.devices[0].name = "x \n y"
    intent.devices[0].oldTable = [
      TableLine(start: 0, length: 8, type: "thin", parameters: ""),
      TableLine(start: 8, length: .max, type: "thin-pool", parameters: " 7:0  1 "),
    ]
    let other = try #require(try scene.backend.table(.name("t1"), []))
    intent.devices.append(Intent.Device(other.info, other.lines))
    #expect(Intent(intent.text) == intent)
  }

  @Test("an intent that was truncated or changed is refused or parsed, and never traps")
  func hostile() throws {
    let text = try intent("p", swaps: true, created: [7]).text
    for length in 0..<text.utf8.count {
      #expect(Intent(String(decoding: text.utf8.prefix(length), as: UTF8.self)) == nil)
    }
    var random = SplitMix64(seed: 4)
    for _ in 0..<20_000 {
      var bytes = Array(text.utf8)
      for _ in 0...(random.next() % 3) {
        bytes[Int(random.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.next())
      }
      _ = Intent(String(decoding: bytes, as: UTF8.self))
      _ = Lease(String(decoding: bytes, as: UTF8.self))
    }
  }

  @Test("a file that is not an intent is reported once, and stops no verb")
  func damaged() throws {
    let texts = ["", "\n", "dmthin intent 1\nend\n", try String(intent("t1").text.dropLast(3))]
    for text in texts {
      scene.forgetWords()
      try scene.run.save(text, "7:0", .intent)
      let manager = scene.manager()
      try manager.createThin(manager.pool("p"), 50...50)
      #expect(scene.warnings.count == 1 && scene.warnings[0].contains("is removed"))
      #expect(scene.files(.intent) == [:])
      try manager.delete(manager.pool("p"), 50...50)
      #expect(scene.warnings.count == 1)
    }
  }

  @Test("a renamed device is resumed too")
  func renamed() throws {
    try leave(intent("t1"))
    try scene.backend.rename(.name("t1"), to: "elsewhere")
    scene.manager().recover()
    #expect(scene.suspended == [])
    #expect(scene.notes.contains { $0.contains("resumed elsewhere, left by 'snapshot'") })
  }

  @Test(
    "a device that cannot be resumed keeps no other one suspended, and is reported until it can")
  func stuck() throws {
    var intent = try intent("t1")
    intent.devices += try self.intent("t2").devices
    try leave(intent)
    try scene.backend.suspend(.name("t2"), [])
    let table = scene.backend.state.devices["t1"]?.live
    scene.backend.refusesToRun = { $0 == table }
    let manager = scene.manager()
    for _ in 0..<2 {
      let error = refusal { try manager.createThin(manager.pool("p"), 50...50) }
      #expect(error?.message.contains("or run: dmthin dm resume t1") == true)
      #expect(scene.suspended == ["t1"] && !scene.pool.thins.contains(50))
    }
    scene.backend.refusesToRun = { _ in false }
    try manager.createThin(manager.pool("p"), 50...50)
    #expect(scene.suspended == [] && scene.files(.intent) == [:])
  }

  @Test("another device with the same number is left alone")
  func another() throws {
    var intent = try intent("t1")
    intent.devices[0].name = "t9"
    intent.devices[0].digest ^= 1
    try leave(intent)
    scene.manager().recover()
    #expect(scene.suspended == ["t1"])
    #expect(scene.files(.intent) == [:])
  }

  @Test("an intent from before the last boot resumes nothing")
  func otherBoot() throws {
    try leave(intent("t1", owner: ProcessIdentity(id: 1, start: 1, boot: "another")))
    scene.manager().recover()
    #expect(scene.suspended == ["t1"])
    #expect(scene.files(.intent) == [:])
  }

  @Test("the intent of a running verb is left alone")
  func running() throws {
    let parent = try #require(ProcessIdentity(running: getppid()))
    try leave(intent("t1", owner: parent))
    let manager = scene.manager()
    let error = refusal { try manager.createThin(manager.pool("p"), 50...50) }
    #expect(error?.isInUse == true && error?.message.contains("process \(parent.id)") == true)
    #expect(scene.suspended == ["t1"] && scene.pool.thins.contains(50) == false)
    #expect(scene.files(.intent).count == 1)
  }

  @Test("a verb waits for another process's lock only for a limited time")
  func locked() throws {
    let lock = try #require(try scene.run.lock("7:0", seconds: 0))
    let manager = scene.manager()
    #expect(refusal { try manager.createThin(manager.pool("p"), 50...50) }?.isInUse == true)
    withExtendedLifetime(lock) {}
  }

  @Test("the lock of a pool is the same under any name")
  func renamedPool() throws {
    let lock = try #require(try scene.run.lock("7:0", seconds: 0))
    try scene.backend.rename(.name("p"), to: "other")
    let manager = scene.manager()
    #expect(refusal { try manager.createThin(manager.pool("other"), 50...50) }?.isInUse == true)
    withExtendedLifetime(lock) {}
  }

  @Test("after a killed exchange of tables the old table is restored")
  func killedSwap() throws {
    let intent = try intent("t1", swaps: true)
    let bad = [scene.line("thin", "254:0 1", sectors: 4)]
    // Killed after the load, after the kernel refused the new table, and after it succeeded.
    for stage in 0...2 {
      try scene.run.save(intent.text, "7:0", .intent)
      try scene.backend.load(.name("t1"), bad, readOnly: false)
      if stage == 1 {
        scene.backend.refusesToRun = { $0 == bad }
        #expect(throws: DeviceMapperError.self) {
          try scene.backend.resume(.name("t1"), [], node: NodeOptions())
        }
      }
      if stage == 2 {
        scene.backend.refusesToRun = { _ in false }
        try scene.backend.resume(.name("t1"), [], node: NodeOptions())
      }
      scene.manager().recover()
      #expect(scene.suspended == [] && scene.files(.intent) == [:], "stage \(stage)")
      let device = scene.backend.state.devices["t1"]
      #expect(device?.inactive == nil, "stage \(stage)")
      #expect(device?.live == (stage == 2 ? bad : intent.devices[0].oldTable), "stage \(stage)")
    }
  }

  @Test("devices that others have suspended, or given an inactive table, are not changed")
  func others() throws {
    let manager = scene.manager()
    try scene.backend.suspend(.name("t1"), [])
    try manager.snapshot(manager.pool("p"), [SnapshotVolume(origin: 1, new: 20)])
    #expect(scene.suspended == ["t1"])
    try manager.resizeThin("t1", sectors: 16384)
    #expect(scene.suspended == ["t1"] && scene.notes.last?.contains("when it is resumed") == true)
    let error = refusal { try manager.resizeThin("t1", sectors: 32768) }
    #expect(error?.isInUse == true)
    let waiting = [scene.line("thin", "254:0 2", sectors: 8)]
    try scene.backend.load(.name("t2"), waiting, readOnly: false)
    let refused = refusal {
      try manager.snapshot(manager.pool("p"), [SnapshotVolume(origin: 2, new: 21)])
    }
    #expect(refused?.message.contains("dmthin dm clear t2") == true)
    #expect(scene.backend.state.devices["t2"]?.inactive == waiting)
    #expect(!scene.pool.thins.contains(21))
  }
}
