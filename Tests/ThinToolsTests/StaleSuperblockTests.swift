import Glibc
import PersistentData
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

/// A superblock with a good checksum may be an old one that was written back. Later generations are
/// still on the device then.
///
/// DMTHIN_HISTORIES is the number of histories of each kind, 2 if it is not set.
@Suite struct StaleSuperblockTests {
  private static let count = getenv("DMTHIN_HISTORIES").flatMap { Int(String(cString: $0)) } ?? 2

  @Test(
    "no pool of the kernel's has a generation newer than its superblock's", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let age = try checked(PoolUnderTest(name).device).newerGeneration?.age
    #expect(age == nil || age == .unlikely)
  }

  @Test(
    "a superblock that is right is never called old, nor another generation saved",
    arguments: Histories.kinds.indices)
  func rightSuperblock(_ index: Int) throws {
    var unsure: [NewerGeneration.Age: Int] = [:]
    for seed in 1...UInt64(Self.count) {
      let history = try PoolHistory(Histories.kinds[index], seed: seed)
      let what = "\(Histories.kinds[index].name), seed \(seed)"
      let found = try checked(history.device).newerGeneration
      #expect(found?.age.isNewer != true, "\(what)")
      let (_, said, pool) = try salvaged(history.device)
      #expect(said.count == (found == nil ? 0 : 1), "\(what): \(said)")
      #expect(try pool == DumpedPool(xml: dumped(history.device)), "\(what)")
      if let found { unsure[found.age, default: 0] += 1 }
    }
    let counts = unsure.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
    print("\(Histories.kinds[index].name): \(Self.count) right superblocks, named are: \(counts)")
  }

  /// Of this many pools with an old superblock, one may be accepted without a warning: where
  /// metadata is tiny and activated all the time, all traces may be overwritten. See
  /// Documentation/semantics.md.
  private static let poolsPerSilentOne = 250

  /// The outcomes for superblocks with the same number of later commits.
  private struct Tally {
    var (all, newest, own, other) = (0, 0, 0, 0)
  }

  @Test(
    "where the superblock is an old one, the newest generation is saved, or one may be newer, it says",
    arguments: Histories.kinds.indices)
  func oldSuperblock(_ index: Int) throws {
    let name = Histories.kinds[index].name
    var tally: [Int: Tally] = [:]
    var silent: [String] = []
    for seed in 1...UInt64(Self.count) {
      let history = try PoolHistory(Histories.kinds[index], seed: seed)
      let newest = DumpedPool(xml: try dumped(history.device)).devices
      for back in [1, 2, 3, 5, 10, 30] where back < history.superblocks.count {
        history.putBack(history.superblocks[history.superblocks.count - 1 - back])
        defer { history.device.revert() }
        let own = (try? dumped(history.device)).map { DumpedPool(xml: $0).devices }
        guard own != newest, let (_, said, pool) = try? salvaged(history.device) else { continue }
        let what = "\(name), seed \(seed), \(back) commits back: \(said)"
        if let age = try? checked(history.device).newerGeneration?.age {
          #expect(back > 1 || !age.isNewer, "one commit later is what a crash leaves; \(what)")
        }
        var now = tally[back] ?? Tally()
        now.all += 1
        let isUnsure = said.contains { text in
          [
            "cannot be told", "could be newer", "as a crash leaves it", "committed later",
            "is lost",
          ].contains {
            text.contains($0)
          }
        }
        if pool.devices == newest {
          now.newest += 1
        } else {
          if !isUnsure { silent.append(what) }
          if pool.devices == own { now.own += 1 } else { now.other += 1 }
        }
        tally[back] = now
      }
    }
    let all = tally.values.reduce(0) { $0 + $1.all }
    #expect(silent.count * Self.poolsPerSilentOne <= all, "\(all) pools; without a word: \(silent)")
    for (back, now) in tally.sorted(by: { $0.key < $1.key }) {
      print(
        "\(name): \(back) commits back, \(now.all) pools: saved the newest \(now.newest); with a "
          + "line that a newer one may exist the superblock's \(now.own), another \(now.other)")
    }
  }

  /// A common sort of pool: written and grown, never activated again, with room for every
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
    let newest = DumpedPool(xml: try dumped(device))
    let old = superblocks[3]
    device.changeSuperblock { $0 = old }
    let stale = DumpedPool(xml: try dumped(device))
    let report = try checked(device)
    #expect(report.isClean, "\(report.text)")
    let newer = try #require(report.newerGeneration)
    #expect(newer.deviceCount == newest.devices.count)
    #expect(newer.block.rawValue == superblocks.last?.metadataSpaceMap.bitmapRoot)

    let (_, said, saved) = try salvaged(device)
    #expect(saved.devices == newest.devices)
    #expect(said.contains { $0.contains("--generation superblock") })
    #expect(try salvaged(device) { $0.salvage.generation = .superblock }.pool == stale)
    #expect(try salvaged(device) { $0.salvage.generation = .newest }.pool.devices == newest.devices)
    let between = superblocks[10]
    let chosen = try salvaged(device) {
      $0.salvage.generation = .block(MetadataBlock(between.metadataSpaceMap.bitmapRoot))
    }
    device.changeSuperblock { $0 = between }
    #expect(try chosen.pool.devices == DumpedPool(xml: dumped(device)).devices)
    #expect(throws: ToolError.self) {
      try salvaged(device) { $0.salvage.generation = .block(MetadataBlock(between.mappingRoot)) }
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

  @Test("if a pool was created over an older one, the older one's generations are not newer")
  func poolMadeAnew() throws {
    for seed in 1...UInt64(10 * Self.count) {
      let history = try PoolHistory(Histories.kinds[Int(seed % 5)], seed: seed)
      var random = SplitMix64(seed: seed)
      history.device.wipe(0)
      let pool = try PoolMetadata.format(history.device, dataBlockSectors: 128)
      try pool.resizeData(to: 5000)
      try pool.commit()
      for i in 0..<UInt64.random(in: 0...20, using: &random) {
        if i % 4 == 0 { try pool.createThin(ThinID(5000 + i)) }
        for _ in 0..<UInt64.random(in: 0...3, using: &random) {
          try pool.provision(5000, VirtualBlock(.random(in: 0..<1000, using: &random)))
        }
        try pool.commit()
      }
      try pool.commit()
      let found = try checked(history.device).newerGeneration
      #expect(found?.age.isNewer != true, "seed \(seed)")
      let (_, said, saved) = try salvaged(history.device)
      #expect(try saved == DumpedPool(xml: dumped(history.device)), "seed \(seed)")
      #expect(said.count == (found == nil ? 0 : 1), "seed \(seed): \(said)")
    }
  }

  @Test("one generation behind the superblock's is what a crash leaves, and is not taken")
  func crashedCommit() throws {
    let (device, superblocks) = try grownPool()
    let before = superblocks[superblocks.count - 2]
    device.changeSuperblock { $0 = before }
    #expect(try checked(device).newerGeneration?.age == .interrupted)
    let (_, said, saved) = try salvaged(device)
    #expect(try saved == DumpedPool(xml: dumped(device)))
    #expect(said.count == 1)
    #expect(said.first?.contains("as a crash leaves it") == true)
  }

  @Test("mappings beyond an old superblock's data size are saved where a space map counts them")
  func dataSizeFromSpaceMap() throws {
    let (device, _) = try grownPool()
    let newest = DumpedPool(xml: try dumped(device))
    device.changeSuperblock { $0.dataSpaceMap.blockCount = 10 }
    let (_, _, saved) = try salvaged(device)
    #expect(saved.devices == newest.devices)
  }
}
