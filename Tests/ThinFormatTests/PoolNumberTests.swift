import Testing
import ThinFormat

@Suite struct PoolNumberTests {
  @Test("numbers print, compare and hash as their integers")
  func likeIntegers() {
    #expect("\(DataBlock(1 << 40))" == "1099511627776")
    #expect(VirtualBlock(.max) > 0 && VirtualBlock(5) == 5 && VirtualBlock(5) != 6)
    #expect(Set([7, 7, 8] as [MetadataBlock]).count == 2)
    #expect(([9, 1, .max] as [ThinID]).sorted() == [1, 9, ThinID(0xFF_FFFF)])
  }

  @Test("a range names its numbers in order")
  func ranges() {
    let range = DataBlock(3)..<DataBlock(6)
    #expect(Array(range) == [3, 4, 5] && range.length == 3 && range.rawValues == 3..<6)
    #expect(Range<DataBlock>(3..<6) == range)
    #expect(DataBlock(3).distance(to: 1) == -2 && DataBlock(3).advanced(by: -2) == 1)
  }

  @Test("a range of all 64-bit numbers has a length")
  func wholeRange() {
    #expect((VirtualBlock(0)..<VirtualBlock(.max)).length == .max)
    #expect((VirtualBlock(0)..<VirtualBlock(.max)).contains(VirtualBlock(1 << 63)))
  }
}
