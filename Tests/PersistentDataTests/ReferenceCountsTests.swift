import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import PersistentData

@Suite struct ReferenceCountsTests {
  /// Three regions, the middle one never touched, and a part of a fourth.
  private static let blockCount = UInt64(3 * 16320 + 100)

  /// A place with neighbours in one word, at the seams of regions and at the end.
  private static func block(_ random: inout SplitMix64) -> UInt64 {
    switch Int.random(in: 0..<5, using: &random) {
    case 4: 7
    case 0: UInt64.random(in: 0..<40, using: &random)
    case 1: UInt64.random(in: (2 * 16320)..<(3 * 16320), using: &random)
    case 2:
      16320 * UInt64.random(in: 2...3, using: &random) + UInt64.random(in: 0...3, using: &random)
    default: blockCount - 1 - UInt64.random(in: 0..<5, using: &random)
    }
  }

  @Test("counts are those of a dictionary, however often and in what order they change")
  func model() {
    var random = SplitMix64(seed: seed())
    let counts = ReferenceCounts(blockCount: Self.blockCount)
    var model: [UInt64: UInt32] = [:]
    var largest: UInt32 = 0
    for step in 0..<300_000 {
      // Phases of growth and of shrinking, so that counts pass three often, both ways.
      let grows = Int.random(in: 0..<10, using: &random) < (step / 30_000 % 2 == 0 ? 7 : 3)
      let block = Self.block(&random)
      let old = model[block, default: 0]
      if grows {
        let before = counts.increment(block)
        if before != old { Issue.record("block \(block): \(before), not \(old)") }
        model[block] = old + 1
        largest = max(largest, old + 1)
      } else if old > 0 {
        counts.decrement(block)
        model[block] = old - 1
      }
      if step % 50_000 == 0 { expectEqual(counts, model) }
    }
    #expect(largest > 1000)
    expectEqual(counts, model)
    for (block, count) in model { for _ in 0..<count { counts.decrement(block) } }
    expectEqual(counts, [:])
  }

  private func expectEqual(_ counts: ReferenceCounts, _ model: [UInt64: UInt32]) {
    for block in 0..<Self.blockCount where counts.count(of: block) != model[block, default: 0] {
      Issue.record("block \(block): \(counts.count(of: block)), not \(model[block, default: 0])")
      return
    }
    #expect(counts.count(of: Self.blockCount) == 0 && counts.count(of: .max) == 0)
    var overflow: [UInt64: UInt32] = [:]
    var ascending = true
    var last: UInt64?
    counts.forEachOverflow { block, count in
      overflow[block] = count
      ascending = ascending && last.map { $0 < block } ?? true
      last = block
    }
    #expect(ascending && overflow == model.filter { $0.value >= 3 })
    for region in 0..<counts.regionCount { expectEqual(counts, model, region: region) }
  }

  private func expectEqual(_ counts: ReferenceCounts, _ model: [UInt64: UInt32], region: Int) {
    var summary = ReferenceCounts.Summary()
    let bitmap = AlignedBuffer(count: Limits.blockBytes)
    for entry in (0..<Limits.entriesPerBitmap).reversed() {
      let count = model[UInt64(region * Limits.entriesPerBitmap + entry), default: 0]
      Bitmap.setCount(bitmap.bytes, entry, UInt8(min(count, 3)))
      if count > 0 { summary.used += 1 }
      if count > 2 { summary.overflowing += 1 }
      if count == 0 { summary.firstFree = entry }
    }
    #expect(counts.summary(ofRegion: region) == summary)
    let encoded = AlignedBuffer(count: Limits.blockBytes)
    for i in 0..<Limits.blockBytes { encoded.bytes[i] = i < 16 ? 0 : 0x5A }
    counts.encode(region: region, into: encoded.bytes)
    #expect(Array(encoded.bytes) == Array(bitmap.bytes))
    func matches(upTo end: Int = 4096) -> Bool {
      counts.region(region, matches: bitmap.span.extracting(16..<end))
    }
    #expect(matches() && !matches(upTo: 4095))
    var random = SplitMix64(seed: UInt64(model.count))
    for at in [16, 4095, Int.random(in: 16..<4096, using: &random)] {
      bitmap.bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
      #expect(!matches(), "byte \(at)")
      bitmap.bytes[at] = encoded.bytes[at]
    }
  }

  @Test("a full region has no free entry")
  func fullRegion() {
    let counts = ReferenceCounts(blockCount: 16320 + 1)
    for block in 0..<UInt64(16320) { counts.increment(block) }
    #expect(counts.summary(ofRegion: 0).firstFree == 16320)
    #expect(counts.summary(ofRegion: 0).used == 16320)
    #expect(counts.summary(ofRegion: 1).firstFree == 0)
    #expect(ReferenceCounts(blockCount: 0).regionCount == 0)
  }

  @Test("mappings of a leaf are counted, those beyond the end and from the future reported")
  func mappings() throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<200 {
      let device = MemoryDevice(byteCount: 4096 * 2)
      let counts = ReferenceCounts(blockCount: Self.blockCount)
      var model: [UInt64: UInt32] = [:]
      var beyondEnd: Int?
      var fromFuture: Int?
      // Runs of all lengths, some over the seams of regions, some over the end.
      let runLength = [1, 3, 40].randomElement(using: &random) ?? 1
      var previous: UInt64?
      let entries = (0..<252).map { i in
        let isFar = Int.random(in: 0..<200, using: &random) == 0
        var block =
          isFar
          ? UInt64.random(in: Self.blockCount..<(1 << 40), using: &random) : Self.block(&random)
        if let previous, previous < Self.blockCount + 50,
          Int.random(in: 0..<runLength, using: &random) > 0
        {
          block = previous + 1
        }
        previous = block
        let isBeyond = block >= Self.blockCount
        let time = UInt32.random(in: 0...200, using: &random)
        if time > 199 && fromFuture == nil { fromFuture = i }
        if isBeyond {
          beyondEnd = beyondEnd ?? i
        } else {
          model[block, default: 0] += 1
        }
        return NodeEntry(UInt64(i), Mapping(dataBlock: block, time: time).rawValue)
      }
      device.putNode(1, isLeaf: true, entries)
      try BlockReader(device).withNode(1, of: .mappings) { node in
        let found = counts.increment(mappingsOf: node, timeMax: 199)
        #expect(found.beyondEnd == beyondEnd && found.fromFuture == fromFuture)
      }
      #expect(model.allSatisfy { counts.count(of: $0.key) == $0.value })
    }
  }

  @Test("the table of large counts finds what it holds after any removal")
  func overflowTable() {
    var random = SplitMix64(seed: seed())
    var table = OverflowTable()
    var model: [UInt64: UInt32] = [:]
    // Few keys at a time, so that slots are taken, freed and taken again; strides that a weak hash
    // would pile up.
    let stride = [1, 64, 16320, 1 << 24].randomElement(using: &random) ?? 1
    for _ in 0..<100_000 {
      let key = UInt64.random(in: 0..<300, using: &random) * UInt64(stride)
      switch Int.random(in: 0..<5, using: &random) {
      case 0, 1:
        let count = UInt32.random(in: 3...1000, using: &random)
        table.insert(key, count: count)
        model[key] = count
      case 2 where model[key] != nil:
        let old = table.increment(key)
        #expect(old == model[key])
        model[key] = old + 1
      default:
        table.remove(key)
        model[key] = nil
      }
      if table.count(of: key) != model[key, default: 0] { Issue.record("key \(key)") }
    }
    for i in 0..<300 {
      let key = UInt64(i * stride)
      #expect(table.count(of: key) == model[key, default: 0])
    }
  }

  @Test("a count at its largest stays there")
  func largest() {
    var table = OverflowTable()
    table.insert(7, count: .max - 1)
    #expect(table.increment(7) == UInt32.max - 1)
    #expect(table.increment(7) == UInt32.max && table.count(of: 7) == UInt32.max)
  }
}
