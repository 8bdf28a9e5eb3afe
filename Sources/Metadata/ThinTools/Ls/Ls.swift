public import BlockIO
import PersistentData
import ThinFormat
public import ThinMetadata

/// The options of `ThinLs`.
public struct LsOptions: Equatable, Sendable {
  /// The state of the pool to read.
  public var source = MetadataView.Source.current
  /// Whether to count blocks that only one device maps, which requires reading all mappings.
  public var countsExclusive = false
  /// Whether to find the last mapped block of every device.
  public var findsHighest = false

  /// Lists only the device details.
  public init() {}
}

/// The result of `ThinLs`.
public struct LsResult: Equatable, Sendable {
  /// Data block size in sectors.
  public var dataBlockSectors: UInt32
  /// The pool's devices, ids ascending.
  public var rows: [LsRow]
}

/// `thin_ls`.
public enum ThinLs {
  /// Lists a pool's thin devices and their use of space.
  ///
  /// A mapped block is exclusive if exactly one mapping of one device refers to it, among the devices
  /// of the state that is read: a held metadata snapshot shares nothing.
  /// - Throws: `ToolError` at the first damage.
  public static func run(
    _ device: any BlockDevice, options: LsOptions, progress: Progress
  ) throws(ToolError) -> LsResult {
    let view: MetadataView
    let devices: [ThinDevice]
    do throws(MetadataError) {
      view = try MetadataView(device, source: options.source)
      devices = try view.devices()
    } catch {
      throw ToolError(error)
    }
    var rows = devices.map {
      LsRow(
        deviceID: $0.id, mapped: $0.details.mappedBlocks,
        transaction: $0.details.transactionID, createTime: UInt64($0.details.creationTime),
        snapTime: UInt64($0.details.snapshottedTime))
    }
    do throws(TreeFault) {
      if options.countsExclusive {
        var counter = ExclusiveCounter(view, devices, progress)
        try counter.run()
        for i in 0..<rows.count {
          let exclusive = min(counter.exclusive[i], devices[i].details.mappedBlocks)
          rows[i].exclusive = exclusive
          rows[i].shared = devices[i].details.mappedBlocks - exclusive
        }
      }
      if options.findsHighest {
        for i in 0..<rows.count {
          rows[i].highest = try highestMapped(view.reader, root: devices[i].root)
        }
      }
    } catch {
      throw ToolError(error, advice: "Run thin_check to see everything that is wrong.")
    }
    return LsResult(dataBlockSectors: view.superblock.dataBlockSectors, rows: rows)
  }
}

/// The last virtual block of a mapping tree; nil if it is empty.
private func highestMapped(_ reader: BlockReader, root: MetadataBlock)
  throws(TreeFault) -> VirtualBlock?
{
  var block = root.rawValue
  for _ in 0..<Limits.treeLevelsMax {
    do throws(BlockProblem) {
      var highest: VirtualBlock?
      let next = try reader.withNode(block, of: .mappings) { node throws(BlockProblem) -> UInt64? in
        guard node.entryCount > 0 else { return nil }
        if node.isLeaf { highest = VirtualBlock(node.key(node.entryCount - 1)) }
        return node.isLeaf ? nil : node.value64(node.entryCount - 1)
      }
      guard let next else { return highest }
      block = next
    } catch {
      throw TreeFault(.mappings, block: block, .unusable(error))
    }
  }
  throw TreeFault(.mappings, block: block, .tooDeep)
}

/// Counts the exclusive blocks of each device.
///
/// Every node gets an owner, which is the one device that reaches it, or "many". Nodes are visited
/// from the highest level down, so that an owner is final before it is passed on to children, and
/// every node is read once. Leaves of a single owner are read again once the shared data blocks are
/// known.
private struct ExclusiveCounter: ~Copyable {
  private static var many: UInt32 { .max }

  /// Per device, in the order given.
  private(set) var exclusive: [UInt64]
  private let reader: BlockReader
  private let stream: BlockStream
  private let devices: [ThinDevice]
  private let progress: Progress
  private let dataBlockCount: UInt64
  /// By metadata block: 0 for none, index of the device plus one, or `many`.
  private let owners: ZeroedArray<UInt32>

  init(_ view: MetadataView, _ devices: [ThinDevice], _ progress: Progress) {
    reader = view.reader
    stream = BlockStream(view.reader.device)
    self.devices = devices
    self.progress = progress
    dataBlockCount = min(
      view.dataBlockCount, view.reader.blockCount * UInt64(Limits.entriesPerBitmap))
    owners = ZeroedArray(count: Int(view.reader.blockCount))
    exclusive = Array(repeating: 0, count: devices.count)
  }

  mutating func run() throws(TreeFault) {
    let heights = try findHeights()
    guard let top = heights.values.max() else { return }
    progress.begin("Reading mappings", total: devices.reduce(0) { $0 &+ $1.details.mappedBlocks })
    var rootsByHeight: [Int: [UInt64]] = [:]
    for (i, device) in devices.enumerated() {
      let root = device.root.rawValue
      claim(root, for: UInt32(i + 1))
      rootsByHeight[heights[root] ?? 1, default: []].append(root)
    }
    var level = Bitset(limit: reader.blockCount)
    for root in rootsByHeight[top] ?? [] { level.insert(root) }
    for height in stride(from: top, to: 1, by: -1) {
      var below = Bitset(limit: reader.blockCount)
      for root in rootsByHeight[height - 1] ?? [] { below.insert(root) }
      try passDown(level, height, &below)
      swap(&level, &below)
    }
    try readLeaves(level)
  }

  private func claim(_ block: UInt64, for owner: UInt32) {
    let old = owners[Int(block)]
    owners[Int(block)] = old == 0 || old == owner ? owner : Self.many
  }

  /// The height of every root's tree, found by following first children, all roots together.
  private func findHeights() throws(TreeFault) -> [UInt64: Int] {
    var heights: [UInt64: Int] = [:]
    for device in devices {
      let root = device.root.rawValue
      guard root < reader.blockCount else {
        throw TreeFault(
          .mappings, block: root, .unusable(.beyondEnd(blockCount: reader.blockCount)))
      }
      heights[root] = 1
    }
    // The blocks at the current depth, and their roots.
    var frontier = heights.keys.map { (root: $0, block: $0) }
    var depth = 1
    while !frontier.isEmpty {
      guard depth <= Limits.treeLevelsMax else {
        throw TreeFault(.mappings, block: frontier[0].root, .tooDeep)
      }
      frontier.sort { $0.block < $1.block }
      var next: [(root: UInt64, block: UInt64)] = []
      var at = 0
      var delivered = 0
      try stream.read(
        next: { () throws(TreeFault) -> UInt64? in
          guard at < frontier.count else { return nil }
          at += 1
          return frontier[at - 1].block
        },
        body: { block, bytes, failure throws(TreeFault) in
          let root = frontier[delivered].root
          delivered += 1
          try withNode(block, bytes, failure) { node throws(TreeFault) in
            heights[root] = depth
            if !node.isLeaf && node.entryCount > 0 { next.append((root, node.value64(0))) }
          }
        })
      frontier = next
      depth += 1
    }
    return heights
  }

  private func withNode(
    _ block: UInt64, _ bytes: RawSpan, _ failure: BlockIOError?,
    _ body: (borrowing BtreeNodeView) throws(TreeFault) -> Void
  ) throws(TreeFault) {
    if let failure { throw TreeFault(.mappings, block: block, .unusable(.io(failure))) }
    let node: BtreeNodeView
    do throws(FormatError) {
      node = try BtreeNodeView(
        validating: bytes, number: block, leafValueSize: TreeKind.mappings.valueSize)
    } catch {
      throw TreeFault(.mappings, block: block, .unusable(.format(error)))
    }
    try body(node)
  }

  private func read(
    _ blocks: borrowing Bitset, _ body: (UInt64, borrowing BtreeNodeView) throws(TreeFault) -> Void
  ) throws(TreeFault) {
    var from: UInt64 = 0
    try stream.read(
      next: { () throws(TreeFault) -> UInt64? in
        guard let block = blocks.first(from: from) else { return nil }
        from = block + 1
        return block
      },
      body: { block, bytes, failure throws(TreeFault) in
        try withNode(block, bytes, failure) { node throws(TreeFault) in try body(block, node) }
      })
  }

  private func passDown(_ level: borrowing Bitset, _ height: Int, _ below: inout Bitset)
    throws(TreeFault)
  {
    try read(level) { block, node throws(TreeFault) in
      guard !node.isLeaf else {
        throw TreeFault(.mappings, block: block, .unevenHeight(expected: height, found: 1))
      }
      for i in 0..<node.entryCount {
        let child = node.value64(i)
        guard child < reader.blockCount else {
          throw TreeFault(
            .mappings, block: block,
            .pointsBeyondEnd(entry: i, child: child, blockCount: reader.blockCount))
        }
        claim(child, for: owners[Int(block)])
        below.insert(child)
      }
    }
  }

  private mutating func readLeaves(_ leaves: borrowing Bitset) throws(TreeFault) {
    var single = Bitset(limit: reader.blockCount)
    var sharing = SharingMap(blockCount: dataBlockCount)
    try read(leaves) { block, node throws(TreeFault) in
      guard node.isLeaf else {
        throw TreeFault(.mappings, block: block, .unevenHeight(expected: 1, found: 2))
      }
      let shared = owners[Int(block)] == Self.many
      if !shared { single.insert(block) }
      if let i = sharing.add(node, shared: shared) {
        throw TreeFault(
          .mappings, block: block,
          .dataBlockBeyondEnd(
            virtualBlock: node.key(i), dataBlock: Mapping(rawValue: node.value64(i)).dataBlock,
            blockCount: dataBlockCount))
      }
      progress.advance(by: UInt64(node.entryCount))
    }
    var exclusive = self.exclusive
    progress.begin("Counting exclusive blocks", total: UInt64(single.count))
    try read(single) { block, node throws(TreeFault) in
      exclusive[Int(owners[Int(block)]) - 1] += sharing.exclusiveCount(of: node)
      progress.advance()
    }
    self.exclusive = exclusive
  }
}
