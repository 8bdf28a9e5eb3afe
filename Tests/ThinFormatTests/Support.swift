import BlockIO
import Simulation
import TestSupport
import ThinFormat

/// Bytes of `count` at random.
func randomBytes(_ count: Int, _ random: inout SplitMix64) -> [UInt8] {
  (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
}

/// The bytes of a block.
func bytes(_ block: AlignedBuffer) -> [UInt8] { Array(block.bytes) }

/// A block with these bytes.
func block(_ bytes: [UInt8]) -> AlignedBuffer {
  let buffer = AlignedBuffer(count: Limits.blockBytes)
  buffer.bytes.copyBytes(from: bytes)
  return buffer
}

/// A node of `count` entries, keys 10, 20, 30, ..., sealed as block 7.
func node(count: Int, valueSize: Int, isLeaf: Bool = true) -> AlignedBuffer {
  let buffer = AlignedBuffer(count: Limits.blockBytes)
  BtreeNodeRecord.begin(buffer.bytes, isLeaf: isLeaf, valueSize: valueSize)
  BtreeNodeRecord.setEntryCount(buffer.bytes, count)
  for i in 0..<count { setKey(buffer, i, UInt64(10 * (i + 1))) }
  BlockHeader.seal(buffer.bytes, number: 7, kind: .btreeNode)
  return buffer
}

/// Sets one key of a node and makes its checksum right.
func setKey(_ node: AlignedBuffer, _ i: Int, _ key: UInt64) {
  node.bytes.storeBytes(of: key.littleEndian, toByteOffset: 32 + 8 * i, as: UInt64.self)
  BlockHeader.reseal(node.bytes, kind: .btreeNode)
}

/// The format error of a node; nil if it is valid.
func fault(of node: AlignedBuffer, number: UInt64 = 7, leafValueSize: Int) -> FormatError? {
  do throws(FormatError) {
    _ = try BtreeNodeView(validating: node.span, number: number, leafValueSize: leafValueSize)
    return nil
  } catch {
    return error
  }
}
