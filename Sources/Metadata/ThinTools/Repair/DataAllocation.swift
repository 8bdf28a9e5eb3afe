import PersistentData
import ThinFormat

/// What a generation's data space map says of each data block, as far as it can be read.
///
/// Memory: a quarter of a byte for each data block, and some for each count of three and more.
struct DataAllocation {
  private let reader: BlockReader
  private var bitmaps: [UInt64: GenerationOrder.BitmapCopy] = [:]
  private var overflow: [UInt64: UInt32]?

  /// The data space map of a superblock.
  init(_ reader: BlockReader, _ map: SpaceMapRoot) {
    self.reader = reader
    var blocks: [(region: UInt64, bitmap: UInt64)] = []
    TreeReader(reader, .spaceMapIndex).forEachReadable(root: map.bitmapRoot, fault: { _ in }) {
      node, i in
      blocks.append((node.key(i), Self.bitmap(node, i)))
    }
    read(blocks)
    var counts: [UInt64: UInt32]? = [:]
    TreeReader(reader, .spaceMapOverflow).forEachReadable(
      root: map.overflowRoot, fault: { _ in counts = nil }
    ) { node, i in
      counts?[node.key(i)] = node.value32(i)
    }
    overflow = counts
  }

  /// The data space map whose index tree has these leaves.
  init(_ reader: BlockReader, leaves: [UInt64]) {
    self.reader = reader
    var blocks: [(region: UInt64, bitmap: UInt64)] = []
    for leaf in leaves {
      try? reader.withNode(leaf, of: .spaceMapIndex) { node in
        guard node.isLeaf else { return }
        for i in 0..<node.entryCount { blocks.append((node.key(i), Self.bitmap(node, i))) }
      }
    }
    read(blocks)
  }

  private static func bitmap(_ node: borrowing BtreeNodeView, _ i: Int) -> UInt64 {
    IndexEntry(decoding: node.bytes, at: node.valueOffset(i)).bitmapBlock
  }

  private mutating func read(_ blocks: [(region: UInt64, bitmap: UInt64)]) {
    var order = GenerationOrder(reader)
    for (region, block) in blocks where block < reader.blockCount && bitmaps[region] == nil {
      bitmaps[region] = order.bitmap(block)
    }
  }

  /// How many leaves map the data block; the largest number where it is three or more and not known; nil
  /// where nothing is known.
  func count(of block: UInt64) -> UInt32? {
    let per = UInt64(Limits.entriesPerBitmap)
    guard let bitmap = bitmaps[block / per] else { return nil }
    let count = bitmap.count(Int(block % per))
    return count < 3 ? count : overflow?[block] ?? .max
  }
}
