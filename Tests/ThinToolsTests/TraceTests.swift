import Simulation
import Testing
import ThinTools

/// Random traces on our engine alone; `contrib/kernel/compare-traces` has the kernel do the same.
@Suite struct TraceTests {
  @Test("a seed means one trace", arguments: TraceGenerator.Kind.allCases.dropLast())
  func sameTrace(_ kind: TraceGenerator.Kind) throws {
    let lines = try TraceGenerator.trace(seed: 11, kind: kind)
    #expect(try TraceGenerator.trace(seed: 11, kind: kind) == lines)
    #expect(try TraceGenerator.trace(seed: 12, kind: kind) != lines)
  }

  @Test("the engine leaves sound metadata")
  func soundMetadata() throws {
    for seed: UInt64 in 1...12 {
      let replayer = TraceReplayer()
      var dumps = 0
      for line in try TraceGenerator.trace(seed: seed, kind: seed % 3 == 0 ? .wrapping : .small) {
        try replayer.run(line[...]) { label, device in
          let report = try checked(device)
          #expect(report.findings.isEmpty, "seed \(seed), dump \(label): \(report.text)")
          dumps += 1
        }
      }
      #expect(dumps >= 2)
    }
  }

  @Test("turns can be taken by one engine after the other, on the same device")
  func turns() throws {
    let pieces = try TraceGenerator.turns(seed: 3, count: 8, metadataBlocks: 2000)
    let alone = TraceReplayer()
    let device = MemoryDevice(byteCount: 2000 * 4096)
    for piece in pieces {
      let other = TraceReplayer(onto: device)
      for line in piece {
        try alone.run(line[...]) { _, _ in }
        try other.run(line[...]) { _, _ in }
      }
      let report = try checked(device)
      #expect(report.findings.isEmpty, "\(report.text)")
    }
    let isSame = (0..<2000).allSatisfy { Array(device.peek($0)) == Array(alone.device.peek($0)) }
    #expect(isSame)
  }
}
