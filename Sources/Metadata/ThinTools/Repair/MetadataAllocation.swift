import PersistentData
import ThinFormat

/// What a generation's metadata space map says of each block, as far as it can be read.
///
/// Memory: a bitmap's entries for each bitmap, a mebibyte at most, and some for each count of three and
/// more.
struct MetadataAllocation {
  private var regions: [GenerationOrder.BitmapCopy?] = []
  private var overflow: [UInt64: UInt32] = [:]

  /// - Parameters:
  ///   - index: the generation's metadata index.
  ///   - overflowRoot: the root of its tree of counts of three and more, where it is known.
  init(_ reader: BlockReader, _ index: GenerationOrder.Index, overflowRoot: UInt64?) {
    var order = GenerationOrder(reader)
    for block in index.bitmaps { regions.append(order.bitmap(block)) }
    guard let overflowRoot else { return }
    var counts: [UInt64: UInt32] = [:]
    TreeReader(reader, .spaceMapOverflow).forEachReadable(root: overflowRoot, fault: { _ in }) {
      node, i in
      let at = node.valueOffset(i)
      counts[node.key(i)] = unsafe node.bytes.unsafeLoadUnaligned(
        fromByteOffset: at, as: UInt32.self)
    }
    overflow = counts
  }

  /// How often the block is referred to; at least so often where the tree of larger counts is lost; 0
  /// where nothing is known.
  func count(of block: UInt64) -> UInt32 {
    let region = Int(block / UInt64(Limits.entriesPerBitmap))
    guard region < regions.count, let bitmap = regions[region] else { return 0 }
    let count = bitmap.count(Int(block % UInt64(Limits.entriesPerBitmap)))
    return count < 3 ? count : max(3, overflow[block] ?? 3)
  }
}
