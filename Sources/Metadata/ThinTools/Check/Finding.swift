public import PersistentData
public import ThinFormat
public import ThinMetadata

/// One finding of a check.
public struct Finding: Equatable, Sendable {
  /// The severity of a finding.
  public enum Severity: String, Sendable {
    /// Mappings are lost, or would be lost by using the pool: it must not be activated.
    case fatal
    /// Blocks are counted as used without references: space is lost, data is not.
    case leak
    /// A rule of the format is broken, without consequences.
    case minor
  }

  /// The problem.
  public let problem: Problem
  /// Whether it is in the state that the metadata snapshot holds.
  public let isInMetadataSnapshot: Bool

  /// A finding.
  public init(_ problem: Problem, inMetadataSnapshot: Bool = false) {
    self.problem = problem
    isInMetadataSnapshot = inMetadataSnapshot
  }

  /// The metadata block concerned.
  public var block: MetadataBlock? { fields.block }
  /// The thin device concerned.
  public var deviceID: ThinID? { fields.device }
  /// Virtual blocks of that device that are concerned.
  public var virtualBlocks: Range<VirtualBlock>? {
    if case .mappingsLost(_, let range, _) = problem { range } else { nil }
  }
}

extension Finding {
  /// The problem, with the place, the expected and the found value.
  public enum Problem: Equatable, Sendable {
    /// A tree is damaged, or a node of it has too few entries.
    case tree(TreeFault)
    /// The superblock's time has more bits than a mapping has room for.
    case superblockTime(found: UInt32, block: MetadataBlock)
    /// The metadata space map has more blocks than the device, or than the format allows.
    case metadataSpaceMapSize(
      found: UInt64, max: UInt64, isFormatLimit: Bool, block: MetadataBlock)
    /// The data space map has more blocks than the metadata could hold bitmaps for.
    case dataSpaceMapSize(found: UInt64, max: UInt64, block: MetadataBlock)
    /// The metadata snapshot is unreadable.
    case metadataSnapshot(MetadataError, block: MetadataBlock)
    /// A thin device is in only one of the two trees of devices.
    case deviceMismatch(device: ThinID, inDetails: Bool)
    /// A thin device's id has more bits than the format has room for.
    case deviceID(device: ThinID)
    /// A time of a device's details is above the pool's.
    case deviceTime(device: ThinID, isCreation: Bool, found: UInt32, poolTime: UInt32)
    /// Virtual blocks of a device are affected by damage at a block. The range ends with `.max` if
    /// it extends to the end.
    case mappingsLost(device: ThinID, Range<VirtualBlock>, block: MetadataBlock)
    /// The number of mappings in a device's details differs from that of its tree.
    case mappingCount(device: ThinID, expected: UInt64, found: UInt64)
    /// Reference counts were not compared, because trees are damaged.
    case countsNotCompared
    /// The index of the metadata space map lies beyond the end.
    case indexBeyondEnd(block: MetadataBlock, blockCount: UInt64)
    /// The index of the metadata space map cannot be used.
    case index(BlockProblem, block: MetadataBlock)
    /// A bitmap cannot be used.
    case bitmap(SpaceMapName, number: UInt64, BlockProblem, block: MetadataBlock)
    /// An index entry is missing, or is another bitmap's.
    case indexEntry(SpaceMapName, expected: UInt64, found: UInt64)
    /// The index has the wrong number of entries for the map.
    case indexEntryCount(SpaceMapName, expected: UInt64, blockCount: UInt64, found: UInt64)
    /// A metadata block beyond the end of the metadata space map is in use.
    case beyondSpaceMap(block: MetadataBlock, blockCount: UInt64)
    /// The superblock's number of allocated blocks is not that of the bitmaps.
    case allocatedBlocks(SpaceMapName, superblock: UInt64, bitmaps: UInt64)
    /// An index entry's number of free entries is not that of its bitmap.
    case freeEntries(
      SpaceMapName, bitmap: UInt64, entry: UInt64, actual: UInt64, block: MetadataBlock)
    /// An index entry's hint hides a free entry.
    case firstFreeEntry(
      SpaceMapName, bitmap: UInt64, entry: UInt64, actual: UInt64, block: MetadataBlock)
    /// Reference counts that differ from those of the trees: too high (leaked), or otherwise wrong.
    case referenceCounts(SpaceMapName, areTooHigh: Bool, CountDifferences)
    /// Entries of the overflow tree that belong to blocks with a small count.
    case strayOverflow(SpaceMapName, count: UInt64)
    /// Blocks with counts of three or more that have no entry in the overflow tree.
    case missingOverflow(SpaceMapName, count: UInt64)
  }

  /// Blocks whose reference counts differ from the computed ones.
  public struct CountDifferences: Equatable, Sendable {
    /// A run of blocks with the same two counts.
    public struct Run: Equatable, Sendable {
      /// The blocks, as integers: they are data blocks or metadata blocks, by the space map.
      public var blocks: Range<UInt64>
      /// The count that the trees give.
      public var expected: UInt32
      /// The count in the space map.
      public var found: UInt32
    }

    /// All such blocks.
    public internal(set) var blockCount: UInt64 = 0
    /// The first runs of them, at most 32.
    public internal(set) var runs: [Run] = []

    mutating func add(_ block: UInt64, onDisk: UInt32, expected: UInt32) {
      blockCount += 1
      if let last = runs.last, last.blocks.upperBound == block, last.found == onDisk,
        last.expected == expected
      {
        runs[runs.count - 1].blocks = last.blocks.lowerBound..<block + 1
      } else if runs.count < 32 {
        runs.append(Run(blocks: block..<block + 1, expected: expected, found: onDisk))
      }
    }
  }
}

extension Finding {
  /// The severity.
  public var severity: Severity {
    switch problem {
    case .tree(let fault): fault.isFatal ? .fatal : .minor
    case .deviceTime, .allocatedBlocks, .freeEntries, .firstFreeEntry: .minor
    case .referenceCounts(_, let areTooHigh, _): areTooHigh ? .leak : .fatal
    default: .fatal
    }
  }

  /// Whether rebuilding the space maps repairs it.
  public var isMendable: Bool {
    switch problem {
    case .allocatedBlocks, .freeEntries, .firstFreeEntry: true
    default: severity == .leak
    }
  }
}
