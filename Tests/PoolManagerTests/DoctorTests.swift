import BlockIO
import DeviceMapper
import TestSupport
import Testing
import ThinTools

@testable import PoolManager

@Suite struct DoctorTests {
  private var details = ThinPoolStatus.Details(
    transactionID: 5, metadata: BlockUsage(used: 20, total: 1024),
    data: BlockUsage(used: 100, total: 1600), metadataLowWater: 256)

  private func findings(
    _ details: ThinPoolStatus.Details, features: Set<ThinPoolTarget.Feature> = [],
    change: (inout PoolSymptoms) -> Void = { _ in }
  ) -> [Diagnosis] {
    var symptoms = PoolSymptoms(
      name: "a b", status: .working(details),
      target: ThinPoolTarget(
        metadataDevice: "7:0", dataDevice: "7:1", blockSectors: 128, lowWaterBlocks: 10,
        features: features),
      tableSectors: 204800, metadataPath: "/dev/meta", dataPath: "/dev/data")
    symptoms.dataDeviceSectors = 204800
    symptoms.metadataDeviceBlocks = 1024
    change(&symptoms)
    return symptoms.findings()
  }

  private func expect(
    _ found: [Diagnosis], _ code: String, _ severity: Diagnosis.Severity, _ words: String,
    next: String?, _ location: SourceLocation = #_sourceLocation
  ) {
    let only = found.first
    #expect(found.count == 1 && only?.code == code, "\(found)", sourceLocation: location)
    #expect(only?.severity == severity, sourceLocation: location)
    #expect(only?.cause.contains(words) == true, "\(found)", sourceLocation: location)
    if let next {
      #expect(only?.next.contains(next) == true, "\(found)", sourceLocation: location)
    }
  }

  @Test("a sound pool has no findings")
  func well() { #expect(findings(details) == []) }

  @Test("needs_check comes with the repair, with devices and names quoted for the shell")
  func needsCheck() {
    var details = details
    (details.mode, details.needsCheck) = (.readOnly, true)
    let found = findings(details)
    expect(
      found, "needs-check", .problem, "read-only until", next: "dmthin pool deactivate --all 'a b'")
    #expect(
      found[0].next.dropFirst() == [
        "thin_check --auto-repair /dev/meta",
        "dmthin pool activate 'a b' --metadata /dev/meta --data /dev/data",
      ])
  }

  @Test("a read-only pool comes with the reason")
  func readOnly() {
    var details = details
    details.mode = .readOnly
    expect(
      findings(details, features: [.readOnly]), "read-only", .note, "its table says so",
      next: "dmthin pool features 'a b' --disable read_only")
    expect(
      findings(details), "read-only", .problem, "after a failed operation",
      next: "thin_check --auto-repair /dev/meta")
    details.metadata.used = 1024
    expect(
      findings(details), "metadata-full", .problem, "nothing can be written",
      next: "dmthin pool grow 'a b'")
  }

  @Test("a full data device comes with the effect on writes")
  func dataFull() {
    var details = details
    (details.mode, details.data.used) = (.outOfDataSpace, 1600)
    expect(findings(details), "data-full", .problem, "wait", next: "dmthin pool grow 'a b'")
    details.noSpace = .error
    expect(
      findings(details), "data-full", .problem, "writes that need a block fail",
      next: "enlarge /dev/data")
  }

  @Test("low space comes with a forecast if two measurements allow one")
  func forecast() {
    var (early, late) = (details, details)
    (early.data.used, late.data.used) = (1300, 1400)
    let grows = findings(late) { $0.earlier = (.working(early), 30) }
    expect(
      grows, "data-nearly-full", .warning,
      "1400 of 1600 data blocks are in use (87 %); full in 60 seconds at",
      next: "dmthin pool grow 'a b'")
    expect(
      findings(late) { $0.earlier = (.working(late), 30) }, "data-nearly-full", .warning,
      "not growing", next: nil)
    early = details
    late = details
    (early.metadata.used, late.metadata.used) = (700, 800)
    let metadata = findings(late) { $0.earlier = (.working(early), 3600) }
    expect(
      metadata, "metadata-nearly-full", .warning, "full in 2 hours at", next: "enlarge /dev/meta")
  }

  @Test("a warning is given for metadata that will be full before the data")
  func outgrown() {
    var details = details
    (details.metadata.used, details.data.used) = (300, 400)
    expect(
      findings(details), "metadata-too-small", .warning, "needs 1200 metadata blocks",
      next: "enlarge /dev/meta")
  }

  @Test("a metadata snapshot is reported according to its lease")
  func metadataSnapshot() {
    var details = details
    details.heldRoot = 7
    let release = "dmthin pool release-metadata-snap 'a b'"
    expect(
      findings(details), "metadata-snapshot-unknown", .warning, "its owner is unknown",
      next: release)
    let held = findings(details) { $0.lease = "'x' holds it" }
    expect(held, "metadata-snapshot", .note, "'x' holds it", next: nil)
    let leaked = findings(details) {
      ($0.lease, $0.leaseFault) = ("'x' holds it", "its process 5 has ended")
    }
    expect(
      leaked, "metadata-snapshot-leaked", .warning, "but its process 5 has ended", next: release)
  }

  @Test("a transaction id that differs names who expects which, and how to set it")
  func transactionID() {
    let newer = findings(details) { $0.expected = (4, "lvm2") }
    expect(
      newer, "transaction-id", .problem, "is 5, but lvm2 expects 4: the metadata is newer",
      next: "dmthin pool set-transaction-id 'a b' 5 4  # if they are the same")
    expect(
      findings(details) { $0.expected = (6, "lvm2") }, "transaction-id", .problem,
      "the metadata is older", next: nil)
    #expect(findings(details) { $0.expected = (5, "lvm2") } == [])
  }

  @Test("devices that are missing, unreadable, larger, or suspended are reported")
  func devices() {
    expect(
      findings(details) { $0.dataDeviceSectors = nil }, "device-gone", .problem,
      "data device /dev/data is gone", next: nil)
    expect(
      findings(details) { $0.metadataFault = ToolError(.damaged, "no superblock") },
      "metadata-unreadable", .problem,
      "no superblock", next: nil)
    expect(
      findings(details) { $0.dataDeviceSectors = 409600 }, "data-grown", .note, "3200",
      next: "dmthin pool grow 'a b'")
    expect(
      findings(details) { $0.metadataDeviceBlocks = 2048 }, "metadata-grown", .note, "2048",
      next: "dmthin pool grow 'a b'")
    expect(
      findings(details) { $0.isSuspended = true }, "suspended", .problem, "waits",
      next: "dmthin dm resume 'a b'")
    expect(
      findings(details) { $0.suspendedThins = ["t'1"] }, "thin-suspended", .problem, "t'1",
      next: "dmthin dm resume 't'\\''1'")
    expect(
      findings(details) { $0.hasInactiveTable = true }, "table-waits", .warning,
      "interrupted command",
      next: "dmthin dm clear 'a b'")
  }

  @Test("a failed pool leads to a repair")
  func failed() {
    for status in [ThinPoolStatus.failed, .error] {
      let found = findings(details) {
        ($0.status, $0.metadataFault) = (status, ToolError(.damaged, "bad checksum"))
      }
      expect(
        found, status == .failed ? "failed" : "metadata-error", .problem, "(bad checksum)",
        next: "thin_check --auto-repair /dev/meta")
    }
  }

  @Test("numbers of any size are reported without a trap")
  func extremes() {
    for used in [0, 1, .max] as [UInt64] {
      for total in [0, 1, .max] as [UInt64] {
        var details = details
        details.data = BlockUsage(used: used, total: total)
        details.metadata = BlockUsage(used: total, total: used)
        _ = findings(details) {
          $0.dataDeviceSectors = .max
          $0.metadataDeviceBlocks = .max
          $0.earlier = (.working(self.details), .max)
          $0.target.blockSectors = 0
        }
      }
    }
  }

  @Test("an active pool is looked at without changing it, its devices and lease included")
  func live() throws {
    let scene = try Scene()
    let manager = scene.manager()
    let before = scene.backend.state
    // The scene's metadata device is zeros, which is no superblock.
    var found = try manager.diagnose(manager.pool("p"), expected: 3)
    #expect(found.map(\.code) == ["metadata-unreadable", "transaction-id"])
    #expect(scene.backend.state == before)
    try scene.backend.suspend(.name("t2"), [])
    scene.sizes["7:1"] = nil
    var request = LeaseRequest(owner: "x")
    request.seconds = 0
    _ = try manager.reserveMetadataSnapshot(manager.pool("p"), request)
    found = try manager.diagnose(manager.pool("p"))
    #expect(
      found.map(\.code) == [
        "device-gone", "metadata-unreadable", "thin-suspended", "metadata-snapshot-leaked",
      ])
  }

  @Test(
    "activation refuses metadata and data that do not belong together, and metadata to be checked")
  func activation() throws {
    let scene = try Scene()
    let manager = scene.manager()
    var error = refusal { _ = try manager.activatePool(scene.activation()) }
    #expect(error?.isDamage == true && error?.message.contains("dmthin pool doctor") == true)
    try scene.format(dataBlocks: 5000)
    error = refusal { _ = try manager.activatePool(scene.activation()) }
    #expect(error?.message.contains("not its data device") == true)
    var swapped = scene.activation()
    swapped.data = swapped.metadata
    #expect(
      refusal { _ = try manager.activatePool(swapped) }?.message.contains("same device") == true)
    let zeros = [UInt8](repeating: 0, count: 4096)
    _ = try scene.folder.file("meta2", bytes: zeros, size: 8 << 20)
    try scene.format(needsCheck: true)
    error = refusal { _ = try manager.activatePool(scene.activation()) }
    #expect(error?.message.contains("thin_check --auto-repair") == true)
    #expect(scene.backend.state.devices["q"] == nil)
    error = refusal { _ = try manager.create(scene.activation()) }
    #expect(error?.message.contains("already holds the metadata of a pool") == true)
  }
}
