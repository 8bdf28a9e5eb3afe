import BlockIO
import PersistentData
import Testing
import ThinFormat

struct SpaceMapWriterTests {
  @Test("space maps written into scattered blocks count themselves")
  func scattered() throws {
    let device = zeroDevice(blocks: 40_000)
    // Every 97th block from the middle on, and the rest downwards: no two are neighbours.
    var free = stride(from: UInt64(20_000), to: 40_000, by: 97).map { $0 }
    free += stride(from: UInt64(19_001), to: 3, by: -97).map { $0 }
    free.reverse()
    let writer = SequentialBlockWriter(device) { free.popLast() }
    let metadataCounts = ReferenceCounts(blockCount: 40_000)
    metadataCounts.increment(0)
    var superblock = Superblock()
    superblock.dataBlockSectors = 128
    superblock.detailsRoot =
      try BtreeBuilder(.details, writer: writer, counts: metadataCounts).finish()
    superblock.mappingRoot =
      try BtreeBuilder(.devices, writer: writer, counts: metadataCounts).finish()
    let maps = SpaceMapWriter(writer: writer, metadataCounts: metadataCounts)
    superblock.dataSpaceMap = try maps.writeDataMap(ReferenceCounts(blockCount: 100_000))
    superblock.metadataSpaceMap = try maps.writeMetadataMap()
    try writer.flush()
    let block = AlignedBuffer(count: Limits.blockBytes)
    superblock.encode(into: block.bytes)
    BlockHeader.seal(block.bytes, number: 0, kind: .superblock)
    try device.write(UnsafeRawBufferPointer(block.bytes), at: 0)
    #expect(try PoolImage(device).problems == [])
  }

  @Test("a tree of any number of entries has no underfull node", arguments: [0, 1, 2, 251, 252])
  func trees(_ base: Int) throws {
    for count in [base, base + 253, base + 504, base + 63_504, base + 64_000] {
      let device = zeroDevice(blocks: 2000)
      let writer = SequentialBlockWriter(device, blockCount: 2000)
      let counts = ReferenceCounts(blockCount: 2000)
      let tree = BtreeBuilder(.devices, writer: writer, counts: counts)
      for key in 0..<count {
        try tree.append(key: UInt64(key)) { buffer, offset in
          buffer.storeBytes(of: UInt64(key * 3), toByteOffset: offset, as: UInt64.self)
        }
      }
      let root = try tree.finish()
      try writer.flush()
      var next = 0
      try walk(device, root, isRoot: true) { key, value in
        #expect(key == UInt64(next) && value == UInt64(next * 3))
        next += 1
      }
      #expect(next == count && counts.count(of: root) == 1)
    }
  }

  private func walk(
    _ device: FileDevice, _ block: UInt64, isRoot: Bool, _ body: (UInt64, UInt64) -> Void
  ) throws {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    try device.read(into: buffer.bytes, at: block * 4096)
    let node = try BtreeNodeView(validating: buffer.span, number: block, leafValueSize: 8)
    #expect(isRoot || node.entryCount >= node.entriesMin)
    for i in 0..<node.entryCount {
      if node.isLeaf {
        body(node.key(i), node.value64(i))
      } else {
        try walk(device, node.value64(i), isRoot: false, body)
      }
    }
  }
}
