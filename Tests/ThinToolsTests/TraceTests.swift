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

  /// Blocks in use with what they hold. Blocks that are free may have been written earlier by a small
  /// cache, and hold something else.
  private func inUse(_ device: MemoryDevice) throws -> [UInt64: [UInt8]] {
    let blocks = try BlockCatalogue(device).roles.keys
    return .init(uniqueKeysWithValues: blocks.map { ($0, Array(device.peek($0))) })
  }

  @Test("the engine leaves sound metadata, the same with a cache of a few blocks")
  func soundMetadata() throws {
    for seed: UInt64 in 1...12 {
      let lines = try TraceGenerator.trace(seed: seed, kind: seed % 3 == 0 ? .wrapping : .small)
      let replayer = TraceReplayer()
      let short = TraceReplayer(cacheBlocksMax: 16)
      var dumps = 0
      var images: [[UInt64: [UInt8]]] = []
      for line in lines {
        try replayer.run(line[...]) { label, device in
          images.append(try inUse(device))
          let report = try checked(device)
          #expect(report.findings.isEmpty, "seed \(seed), dump \(label): \(report.text)")
        }
        try short.run(line[...]) { label, device in
          let isSame = try inUse(device) == images[dumps]
          #expect(isSame, "seed \(seed), dump \(label)")
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
