import BlockIO
import Simulation
import TestSupport
import Testing

@testable import ThinFormat

@Suite struct SpaceMapTests {
  @Test("the lower bit of a pair is the more significant bit of the count")
  func pairs() {
    for (count, byte): (UInt8, UInt8) in [(0, 0x00), (1, 0xAA), (2, 0x55), (3, 0xFF)] {
      let bitmap = AlignedBuffer(count: Limits.blockBytes)
      for entry in 0..<Limits.entriesPerBitmap { Bitmap.setCount(bitmap.bytes, entry, count) }
      #expect(bitmap.bytes[..<16].allSatisfy { $0 == 0 })
      #expect(bitmap.bytes[16...].allSatisfy { $0 == byte })
      #expect(Bitmap.swapped(Bitmap.swapped(count)) == count)
    }
  }

  @Test("a bitmap written by the kernel has the known counts")
  func kernelBitmap() {
    // Blocks 0, 2 and 5 to 12 of a new pool after its first resume.
    let bitmap = AlignedBuffer(count: Limits.blockBytes)
    for entry in [0, 2, 5, 6, 7, 8, 9, 10, 11, 12] { Bitmap.setCount(bitmap.bytes, entry, 1) }
    #expect(Array(bitmap.bytes[16..<21]) == [0x22, 0xa8, 0xaa, 0x02, 0])
  }

  @Test("setting one count changes no other")
  func independent() {
    var random = SplitMix64(seed: seed())
    let bitmap = AlignedBuffer(count: Limits.blockBytes)
    var model = [UInt8](repeating: 0, count: Limits.entriesPerBitmap)
    for _ in 0..<50_000 {
      let entry = Int.random(in: 0..<model.count, using: &random)
      model[entry] = UInt8.random(in: 0...3, using: &random)
      Bitmap.setCount(bitmap.bytes, entry, model[entry])
    }
    #expect(model.indices.allSatisfy { Bitmap.count(bitmap.span, $0) == model[$0] })
    #expect(bitmap.bytes[..<16].allSatisfy { $0 == 0 })
  }

  @Test("a map has a bitmap for every 16,320 blocks, rounded up")
  func bitmapCount() {
    for (blocks, count): (UInt64, UInt64) in [
      (0, 0), (1, 1), (16319, 1), (16320, 1), (16321, 2), (4_161_600, 255), (4_161_601, 256),
      (.max, UInt64.max / 16320 + 1),
    ] {
      var root = SpaceMapRoot()
      root.blockCount = blocks
      #expect(root.bitmapCount == count)
    }
    #expect(Limits.metadataBlocksMax == 4_161_600 && Limits.metadataSectorsMax == 33_292_800)
  }
}
