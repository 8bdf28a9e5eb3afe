import Simulation
import Testing

/// Pools from `contrib/trials repair` that lost several blocks, of which less was saved once than could be.
@Suite("Repair of pools that lost several blocks")
struct RepairTrialTests {
  @Test(
    "what is left of the mappings is found, and what is not certain is called doubtful",
    arguments: [
      // A leaf of mappings looks like a tree of devices.
      (606, saved: 98, right: 98),
      // A tree of the metadata snapshot, which is lost, fits into the place of a device's root, whose own
      // nodes have exactly the mappings that the details say.
      (566, saved: 880, right: 880),
      // Subtrees fit the trees of two devices; one of them led to them earlier.
      (703, saved: 3909, right: 4103),
      // Of the generations before the lost one, the data space map tells which was the last.
      (31065, saved: 541, right: 564),
      // The root of a device and all details are lost.
      (700034, saved: 1047, right: 1205),
      // The only mapping of a device is of data block 0, and looks like an entry of the tree of devices.
      (76_225_808, saved: 12, right: 12),
      // A tree of the metadata snapshot, which is not whole, is all that is left for a device.
      (4_401_475, saved: 9668, right: 9668),
      // Without a superblock, an older generation that lies behind the latest looks as if it had followed.
      (79_536_065, saved: 1308, right: 1308),
      // Trees of devices of which nothing is left fit into the place of a lost leaf.
      (51_011_781, saved: 114, right: 114),
      // A tree with a leaf that was made of an earlier generation's has as many mappings as another device.
      (91_015_550, saved: 10673, right: 11210),
    ] as [(seed: UInt64, saved: Int, right: Int)])
  func several(seed: UInt64, saved: Int, right: Int) throws {
    let (score, _) = try #require(RepairTrial(seed: seed).run())
    #expect(score.saved >= saved && score.right >= right)
    #expect(score.wrong == score.doubtfulWrong)
  }

  @Test("a generation of before the last activation is not taken for a newer one")
  func activated() throws {
    // The first transaction after the activation was so large that its index block lies behind the last one.
    let trial = try RepairTrial(seed: 51_003_833)
    #expect(!trial.isCalledOld)
    let (score, _) = try #require(trial.run())
    #expect(score.saved == score.intact && score.doubtful == 0)
  }

  @Test("an earlier generation whose follower was overwritten is not taken for a newer one")
  func followerOverwritten() throws {
    let trial = try RepairTrial(seed: 71_000_718)
    #expect(!trial.isCalledOld)
    let (score, _) = try #require(trial.run())
    #expect(score.saved == score.intact && score.doubtful == 0)
  }

  @Test("a child beyond the device is no lost block of a generation")
  func childBeyondDevice() throws {
    // A node of another generation passes for the tree of devices, and a child of it is block 35701915658.
    let (score, _) = try #require(RepairTrial(seed: 265_282_135).run())
    #expect(score.wrong == score.doubtfulWrong)
  }
}
