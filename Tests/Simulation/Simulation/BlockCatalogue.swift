import BlockIO
import PersistentData
public import ThinFormat
import ThinMetadata

/// The roles of all blocks of a sound pool, to choose blocks whose damage matters.
public struct BlockCatalogue: Sendable {
  /// The role of a block.
  public enum Role: Hashable, Sendable, CustomStringConvertible {
    case superblock
    case metadataSnapshot
    case node(TreeKind, isLeaf: Bool)
    case dataBitmap
    case metadataBitmap
    case index

    /// The name in statistics.
    public var description: String {
      switch self {
      case .superblock: "superblock"
      case .metadataSnapshot: "metadata snapshot"
      case .node(let kind, let isLeaf): "\(kind) \(isLeaf ? "leaf" : "internal node")"
      case .dataBitmap: "data bitmap"
      case .metadataBitmap: "metadata bitmap"
      case .index: "metadata index"
      }
    }
  }

  /// The role of each block that the pool refers to.
  public private(set) var roles: [UInt64: Role] = [:]
  /// Blocks by role, ascending.
  public private(set) var blocks: [Role: [UInt64]] = [:]
  /// Sound nodes without references: earlier generations.
  public private(set) var stale: [UInt64] = []

  /// Walks a pool that must be sound.
  /// - Throws: errors of reading, if it is not sound.
  public init(_ device: MemoryDevice) throws {
    let view = try MetadataView(device, source: .current)
    let reader = view.reader
    add(0, .superblock)
    var states = [view.superblock]
    if view.superblock.metadataSnapshot != 0 {
      add(view.superblock.metadataSnapshot, .metadataSnapshot)
      states.append(try MetadataView(device, source: .metadataSnapshot).superblock)
    }
    for superblock in states {
      try walk(superblock.detailsRoot, .details, reader)
      try walk(superblock.mappingRoot, .devices, reader)
      let listing = MetadataView(
        reader: reader, superblock: superblock, number: 0, dataBlockCount: view.dataBlockCount)
      for device in try listing.deviceRoots() { try walk(device.root.rawValue, .mappings, reader) }
    }
    let data = view.superblock.dataSpaceMap
    try walk(data.bitmapRoot, .spaceMapIndex, reader)
    try walk(data.overflowRoot, .spaceMapOverflow, reader)
    var bitmaps: [UInt64] = []
    try TreeReader(reader, .spaceMapIndex).forEach(root: data.bitmapRoot) { node, i in
      bitmaps.append(IndexEntry(decoding: node.bytes, at: node.valueOffset(i)).bitmapBlock)
    }
    for bitmap in bitmaps { add(bitmap, .dataBitmap) }
    let metadata = view.superblock.metadataSpaceMap
    try walk(metadata.overflowRoot, .spaceMapOverflow, reader)
    add(metadata.bitmapRoot, .index)
    let index = RawSpan(_unsafeBytes: device.peek(metadata.bitmapRoot))
    for i in 0..<Int(metadata.bitmapCount) {
      let entry = IndexEntry(decoding: index, at: IndexBlock.offset(ofEntry: i))
      add(entry.bitmapBlock, .metadataBitmap)
    }
    for block in 0..<reader.blockCount where roles[block] == nil {
      let bytes = RawSpan(_unsafeBytes: device.peek(block))
      if BlockHeader.kind(of: bytes) == .btreeNode { stale.append(block) }
    }
    for role in blocks.keys { blocks[role]?.sort() }
  }

  private mutating func add(_ block: UInt64, _ role: Role) {
    guard roles[block] == nil else { return }
    roles[block] = role
    blocks[role, default: []].append(block)
  }

  private mutating func walk(_ block: UInt64, _ kind: TreeKind, _ reader: BlockReader) throws {
    guard roles[block] == nil else { return }
    var children: [UInt64] = []
    var isLeaf = true
    try reader.withNode(block, of: kind) { node in
      isLeaf = node.isLeaf
      guard !node.isLeaf else { return }
      for i in 0..<node.entryCount { children.append(node.value64(i)) }
    }
    add(block, .node(kind, isLeaf: isLeaf))
    for child in children { try walk(child, kind, reader) }
  }
}
