public import BlockIO
public import PersistentData
public import ThinFormat

/// A thin device in the metadata.
public struct ThinDevice: Equatable, Sendable {
  /// Its id.
  public var id: ThinID
  /// Root of its mapping tree.
  public var root: MetadataBlock
  /// Its details.
  public var details: DeviceDetails

  /// A device with these values.
  public init(id: ThinID, root: MetadataBlock, details: DeviceDetails) {
    self.id = id
    self.root = root
    self.details = details
  }
}

/// Why the devices of a pool cannot be listed.
public enum MetadataError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A superblock is unusable.
  case superblock(block: MetadataBlock, BlockProblem)
  /// A tree is damaged.
  case tree(TreeFault)
  /// A device is in only one of the two trees.
  case deviceMismatch(id: ThinID, inDetails: Bool)
  /// There is no metadata snapshot.
  case noMetadataSnapshot
  /// The metadata snapshot is not at the requested block.
  case otherMetadataSnapshot(named: MetadataBlock, held: MetadataBlock)

  /// One line for users.
  public var description: String {
    switch self {
    case .superblock(let block, let problem): return "superblock at block \(block): \(problem)"
    case .tree(let fault): return "\(fault)"
    case .deviceMismatch(let id, let inDetails):
      let (has, lacks) =
        inDetails
        ? ("device details", "a mapping tree") : ("a mapping tree", "device details")
      return "thin device \(id) has \(has) but expected \(lacks) too, found none"
    case .noMetadataSnapshot:
      return "no current metadata snap: the pool holds no metadata snapshot; "
        + "make one with: dmsetup message POOL 0 reserve_metadata_snap"
    case .otherMetadataSnapshot(let named, let held):
      return "block \(named) is not the pool's metadata snapshot, which is at block \(held): "
        + "give -m \(held), or -m alone"
    }
  }
}

/// Read-only access to a pool's metadata: one superblock and everything it refers to. Nothing read
/// is trusted, and nothing is written.
public struct MetadataView {
  /// Reads blocks.
  public let reader: BlockReader
  /// The superblock of this view.
  public let superblock: Superblock
  /// The superblock at block 0, the same as `superblock` unless this is a metadata snapshot.
  public let live: Superblock
  /// The block of `superblock`: 0, or that of a metadata snapshot.
  public let superblockNumber: MetadataBlock
  /// Data blocks of the pool. A metadata snapshot does not have the number, so it comes from the
  /// live superblock.
  public let dataBlockCount: UInt64

  /// The state of the pool to read.
  public enum Source: Equatable, Sendable {
    /// The last committed one.
    case current
    /// The held metadata snapshot.
    case metadataSnapshot
    /// The held metadata snapshot, if it is at this block.
    case metadataSnapshotAt(MetadataBlock)
  }

  /// Reads the superblock of `source`.
  public init(_ device: any BlockDevice, source: Source) throws(MetadataError) {
    reader = BlockReader(device)
    let live = try Self.readSuperblock(reader, 0)
    switch source {
    case .current:
      superblock = live
      superblockNumber = 0
    case .metadataSnapshot:
      superblockNumber = MetadataBlock(live.metadataSnapshot)
      superblock = try Self.readSnapshot(reader, live)
    case .metadataSnapshotAt(let block):
      let held = MetadataBlock(live.metadataSnapshot)
      guard held == block || held == 0 else {
        throw .otherMetadataSnapshot(named: block, held: held)
      }
      superblockNumber = MetadataBlock(live.metadataSnapshot)
      superblock = try Self.readSnapshot(reader, live)
    }
    self.live = live
    dataBlockCount = live.dataSpaceMap.blockCount
  }

  /// A view of a `superblock` that was found in another way than by reading block 0.
  public init(
    reader: BlockReader, superblock: Superblock, number: MetadataBlock, dataBlockCount: UInt64
  ) {
    self.reader = reader
    self.superblock = superblock
    live = superblock
    superblockNumber = number
    self.dataBlockCount = dataBlockCount
  }

  /// The superblock of the metadata snapshot in `live`.
  private static func readSnapshot(_ reader: BlockReader, _ live: Superblock)
    throws(MetadataError) -> Superblock
  {
    guard live.metadataSnapshot != 0 else { throw .noMetadataSnapshot }
    return try readSuperblock(reader, MetadataBlock(live.metadataSnapshot))
  }

  private static func readSuperblock(_ reader: BlockReader, _ block: MetadataBlock)
    throws(MetadataError) -> Superblock
  {
    do throws(BlockProblem) {
      return try reader.withBlock(block.rawValue) { bytes throws(BlockProblem) in
        do throws(FormatError) {
          return try Superblock(validating: bytes, number: block.rawValue)
        } catch {
          throw .format(error)
        }
      }
    } catch {
      throw .superblock(block: block, error)
    }
  }

  /// The same view after a commit of `superblock`.
  public func replacing(_ superblock: Superblock) -> MetadataView {
    MetadataView(
      reader: reader, superblock: superblock, number: superblockNumber,
      dataBlockCount: dataBlockCount)
  }

  /// Device id and root of every entry of the device tree, ids ascending.
  public func deviceRoots() throws(MetadataError) -> [(id: ThinID, root: MetadataBlock)] {
    var roots: [(id: ThinID, root: MetadataBlock)] = []
    try wrapped { () throws(TreeFault) in
      try TreeReader(reader, .devices).forEach(root: superblock.mappingRoot) { node, i in
        roots.append((ThinID(node.key(i)), MetadataBlock(node.value64(i))))
      }
    }
    return roots
  }

  /// Device id and root of every readable entry of the device tree, ids ascending, and the faults
  /// of the unreadable nodes.
  public func readableDeviceRoots() -> (
    roots: [(id: ThinID, root: MetadataBlock)], faults: [TreeFault]
  ) {
    var roots: [(id: ThinID, root: MetadataBlock)] = []
    var faults: [TreeFault] = []
    TreeReader(reader, .devices).forEachReadable(
      root: superblock.mappingRoot, fault: { faults.append($0) }
    ) { node, i in
      roots.append((ThinID(node.key(i)), MetadataBlock(node.value64(i))))
    }
    return (roots, faults)
  }

  /// Device id and details of every entry of the details tree, ids ascending.
  public func deviceDetails() throws(MetadataError) -> [(id: ThinID, details: DeviceDetails)] {
    var result: [(id: ThinID, details: DeviceDetails)] = []
    try wrapped { () throws(TreeFault) in
      try TreeReader(reader, .details).forEach(root: superblock.detailsRoot) { node, i in
        result.append(
          (ThinID(node.key(i)), DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))))
      }
    }
    return result
  }

  /// Every thin device, ids ascending.
  /// - Throws: also if the two trees do not have the same devices.
  public func devices() throws(MetadataError) -> [ThinDevice] {
    let roots = try deviceRoots()
    let details = try deviceDetails()
    var result: [ThinDevice] = []
    result.reserveCapacity(roots.count)
    for i in 0..<max(roots.count, details.count) {
      guard i < details.count, i >= roots.count || roots[i].id >= details[i].id else {
        throw .deviceMismatch(id: roots[i].id, inDetails: false)
      }
      guard i < roots.count, roots[i].id == details[i].id else {
        throw .deviceMismatch(id: details[i].id, inDetails: true)
      }
      result.append(ThinDevice(id: roots[i].id, root: roots[i].root, details: details[i].details))
    }
    return result
  }

  private func wrapped(_ body: () throws(TreeFault) -> Void) throws(MetadataError) {
    do throws(TreeFault) { try body() } catch { throw .tree(error) }
  }
}
