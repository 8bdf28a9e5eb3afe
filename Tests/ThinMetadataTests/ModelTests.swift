import Simulation
import TestSupport
import Testing

@Suite struct ModelTests {
  private func run(
    _ operations: Int, _ change: (inout ModelRun.Options) -> Void = { _ in },
    function: String = #function
  ) throws -> [String: Int] {
    var options = ModelRun.Options(seed: seed(function))
    change(&options)
    let run = try ModelRun(options)
    try run.run(operations: operations)
    return run.tally
  }

  @Test("a pool answers and commits like a model of dictionaries")
  func usual() throws {
    let tally = try run(5000)
    for name in ["snapshot", "delete", "discard", "discard passed down", "reserve", "release"] {
      #expect(tally[name, default: 0] > 0, "\(name)")
    }
  }

  @Test("a cache that is too small for a transaction changes nothing")
  func tinyCache() throws { _ = try run(5000) { $0.cacheBlocksMax = 12 } }

  @Test("full metadata is a typed error, and the last commit stands after an abort")
  func fullMetadata() throws {
    let tally = try run(6000) {
      $0.metadataBlocks = 48
      $0.cacheBlocksMax = 24
    }
    #expect(tally["metadata full", default: 0] > 0 && tally["metadata grown", default: 0] > 0)
  }

  @Test("full data is a typed error, and the transaction stands")
  func fullData() throws {
    let tally = try run(6000) { $0.dataBlocks = 150 }
    #expect(tally["data full", default: 0] > 0 && tally["data grown", default: 0] > 0)
  }

  @Test("trees of several levels are as sound as small ones")
  func largeTrees() throws {
    _ = try run(3000) {
      $0.metadataBlocks = 3000
      $0.dataBlocks = 60000
      $0.virtualBlocks = 100_000
      $0.devicesMax = 400
      $0.compareEvery = 40
    }
  }
}
