import Glibc
import PersistentData
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// A superblock with a good checksum may be an old one that was written back; what was committed
/// after it is still on the device then.
///
/// DMTHIN_HISTORIES is the number of histories of each kind, 2 if it is not set.
@Suite struct StaleSuperblockTests {
  private static let count = getenv("DMTHIN_HISTORIES").flatMap { Int(String(cString: $0)) } ?? 2

  private func salvaged(
    _ device: MemoryDevice, _ change: (inout DumpOptions) -> Void = { _ in }
  ) throws -> (pool: PoolModel, said: [String]) {
    var said: [String] = []
    let xml = try dumped(
      device,
      {
        $0.repair = true
        change(&$0)
      }, onLoss: { said.append($0) })
    return (PoolModel(xml: xml), said)
  }

  @Test(
    "no pool of the kernel's has a generation newer than its superblock's", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    #expect(try checked(PoolUnderTest(name).device).newerGeneration == nil)
  }

  @Test(
    "a superblock that is right is never called old, nor another generation saved",
    arguments: Histories.kinds.indices)
  func rightSuperblock(_ index: Int) throws {
    for seed in 1...UInt64(Self.count) {
      let history = try PoolHistory(Histories.kinds[index], seed: seed)
      let what = "\(Histories.kinds[index].name), seed \(seed)"
      #expect(try checked(history.device).newerGeneration == nil, "\(what)")
      let (pool, said) = try salvaged(history.device)
      #expect(said.isEmpty, "\(what): \(said)")
      #expect(try pool == PoolModel(xml: dumped(history.device)), "\(what)")
    }
  }

  @Test(
    "of pools whose superblock is an old one, the newest generation is saved or nothing of another",
    arguments: Histories.kinds.indices)
  func oldSuperblock(_ index: Int) throws {
    var tally: [Int: (said: Int, newest: Int, own: Int, other: Int, all: Int)] = [:]
    for seed in 1...UInt64(Self.count) {
      let history = try PoolHistory(Histories.kinds[index], seed: seed)
      let newest = PoolModel(xml: try dumped(history.device)).devices
      for back in [1, 2, 3, 5, 10, 30] where back < history.superblocks.count {
        history.putBack(history.superblocks[history.superblocks.count - 1 - back])
        defer { history.device.revert() }
        let own = (try? dumped(history.device)).map { PoolModel(xml: $0).devices }
        if own == newest { continue }
        var now = tally[back] ?? (0, 0, 0, 0, 0)
        now.all += 1
        if let report = try? checked(history.device), report.newerGeneration != nil {
          now.said += 1
          #expect(back > 1, "one commit later is what a crash leaves")
        }
        switch try? salvaged(history.device).pool.devices {
        case nil: break
        case newest: now.newest += 1
        case own: now.own += 1
        default: now.other += 1
        }
        tally[back] = now
      }
    }
    for (back, now) in tally.sorted(by: { $0.key < $1.key }) {
      print(
        "\(Histories.kinds[index].name): superblock of \(back) commits before, \(now.all) pools: "
          + "check names a newer generation in \(now.said); saved: the newest \(now.newest), the "
          + "superblock's \(now.own), another \(now.other)")
    }
  }

  /// A pool of the sort that most are: written and grown, never activated again, with room for every
  /// generation.
  private func grownPool() throws -> (device: MemoryDevice, superblocks: [Superblock]) {
    var kind = PoolHistory.Kind(
      "written once", metadataBlocks: 2000...2000, commits: 20...20, operations: 3...6,
      window: 400...400)
    kind.creations = 100
    let history = try PoolHistory(kind, seed: 5)
    return (history.device, history.superblocks)
  }

  @Test("an old superblock whose trees are whole is named, and the newest generation is saved")
  func soundOldSuperblock() throws {
    let (device, superblocks) = try grownPool()
    let newest = PoolModel(xml: try dumped(device))
    let old = superblocks[3]
    device.changeSuperblock { $0 = old }
    let stale = PoolModel(xml: try dumped(device))
    let report = try checked(device)
    #expect(report.isClean, "\(report.text)")
    let newer = try #require(report.newerGeneration)
    #expect(newer.deviceCount == newest.devices.count)
    #expect(newer.block == superblocks.last?.metadataSpaceMap.bitmapRoot)

    let (saved, said) = try salvaged(device)
    #expect(saved.devices == newest.devices)
    #expect(said.contains { $0.contains("--generation superblock") })
    #expect(try salvaged(device) { $0.generation = .superblock }.pool == stale)
    #expect(try salvaged(device) { $0.generation = .newest }.pool.devices == newest.devices)
    let between = superblocks[10]
    let chosen = try salvaged(device) {
      $0.generation = .block(between.metadataSpaceMap.bitmapRoot)
    }
    device.changeSuperblock { $0 = between }
    #expect(try chosen.pool.devices == PoolModel(xml: dumped(device)).devices)
    #expect(throws: ToolError.self) {
      try salvaged(device) { $0.generation = .block(between.mappingRoot) }
    }
  }

  @Test("with a newer generation on the device, thin_check writes nothing into free blocks")
  func nothingIsWritten() throws {
    let (device, superblocks) = try grownPool()
    device.changeSuperblock {
      $0 = superblocks[3]
      $0.dataSpaceMap.allocated += 1
      $0.needsCheck = true
    }
    device.keep()
    let report = try checked(device) { $0.autoRepair = true }
    #expect(report.newerGeneration != nil)
    #expect(device.changedBlocks.isEmpty)
  }

  @Test("one generation behind the superblock's is what a crash leaves, and is no finding")
  func crashedCommit() throws {
    let (device, superblocks) = try grownPool()
    let before = superblocks[superblocks.count - 2]
    device.changeSuperblock { $0 = before }
    #expect(try checked(device).newerGeneration == nil)
    let (saved, said) = try salvaged(device)
    #expect(try saved == PoolModel(xml: dumped(device)))
    #expect(said.isEmpty)
  }

  @Test("mappings beyond an old superblock's data size are saved where a space map counts them")
  func dataSizeFromSpaceMap() throws {
    let (device, _) = try grownPool()
    let newest = PoolModel(xml: try dumped(device))
    device.changeSuperblock { $0.dataSpaceMap.blockCount = 10 }
    let (saved, _) = try salvaged(device)
    #expect(saved.devices == newest.devices)
  }
}
