import Simulation
import TestSupport
import Testing

@Suite struct CrashTests {
  @Test(
    "a power cut at any point leaves the old state or the new",
    arguments: CrashTrial.Kind.allCases)
  func crash(_ kind: CrashTrial.Kind) throws {
    var images = 0
    let first = seed("crash(\(kind))")
    for n in UInt64(0)..<100 where images < 60 {
      images += try CrashTrial(kind, seed: first + n).run()
    }
    #expect(images >= 60)
  }

  @Test(
    "on a device that loses flushes the old state is lost",
    arguments: [
      CrashTrial.Kind.operation(.several), .autoRepair, .restore,
    ])
  func lostFlushes(_ kind: CrashTrial.Kind) throws {
    let first = seed("lostFlushes(\(kind))")
    var isNoticed = false
    for n in UInt64(0)..<20 where !isNoticed {
      let trial = try CrashTrial(kind, seed: first + n, losesFlushes: true)
      isNoticed = (try? trial.run()) == nil
    }
    #expect(isNoticed)
  }

  @Test(
    "after a failed read, write or flush, an abort goes back to the last commit",
    arguments: PoolOperation.allCases)
  func faults(_ operation: PoolOperation) throws {
    var count = 0
    let first = seed("faults(\(operation))")
    for n in UInt64(0)..<2 { count += try FaultTrial(operation, seed: first + n).run() }
    // A discard may find nothing to do; the commit still fails.
    #expect(count >= 8)
  }
}
