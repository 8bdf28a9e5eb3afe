import ThinFormat

extension Finding {
  /// The finding as named values.
  public var fields: FaultFields {
    switch problem {
    case .tree(let fault): return FaultFields(fault)
    case .superblockTime(let found, let block):
      return .init(
        "superblock_time", block: block, expected: UInt64(Limits.timeMax), found: UInt64(found))
    case .metadataSpaceMapSize(let found, let max, _, let block):
      return .init("space_map_size", .metadata, block: block, expected: max, found: found)
    case .dataSpaceMapSize(let found, let max, let block):
      return .init("space_map_size", .data, block: block, expected: max, found: found)
    case .metadataSnapshot(let error, let block):
      var fields = FaultFields(error)
      fields.block = fields.block ?? block
      return fields
    case .deviceMismatch(let device, let inDetails):
      return .init(inDetails ? "no_mapping_tree" : "no_device_details", device: device)
    case .deviceID(let device):
      return .init(
        "device_id", device: device, expected: ThinID.max.rawValue, found: device.rawValue)
    case .deviceTime(let device, let isCreation, let found, let poolTime):
      return .init(
        isCreation ? "device_creation_time" : "device_snapshot_time", device: device,
        expected: UInt64(poolTime), found: UInt64(found))
    case .mappingsLost(let device, let range, let block):
      var fields = FaultFields("mappings_lost", block: block, device: device)
      fields.ranges = [
        FaultFields.BlockRange(
          begin: range.lowerBound.rawValue,
          length: range.upperBound.rawValue == .max ? nil : range.length)
      ]
      return fields
    case .mappingCount(let device, let expected, let found):
      return .init("mapping_count", device: device, expected: expected, found: found)
    default: return spaceMapFields
    }
  }

  private var spaceMapFields: FaultFields {
    switch problem {
    case .indexBeyondEnd(let block, let count):
      return .init(
        "beyond_end", .metadata, block: block, expected: count &- 1, found: block.rawValue)
    case .index(let problem, let block):
      var fields = FaultFields(problem, block: block)
      fields.spaceMap = .metadata
      return fields
    case .bitmap(let map, _, let problem, let block):
      var fields = FaultFields(problem, block: block)
      fields.spaceMap = map
      return fields
    case .indexEntry(let map, let expected, let found):
      return .init("index_entry", map, expected: expected, found: found)
    case .indexEntryCount(let map, let expected, _, let found):
      return .init("index_entry_count", map, expected: expected, found: found)
    case .beyondSpaceMap(let block, let count):
      return .init(
        "beyond_space_map", .metadata, block: block, expected: count &- 1, found: block.rawValue)
    case .allocatedBlocks(let map, let superblock, let bitmaps):
      return .init("allocated_blocks", map, block: 0, expected: bitmaps, found: superblock)
    case .freeEntries(let map, _, let entry, let actual, let block):
      return .init("free_entries", map, block: block, expected: actual, found: entry)
    case .firstFreeEntry(let map, _, let entry, let actual, let block):
      return .init("first_free_entry", map, block: block, expected: actual, found: entry)
    case .referenceCounts(let map, let areTooHigh, let differences):
      return .init(areTooHigh ? "leaked_blocks" : "reference_counts", map, differences)
    case .strayOverflow(let map, let count):
      return .init("stray_overflow_entries", map, expected: 0, found: count)
    case .missingOverflow(let map, let count):
      return .init("missing_overflow_entries", map, expected: 0, found: count)
    default: return FaultFields("counts_not_compared")
    }
  }
}

extension FaultFields {
  fileprivate init(
    _ kind: String, _ map: SpaceMapName? = nil, block: MetadataBlock? = nil, device: ThinID? = nil,
    expected: UInt64? = nil, found: UInt64? = nil
  ) {
    self.init(kind, expected: expected, found: found)
    spaceMap = map
    self.block = block
    self.device = device
  }

  /// Blocks with wrong counts; counts that are equal for all of them are included.
  fileprivate init(_ kind: String, _ map: SpaceMapName, _ differences: Finding.CountDifferences) {
    self.init(kind)
    spaceMap = map
    ranges = differences.runs.map {
      BlockRange(begin: $0.blocks.lowerBound, length: UInt64($0.blocks.count))
    }
    guard let first = differences.runs.first else { return }
    if differences.runs.allSatisfy({ $0.expected == first.expected }) {
      expected = .number(UInt64(first.expected))
    }
    if differences.runs.allSatisfy({ $0.found == first.found }) {
      found = .number(UInt64(first.found))
    }
  }
}
