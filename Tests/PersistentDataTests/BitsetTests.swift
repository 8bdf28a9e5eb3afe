import Simulation
import TestSupport
import Testing

@testable import PersistentData

@Suite struct BitsetTests {
  @Test("a bitset is a set", arguments: [1, 63, 64, 65, 127, 128, 1000])
  func model(_ limit: UInt64) {
    var random = SplitMix64(seed: seed())
    var bits = Bitset(limit: limit)
    var model: Set<UInt64> = []
    for step in 0..<2000 {
      let block = UInt64.random(in: 0..<limit, using: &random)
      let isNew = bits.insert(block)
      #expect(isNew == model.insert(block).inserted)
      let probe = UInt64.random(in: 0..<limit, using: &random)
      #expect(bits.contains(probe) == model.contains(probe))
      #expect(bits.count == model.count)
      let from = UInt64.random(in: 0..<(limit + 130), using: &random)
      #expect(bits.first(from: from) == model.filter { $0 >= from }.min(), "from \(from)")
      if step % 500 == 499 {
        bits.removeAll()
        model = []
        #expect(bits.count == 0 && bits.first(from: 0) == nil)
      }
    }
  }

  @Test("no number beyond the limit is a member", arguments: [1, 64, 100, 1000])
  func beyondLimit(_ limit: UInt64) {
    var bits = Bitset(limit: limit)
    for block in 0..<limit { bits.insert(block) }
    for block in [limit + 64, 1 << 35, 1 << 63, .max] {
      let isMember = bits.contains(block)
      #expect(!isMember, "\(block)")
    }
  }
}
