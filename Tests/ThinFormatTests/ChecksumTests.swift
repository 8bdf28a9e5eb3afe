import BlockIO
import CDMThin
import Simulation
import TestSupport
import Testing

@testable import ThinFormat

@Suite struct ChecksumTests {
  @Test("the instruction gives the table's CRC for every length up to 5000, seed and alignment")
  func instruction() {
    var random = SplitMix64(seed: seed())
    let data = randomBytes(5000 + 8, &random)
    data.withUnsafeBytes { bytes in
      for length in 0...5000 {
        let start = bytes.baseAddress.map { $0 + length % 8 }
        for register: UInt32 in [0, .max, UInt32.random(in: 0 ... .max, using: &random)] {
          let reference = dmthin_crc32c_reference(register, start, length)
          if dmthin_crc32c(register, start, length) != reference {
            Issue.record("length \(length), register \(register)")
            return
          }
        }
      }
    }
  }

  @Test("the CRC is CRC-32C without its final inversion")
  func checkValue() {
    // The check value that catalogues of CRCs give for "123456789".
    let crc = dmthin_crc32c_reference(.max, "123456789", 9)
    #expect(crc ^ .max == 0xE306_9283)
  }

  @Test("a sealed block is sound only for its kind and number", arguments: BlockKind.allCases)
  func sealed(_ kind: BlockKind) throws {
    var random = SplitMix64(seed: seed())
    let sealed = block(randomBytes(Limits.blockBytes, &random))
    BlockHeader.seal(sealed.bytes, number: 123, kind: kind)
    try BlockHeader.verify(sealed.span, number: 123, kind: kind)
    #expect(BlockHeader.kind(of: sealed.span) == kind)
    for other in BlockKind.allCases where other != kind {
      #expect(throws: FormatError.wrongKind(expected: other, found: kind)) {
        try BlockHeader.verify(sealed.span, number: 123, kind: other)
      }
    }
    #expect(throws: FormatError.blockNumber(expected: 122, found: 123)) {
      try BlockHeader.verify(sealed.span, number: 122, kind: kind)
    }
  }

  @Test("a sealed block with any one bit inverted is refused", arguments: BlockKind.allCases)
  func flipped(_ kind: BlockKind) {
    var random = SplitMix64(seed: seed())
    let sealed = block(randomBytes(Limits.blockBytes, &random))
    BlockHeader.seal(sealed.bytes, number: 5, kind: kind)
    for bit in 0..<(Limits.blockBytes * 8) {
      sealed.bytes[bit / 8] ^= 1 << UInt8(bit % 8)
      let isSound = (try? BlockHeader.verify(sealed.span, number: 5, kind: kind)) != nil
      #expect(!isSound, "bit \(bit)")
      sealed.bytes[bit / 8] ^= 1 << UInt8(bit % 8)
    }
    #expect((try? BlockHeader.verify(sealed.span, number: 5, kind: kind)) != nil)
  }

  /// What the kernel writes when it formats 1024 blocks.
  @Test("blocks formatted by the kernel get the kernel's checksums")
  func formatted() {
    func checksum(_ block: AlignedBuffer) -> UInt32 {
      RecordView<BlockHeader>(block.span)[BlockHeader.checksum]
    }
    let index = AlignedBuffer(count: Limits.blockBytes)
    IndexEntry(bitmapBlock: 3, freeCount: 16320 - 8, noneFreeBefore: 8)
      .encode(into: index.bytes, at: IndexBlock.offset(ofEntry: 0))
    BlockHeader.seal(index.bytes, number: 1, kind: .index)
    #expect(checksum(index) == 0x18e0_660a)

    let overflow = AlignedBuffer(count: Limits.blockBytes)
    BtreeNodeRecord.begin(
      overflow.bytes, isLeaf: true, valueSize: TreeKind.spaceMapOverflow.valueSize)
    BlockHeader.seal(overflow.bytes, number: 2, kind: .btreeNode)
    #expect(checksum(overflow) == 0xc360_e452)

    let bitmap = AlignedBuffer(count: Limits.blockBytes)
    for block in 0..<8 { Bitmap.setCount(bitmap.bytes, block, 1) }
    BlockHeader.seal(bitmap.bytes, number: 3, kind: .bitmap)
    #expect(checksum(bitmap) == 0xa19f_6375)

    let dataIndex = AlignedBuffer(count: Limits.blockBytes)
    BtreeNodeRecord.begin(
      dataIndex.bytes, isLeaf: true, valueSize: TreeKind.spaceMapIndex.valueSize)
    BlockHeader.seal(dataIndex.bytes, number: 4, kind: .btreeNode)
    #expect(checksum(dataIndex) == 0x787f_52c8)
  }
}
