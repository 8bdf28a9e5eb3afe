public import BlockIO
public import PersistentData
public import ThinFormat
public import ThinMetadata

/// The facts of a fault as named values, so that programs need not parse sentences. Values that do
/// not apply are nil.
public struct FaultFields: Equatable, Sendable {
  /// An expected or found value.
  public enum Value: Equatable, Sendable {
    /// A number.
    case number(UInt64)
    /// A word, if the value is not a number.
    case word(String)
  }

  /// A run of blocks.
  public struct BlockRange: Equatable, Sendable {
    /// The first.
    public var begin: UInt64
    /// The number of blocks; nil for all up to the end of the device.
    public var length: UInt64?

    /// A run of blocks.
    public init(begin: UInt64, length: UInt64?) {
      self.begin = begin
      self.length = length
    }
  }

  /// The kind of fault, a word that never changes.
  public var kind: String
  /// The tree with the fault.
  public var tree: TreeKind?
  /// The space map with the fault: `data` or `metadata`.
  public var spaceMap: SpaceMapName?
  /// The metadata block with the fault.
  public var block: MetadataBlock?
  /// The block that points at that one.
  public var parent: MetadataBlock?
  /// The index of the entry in the block, from 0.
  public var entry: UInt64?
  /// The expected value; for a limit, the largest or smallest allowed value.
  public var expected: Value?
  /// The found value.
  public var found: Value?
  /// The id of the affected thin device.
  public var device: ThinID?
  /// Affected blocks: virtual blocks if `device` is set, otherwise blocks of `spaceMap`.
  public var ranges: [BlockRange] = []
  /// The system's error number.
  public var systemError: Int32?

  /// A fault of this kind without further facts.
  public init(_ kind: String) { self.kind = kind }

  init(_ kind: String, expected: UInt64?, found: UInt64?) {
    self.kind = kind
    self.expected = expected.map { .number($0) }
    self.found = found.map { .number($0) }
  }
}

/// One of a pool's two space maps.
public enum SpaceMapName: String, Sendable {
  /// Of data blocks.
  case data
  /// Of metadata blocks.
  case metadata
}

extension TreeKind {
  /// The name for programs, which never changes.
  public var identifier: String {
    switch self {
    case .devices: "devices"
    case .mappings: "mappings"
    case .details: "details"
    case .spaceMapIndex: "space_map_index"
    case .spaceMapOverflow: "space_map_overflow"
    }
  }
}

extension FaultFields {
  /// The facts of a failed system call.
  public init(_ error: BlockIOError) {
    self.init("system_error")
    systemError = error.code
    if error.operation == .read || error.operation == .write, let offset = error.offset {
      block = MetadataBlock(offset / UInt64(Limits.blockBytes))
    }
  }

  /// The facts of a block of the wrong format.
  public init(_ error: FormatError, block: MetadataBlock) {
    switch error {
    case .checksum(_, let expected, let found):
      self.init("checksum", expected: UInt64(expected), found: UInt64(found))
    case .wrongKind(let wanted, let actual):
      self.init("block_kind")
      expected = .word(wanted.description)
      found = .word(actual.description)
    case .blockNumber(let expected, let found):
      self.init("block_number", expected: expected, found: found)
    case .magic(let expected, let found): self.init("magic", expected: expected, found: found)
    case .field(let name, let expected, let found):
      self.init("field_\(name.identifier)", expected: expected, found: found)
    case .keyOrder(let entry, let previous, let found):
      self.init("key_order", expected: previous &+ 1, found: found)
      self.entry = UInt64(entry)
    }
    self.block = block
  }

  /// The facts of an unusable block.
  public init(_ problem: BlockProblem, block: MetadataBlock) {
    switch problem {
    case .io(let error): self.init(error)
    case .format(let error): self.init(error, block: block)
    case .beyondEnd(let count): self.init("beyond_end", expected: count &- 1, found: block.rawValue)
    }
    self.block = block
  }

  /// The facts of a damaged tree.
  public init(_ fault: TreeFault) {
    switch fault.problem {
    case .unusable(let problem): self.init(problem, block: MetadataBlock(fault.block))
    case .pointsBeyondEnd(let entry, let child, let count):
      self.init("points_beyond_end", expected: count &- 1, found: child)
      self.entry = UInt64(entry)
    case .crossLinked: self.init("cross_linked")
    case .cycle: self.init("cycle")
    case .tooDeep: self.init("too_deep", expected: UInt64(Limits.treeLevelsMax), found: nil)
    case .emptyInternalNode: self.init("empty_internal_node", expected: 1, found: 0)
    case .keyBelowSeparator(let expected, let found):
      self.init("key_below_separator", expected: expected, found: found)
    case .keyNotBelowNextSeparator(let limit, let found):
      self.init("key_not_below_next_separator", expected: limit &- 1, found: found)
    case .unevenHeight(let expected, let found):
      self.init("uneven_height", expected: UInt64(expected), found: UInt64(found))
    case .underfull(let expected, let found):
      self.init("underfull", expected: UInt64(expected), found: UInt64(found))
    case .dataBlockBeyondEnd(let virtual, let data, let count):
      self.init("data_block_beyond_end", expected: count &- 1, found: data)
      ranges = [BlockRange(begin: virtual, length: 1)]
    case .mappingFromFuture(let virtual, let time, let poolTime):
      self.init("mapping_from_future", expected: UInt64(poolTime), found: UInt64(time))
      ranges = [BlockRange(begin: virtual, length: 1)]
    }
    tree = fault.tree
    block = MetadataBlock(fault.block)
    parent = fault.parent.map { MetadataBlock($0) }
  }

  /// The facts of unreadable metadata.
  public init(_ error: MetadataError) {
    switch error {
    case .superblock(let block, let problem): self.init(problem, block: block)
    case .tree(let fault): self.init(fault)
    case .deviceMismatch(let id, let inDetails):
      self.init(inDetails ? "no_mapping_tree" : "no_device_details")
      device = id
    case .noMetadataSnapshot: self.init("no_metadata_snapshot")
    case .otherMetadataSnapshot(let named, let held):
      self.init(
        "other_metadata_snapshot", expected: held.rawValue, found: named.rawValue)
    }
  }

  /// The facts of an operation that a pool refused or failed.
  public init(_ error: PoolError) {
    switch error {
    case .block(let block, let problem): self.init(problem, block: MetadataBlock(block))
    case .io(let error): self.init(error)
    case .metadataFull: self.init("metadata_full")
    case .dataFull: self.init("data_full")
    case .notFound: self.init("not_found")
    case .exists: self.init("exists")
    case .busy: self.init("in_use")
    case .invalid: self.init("refused")
    case .inconsistent: self.init("inconsistent")
    case .failed, .absent: self.init("failed_before")
    }
  }

  /// The facts of the error that stopped a tool.
  public init(_ error: ToolError) {
    switch error.cause {
    case .system(let error): self.init(error)
    case .output(let error):
      switch error.reason {
      case .precious: self.init("precious_output")
      case .inUse: self.init("in_use")
      case .failed(let error): self.init(error)
      }
    case .metadata(let error): self.init(error)
    case .tree(let fault): self.init(fault)
    case .block(let block, let error): self.init(error, block: block)
    case .pool(let error): self.init(error)
    case .command(let code):
      self.init("device_mapper")
      systemError = code
    case .damaged: self.init("damaged")
    case .needsCheck: self.init("needs_check")
    case .invalidDump: self.init("invalid_dump")
    case .notFound: self.init("not_found")
    case .unsuitable: self.init("unsuitable")
    case .outOfSpace: self.init("out_of_space")
    case .precious: self.init("precious_output")
    case .inUse: self.init("in_use")
    case .refused: self.init("refused")
    case .unexpected: self.init("unexpected")
    }
  }
}

extension FormatError.FieldName {
  fileprivate var identifier: String {
    switch self {
    case .version: "version"
    case .dataBlockSize: "data_block_size"
    case .metadataBlockSize: "metadata_block_size"
    case .incompatFlags: "incompatible_flags"
    case .nodeFlags: "node_flags"
    case .valueSize: "value_size"
    case .entriesMax: "max_entries"
    case .entryCount: "nr_entries"
    case .blocksMax: "nr_blocks"
    }
  }
}
