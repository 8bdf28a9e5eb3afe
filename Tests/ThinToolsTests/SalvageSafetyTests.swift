import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// Where `thin_dump --repair` has to invent values, it chooses them so that the kernel's writes to
/// one device of the restored pool never change another device.
@Suite struct SalvageSafetyTests {
  /// Two devices that share all their blocks, at the pool's latest time.
  private func sharingPool(time: UInt32 = 6, mapped: UInt32 = 5) throws -> MemoryDevice {
    let device = MemoryDevice(byteCount: 64 * 4096)
    var text =
      "<superblock uuid=\"\" time=\"\(time)\" transaction=\"3\" version=\"2\" "
      + "data_block_size=\"128\" nr_data_blocks=\"1000\">\n"
    for id in 1...2 {
      text += """
          <device dev_id="\(id)" mapped_blocks="100" transaction="2" \
        creation_time="\(id)" snap_time="\(time)">
            <range_mapping origin_begin="0" data_begin="0" length="100" time="\(mapped)"/>
          </device>

        """
    }
    try restore(text + "</superblock>", to: device)
    device.keep()
    return device
  }

  @Test(
    "where superblock and details are lost, no shared block looks like a device's own",
    arguments: [(UInt32(6), UInt32(5)), (7, 6), (Limits.timeMax, Limits.timeMax - 1)])
  func lostDetails(_ time: UInt32, _ mapped: UInt32) throws {
    let device = try sharingPool(time: time, mapped: mapped)
    device.wipe(device.superblock.detailsRoot)
    device.wipe(0)
    let (xml, _, pool) = try salvaged(device) { $0.salvage.overrides.dataBlockSectors = 128 }
    #expect(pool.devices.count == 2)
    #expect(writesThatHurt(pool).isEmpty)
    let copy = MemoryDevice(byteCount: 64 * 4096)
    try restore(xml, to: copy)
    #expect(try checked(copy).isClean)
  }

  @Test("mappings of the last time that fits are made older rather than look exclusive")
  func lastTime() throws {
    let device = try sharingPool(time: Limits.timeMax, mapped: Limits.timeMax)
    device.wipe(device.superblock.detailsRoot)
    let (xml, _, pool) = try salvaged(device)
    #expect(pool.devices.count == 2)
    #expect(writesThatHurt(pool).isEmpty)
    let copy = MemoryDevice(byteCount: 64 * 4096)
    try restore(xml, to: copy)
    #expect(try checked(copy).isClean)
  }

  @Test("details whose snapshot time is too early for shared blocks are corrected")
  func earlyDetails() throws {
    let device = try sharingPool()
    let root = device.superblock.detailsRoot
    device.change(root, .btreeNode) { bytes in
      // Details of an earlier state: before the second snapshot, and with another number of
      // mappings.
      let at = 32 + 8 * BtreeNodeRecord.entriesMax(valueSize: DeviceDetails.byteCount)
      DeviceDetails(mappedBlocks: 90, transactionID: 2, creationTime: 1, snapshottedTime: 3)
        .encode(into: bytes, at: at)
    }
    let (_, said, pool) = try salvaged(device)
    #expect(writesThatHurt(pool).isEmpty)
    #expect(said.contains { $0.contains("snapshot time is raised from 3 to 6") })
    #expect(pool.devices[2]?.attributes["snap_time"] == "6")
  }

  @Test("leaves that are left of a damaged details tree keep what they say")
  func partOfDetails() throws {
    let pool = try PoolUnderTest("many-devices")
    let before = DumpedPool(xml: try dumped(pool.device))
    let leaf = try pool.block(.node(.details, isLeaf: true))
    let lost = Set(
      pool.device.nodeEntries(leaf).entries.map(\.key))
    pool.device.edit(leaf)[100] ^= 1
    let (_, _, after) = try salvaged(pool.device)
    #expect(after.devices.count == before.devices.count)
    for (id, device) in before.devices where !lost.contains(id) {
      #expect(after.devices[id] == device)
    }
    #expect(writesThatHurt(after).isEmpty)
  }

  @Test("a device that a sound details tree does not list is named and not brought back")
  func deletedDevice() throws {
    let device = try sharingPool()
    device.change(device.superblock.detailsRoot, .btreeNode) {
      BtreeNodeRecord.setEntryCount($0, 1)
    }
    let (_, said, pool) = try salvaged(device)
    #expect(pool.devices.keys.sorted() == [1])
    #expect(said.contains { $0.contains("thin device 2") && $0.contains("left out") })
  }

  @Test("a transaction id below a saved device's is raised above it, and that is said")
  func transactionID() throws {
    let device = try sharingPool()
    device.changeSuperblock { $0.transactionID = 1 }
    let (_, said, pool) = try salvaged(device)
    #expect(pool.attributes["transaction"] == "3")
    #expect(said.contains { $0.contains("transaction id 1") })
    let (_, _, raised) = try salvaged(device) { $0.salvage.overrides.transactionID = 9 }
    #expect(raised.attributes["transaction"] == "9")
  }

  @Test(
    "a device whose nodes all lead to one and the same node is reported, and saved as far as it goes"
  )
  func sameNodes() throws {
    let device = try sharingPool()
    // Behind what the pool uses.
    for level in UInt64(1)..<12 {
      device.putNode(
        50 + level, isLeaf: false, (0..<252).map { NodeEntry($0, level == 1 ? 50 : 49 + level) })
    }
    device.putNode(50, isLeaf: true, [NodeEntry(0, 0)])
    device.change(device.superblock.mappingRoot, .btreeNode) { bytes in
      bytes.storeBytes(of: UInt64(61).littleEndian, toByteOffset: 2048, as: UInt64.self)
    }
    let report = try checked(device)
    #expect(report.isDamaged)
    let (_, said, pool) = try salvaged(device)
    #expect(pool.devices[2]?.mappings.count == 100, "\(said)")
  }

  @Test("mappings beyond the superblock's data size are saved when the size is given")
  func dataSizeGiven() throws {
    let device = try sharingPool()
    device.changeSuperblock { $0.dataSpaceMap.blockCount = 50 }
    let (_, said, pool) = try salvaged(device) { $0.salvage.overrides.dataBlockCount = 1000 }
    #expect(pool.attributes["nr_data_blocks"] == "1000")
    #expect(pool.devices.values.allSatisfy { $0.mappings.count == 100 })
    #expect(!said.contains { $0.contains("beyond") })
  }

  @Test(
    "whatever is damaged, what is saved restores, and no write to it can hurt",
    arguments: 0..<12)
  func anyDamage(_ n: UInt64) throws {
    let first = seed()
    var random = SplitMix64(seed: first &+ n)
    let history = try PoolHistory(Self.kind, seed: first &+ n)
    let generator = try DamageGenerator(history.device)
    for trial in 0..<12 {
      var done: [String] = []
      for _ in 0...Int.random(in: 0...2, using: &random) {
        let damage = generator.damage(&random)
        done.append("\(damage)\(damage.anotherSoundPool == nil ? "" : "!")")
      }
      defer { history.device.revert() }
      // This damage leaves another pool's valid metadata, and nothing else on the disk contradicts
      // it.
      if done.contains(where: { $0.hasSuffix("!") }) { continue }
      // A leaf in which only the mapped blocks are wrong: only counting all references would show
      // it, and repairs of pools that look valid do not count.
      if done.contains(where: {
        $0.contains("mapping.dataBlock") && $0.contains("checksum corrected")
      }) {
        continue
      }
      guard
        let (xml, _, pool) = try? salvaged(
          history.device, { $0.salvage.overrides.dataBlockSectors = 128 })
      else { continue }
      let what = "seed \(first &+ n), trial \(trial): \(done)"
      #expect(writesThatHurt(pool).isEmpty, "\(what)")
      let copy = MemoryDevice(byteCount: 8 << 20)
      #expect(throws: Never.self, "\(what)") { try restore(xml, to: copy) }
      #expect(try checked(copy).isClean, "\(what)")
    }
  }

  private static let kind = {
    var kind = PoolHistory.Kind(
      "snapshots", metadataBlocks: 300...900, commits: 5...40, operations: 1...15,
      window: 50...600)
    kind.snapshots = 80
    kind.deletions = 40
    kind.discards = 150
    kind.activations = 60
    return kind
  }()
}

/// What in a pool would make the kernel's next writes to one device change another device, or be
/// refused.
private func writesThatHurt(_ pool: DumpedPool) -> [String] {
  var found: [String] = []
  var references: [UInt64: Int] = [:]
  for device in pool.devices.values {
    for place in device.mappings.values { references[place.dataBlock, default: 0] += 1 }
  }
  let time = pool.attributes["time"].flatMap { UInt64($0) } ?? 0
  let transaction = pool.attributes["transaction"].flatMap { UInt64($0) } ?? 0
  let dataBlocks = pool.attributes["nr_data_blocks"].flatMap { UInt64($0) } ?? 0
  if time > UInt64(Limits.timeMax) { found.append("the pool's time \(time)") }
  for (id, device) in pool.devices {
    func number(_ name: String) -> UInt64 { device.attributes[name].flatMap { UInt64($0) } ?? 0 }
    let snapshotted = number("snap_time")
    if max(snapshotted, number("creation_time")) > time { found.append("\(id) is of the future") }
    if number("transaction") > transaction { found.append("transaction of \(id)") }
    if number("mapped_blocks") != UInt64(device.mappings.count) { found.append("count of \(id)") }
    for (virtual, place) in device.mappings {
      if place.time > time || place.dataBlock >= dataBlocks { found.append("\(id) \(virtual)") }
      // The kernel writes in place to blocks that are not older than the device's last snapshot.
      if references[place.dataBlock] ?? 0 > 1 && place.time >= snapshotted {
        found.append("\(id) writes virtual block \(virtual) in place")
      }
    }
  }
  return found
}
