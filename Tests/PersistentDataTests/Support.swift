import BlockIO
import CDMThin
import Glibc
import Simulation
import Testing
import ThinFormat

/// A device of `blocks` blocks in a memory file, each filled with its own number.
func numberedFile(blocks: Int) throws -> Int32 {
  let fd = dmthin_memory_file("device")
  try #require(fd >= 0)
  var words = [UInt64](repeating: 0, count: 512)
  for block in 0..<blocks {
    for i in 0..<512 { words[i] = UInt64(block) }
    let n = words.withUnsafeBytes { write(fd, $0.baseAddress, 4096) }
    try #require(n == 4096)
  }
  return fd
}

/// Writes a node into `device` and seals it.
func putNode(
  _ device: MemoryDevice, _ block: UInt64, kind: TreeKind = .mappings, isLeaf: Bool,
  _ entries: [(key: UInt64, value: UInt64)]
) {
  let bytes = device.edit(block)
  for i in 0..<bytes.count { bytes[i] = 0 }
  let valueSize = isLeaf ? kind.valueSize : 8
  BtreeNodeRecord.begin(bytes, isLeaf: isLeaf, valueSize: valueSize)
  BtreeNodeRecord.setEntryCount(bytes, entries.count)
  let values = 32 + 8 * BtreeNodeRecord.entriesMax(valueSize: valueSize)
  for (i, entry) in entries.enumerated() {
    bytes.storeBytes(of: entry.key.littleEndian, toByteOffset: 32 + 8 * i, as: UInt64.self)
    bytes.storeBytes(
      of: entry.value.littleEndian, toByteOffset: values + valueSize * i, as: UInt64.self)
  }
  BlockHeader.seal(bytes, number: block, kind: .btreeNode)
}
