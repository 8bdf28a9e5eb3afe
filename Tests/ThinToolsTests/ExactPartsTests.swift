import Testing

@testable import PersistentData
@testable import ThinTools

/// Which subtrees beside each other have a number of mappings together.
@Suite struct ExactPartsTests {
  private func only(_ parts: [(keys: ClosedRange<UInt64>, mapped: UInt64)], _ mapped: UInt64)
    -> [Int]?
  {
    ExactParts.only(
      parts.map {
        TreeForest.Extent(
          firstKey: $0.keys.lowerBound, lastKey: $0.keys.upperBound, height: 1,
          leafEntries: $0.mapped, isSound: true)
      }, mapped: mapped)
  }

  @Test("the parts are those that have the number and do not overlap, if there is one way")
  func oneWay() {
    let parts: [(ClosedRange<UInt64>, UInt64)] = [(0...9, 10), (10...19, 5), (19...30, 7)]
    let ways: [(UInt64, [Int]?)] = [
      (10, [0]), (5, [1]), (15, [0, 1]), (17, [0, 2]), (12, nil), (22, nil), (9, nil), (23, nil),
    ]
    for (mapped, way) in ways { #expect(only(parts, mapped) == way, "\(mapped)") }
    #expect(only([], 1) == nil)
    // 10 and 4 overlap.
    #expect(only([(0...9, 10), (5...14, 4), (10...19, 6)], 14) == nil)
  }

  @Test("where there are several ways, there is none")
  func severalWays() {
    let parts: [(ClosedRange<UInt64>, UInt64)] = [(0...9, 10), (10...19, 10), (20...29, 10)]
    #expect(only(parts, 10) == nil && only(parts, 20) == nil && only(parts, 30) == [0, 1, 2])
  }

  @Test(
    "numbers that are too large for their sum, and too many parts or ways, end without an answer")
  func limits() {
    let parts: [(ClosedRange<UInt64>, UInt64)] = [(0...9, .max), (10...19, .max), (20...29, 3)]
    #expect(only(parts, .max) == nil && only(parts, 3) == [2])
    func even(_ count: UInt64) -> [(keys: ClosedRange<UInt64>, mapped: UInt64)] {
      (0..<count).map { ($0 * 10...$0 * 10 + 9, 2) }
    }
    #expect(only(even(1024), 2048) == Array(0..<1024))
    #expect(only(even(1025), 2050) == nil)
    // No odd number can be reached, on 2^200 ways.
    #expect(only(even(200), 201) == nil)
  }
}
