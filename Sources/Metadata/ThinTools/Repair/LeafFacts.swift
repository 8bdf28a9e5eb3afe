import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// What salvage remembers of leaves of mappings.
///
/// Memory: 40 bytes or so for each leaf, and for `protectSharedBlocks` `ReferenceCounts`' for data
/// blocks.
final class LeafFacts {
  private struct Leaf {
    var entries: UInt16 = 0
    /// Entries with impossible data blocks.
    var lost: UInt16 = 0
    /// How often saved devices lead here, two standing for more.
    var reached: UInt8 = 0
    var latestTime: UInt32 = 0
  }

  /// Mappings to this data block and above are impossible.
  private let dataBlockCount: UInt64
  /// The latest time of any mapping that can be used.
  private(set) var latestTime: UInt32 = 0
  /// One more than the largest data block mapped, of those that can be.
  private(set) var dataBlocksSeen: UInt64 = 0
  /// Whether any leaf has impossible data blocks.
  private(set) var hasLost = false
  private var leaves: [UInt64: Leaf] = [:]

  /// - Parameter dataBlockCount: mappings to this data block and above are impossible.
  init(dataBlockCount: UInt64) { self.dataBlockCount = dataBlockCount }

  func add(_ block: UInt64, _ node: borrowing BtreeNodeView) {
    var leaf = Leaf()
    leaf.entries = UInt16(node.entryCount)
    var last: UInt64?
    for i in 0..<node.entryCount {
      let mapping = Mapping(rawValue: node.value64(i))
      guard mapping.dataBlock < dataBlockCount else {
        leaf.lost += 1
        continue
      }
      leaf.latestTime = max(leaf.latestTime, mapping.time)
      last = max(last ?? 0, mapping.dataBlock)
    }
    if leaf.lost > 0 { hasLost = true }
    if let last { dataBlocksSeen = max(dataBlocksSeen, last + 1) }
    latestTime = max(latestTime, leaf.latestTime)
    leaves[block] = leaf
  }

  /// Entries of a leaf that can be used.
  func usable(_ block: UInt64) -> UInt64 {
    leaves[block].map { UInt64($0.entries - $0.lost) } ?? 0
  }

  /// Entries of a leaf with impossible data blocks.
  func lost(_ block: UInt64) -> UInt64 { UInt64(leaves[block]?.lost ?? 0) }

  /// Raises snapshot times where the kernel would otherwise write into data blocks in place that
  /// have another reference.
  ///
  /// The kernel takes a mapping for its device's alone when its time is not below the device's
  /// snapshot time. In sound metadata that is never so of a data block with two references, whatever
  /// the devices; what is put together from parts must be made so.
  /// - Returns: the devices whose snapshot time was raised, with the former one.
  func protectSharedBlocks(
    _ devices: inout [ThinDevice], _ forest: TreeForest, _ reader: BlockReader
  ) -> [(id: ThinID, before: UInt32)] {
    for device in devices {
      forest.forEachUsableLeaf(.mappings, root: device.root.rawValue) { block in
        if let reached = leaves[block]?.reached, reached < 2 { leaves[block]?.reached += 1 }
      }
    }
    let counts = countReferences(of: leaves.filter { $0.value.reached > 0 }.keys, forest.stream)
    var raised: [(id: ThinID, before: UInt32)] = []
    for i in devices.indices {
      let before = devices[i].details.snapshottedTime
      var needed = before
      forest.forEachUsableLeaf(.mappings, root: devices[i].root.rawValue) { block in
        guard let leaf = leaves[block], leaf.latestTime >= needed else { return }
        if leaf.reached > 1 {
          needed = leaf.latestTime + 1
        } else if counts.namesTwice {
          needed = max(needed, latestShared(block, counts.counts, reader).map { $0 + 1 } ?? 0)
        }
      }
      guard needed > before else { continue }
      devices[i].details.snapshottedTime = needed
      raised.append((devices[i].id, before))
    }
    return raised
  }

  /// How often the leaves that were met name each data block.
  func references(_ stream: BlockStream) -> ReferenceCounts {
    countReferences(of: leaves.keys, stream).counts
  }

  /// How often leaves name each data block. They are read once more, in disk order: of a pool that is
  /// sound, nothing has to be counted.
  private func countReferences(of blocks: some Sequence<UInt64>, _ stream: BlockStream) -> (
    counts: ReferenceCounts, namesTwice: Bool
  ) {
    let counts = ReferenceCounts(blockCount: dataBlockCount)
    var namesTwice = false
    let reached = blocks.sorted()
    var at = 0
    stream.read(
      next: { () -> UInt64? in
        guard at < reached.count else { return nil }
        at += 1
        return reached[at - 1]
      },
      body: { block, bytes, failure in
        guard failure == nil,
          let node = try? BtreeNodeView(
            validating: bytes, number: block, leafValueSize: TreeKind.mappings.valueSize)
        else { return }
        for i in 0..<node.entryCount {
          let dataBlock = Mapping(rawValue: node.value64(i)).dataBlock
          if dataBlock < dataBlockCount, counts.increment(dataBlock) > 0 { namesTwice = true }
        }
      })
    return (counts, namesTwice)
  }

  /// The latest time of a leaf's mappings to data blocks that are named twice.
  private func latestShared(_ block: UInt64, _ counts: ReferenceCounts, _ reader: BlockReader)
    -> UInt32?
  {
    var latest: UInt32?
    try? reader.withNode(block, of: .mappings) { node in
      for i in 0..<node.entryCount {
        let mapping = Mapping(rawValue: node.value64(i))
        if counts.count(of: mapping.dataBlock) > 1 { latest = max(latest ?? 0, mapping.time) }
      }
    }
    return latest
  }
}
