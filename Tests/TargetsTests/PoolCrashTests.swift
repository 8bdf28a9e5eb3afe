import TargetSimulation
import TestSupport
import Testing

@Suite("Power cuts and faults under pools in user space", .serialized)
struct PoolCrashTests {
  @Test(
    "a power cut at any write loses no flushed data, and exposes no other volume's data",
    arguments: PoolCrashTrial.Kind.allCases,
    [UInt64](1...(UInt64(environment("DMTHIN_SEEDS") ?? "") ?? 1)))
  func powerCuts(_ kind: PoolCrashTrial.Kind, _ seed: UInt64) throws {
    let images = try PoolCrashTrial(TrialGround(), kind, seed: seed, steps: 120)
      .run(oneOf: kind == .largeBlocks ? 40 : 12)
    #expect(images > 8)
  }

  @Test(
    "any failure affects only the requests that need it, leads to the kernel's mode and loses nothing",
    arguments: PoolFaultTrial.Kind.all)
  func faults(_ kind: PoolFaultTrial.Kind) throws {
    let ground = try TrialGround()
    var count = 0
    for seed in 1...40 as ClosedRange<UInt64> where count < 8 {
      count +=
        try PoolFaultTrial(ground, kind, seed: seed, steps: 50).run(
          stride: kind.isFrequent ? 15 : 2)[0]
    }
    #expect(count > 0)
  }
}
