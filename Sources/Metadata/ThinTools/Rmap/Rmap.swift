public import BlockIO
import PersistentData
public import ThinFormat
public import ThinMetadata

/// The options of `ThinRmap`.
public struct RmapOptions: Equatable, Sendable {
  /// The data blocks to list; empty for all. Ranges may overlap.
  public var regions: [Range<DataBlock>] = []
  /// The state of the pool to read.
  public var source = MetadataView.Source.current
  /// The runs of mappings that are kept in memory at once, 16 bytes each.
  public var runsMax = 2_800_000

  /// Lists all data blocks of the pool.
  public init() {}
}

/// A run of data blocks that maps to a run of virtual blocks.
public struct RmapRun: Equatable, Sendable {
  /// The first data block.
  public var dataBegin: DataBlock
  /// One above the last data block.
  public var dataEnd: DataBlock
  /// The virtual block of the first data block.
  public var virtualBegin: VirtualBlock
  /// One above the last virtual block.
  public var virtualEnd: VirtualBlock { virtualBegin + (dataBegin..<dataEnd).length }

  init(_ data: Range<UInt64>, virtual: UInt64) {
    (dataBegin, dataEnd) = (DataBlock(data.lowerBound), DataBlock(data.upperBound))
    virtualBegin = VirtualBlock(virtual)
  }
}

/// `thin_rmap`.
public enum ThinRmap {
  /// Lists the virtual blocks and the thin devices of each data block.
  ///
  /// Leaves are read in disk order: once where they hold at most 1.4 million runs, and else
  /// once more for each 2.8 million. Every run that `body` gets is a row for each of the devices,
  /// ascending, that it gets with it. Rows are sorted by their first data block, then their last one, then
  /// the device.
  ///
  /// Memory: about 51 MiB for runs, four bytes for each metadata block, eight for each leaf of the
  /// largest device, and that of `RowJoiner` for rows that begin within a longer one.
  /// - Throws: `ToolError` at the first damage; the rows before it are correct.
  public static func run(
    _ device: any BlockDevice, options: RmapOptions, progress: Progress,
    _ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    let view: MetadataView
    let roots: [(id: ThinID, root: MetadataBlock)]
    do throws(MetadataError) {
      view = try MetadataView(device, source: options.source)
      roots = try view.deviceRoots()
    } catch {
      throw ToolError(error)
    }
    var rmap = Rmap(view, options.regions.map(\.rawValues), progress)
    try rmap.findOwners(roots.map(\.root))
    try rmap.emit(ids: roots.map(\.id), runsMax: options.runsMax, body)
  }
}

/// One execution of `ThinRmap`.
private struct Rmap: ~Copyable {
  private let view: MetadataView
  private let stream: BlockStream
  private let progress: Progress
  /// In ascending order, without overlaps, within the data device.
  private let regions: [Range<UInt64>]
  private var sets = OwnerSets()
  /// The set of devices that have a leaf, by block.
  private let ownersOf: ZeroedArray<UInt32>
  private var leaves: Bitset
  private var leafCount: UInt64 = 0

  init(_ view: MetadataView, _ regions: [Range<UInt64>], _ progress: Progress) {
    self.view = view
    self.progress = progress
    stream = BlockStream(view.reader.device)
    ownersOf = ZeroedArray(count: Int(view.reader.blockCount))
    leaves = Bitset(limit: view.reader.blockCount)
    let all = 0..<view.dataBlockCount
    var joined: [Range<UInt64>] = []
    for region in regions.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      let region = region.clamped(to: all)
      if let last = joined.last, region.lowerBound <= last.upperBound {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, region.upperBound)
      } else {
        joined.append(region)
      }
    }
    self.regions = regions.isEmpty ? [all] : joined
  }

  // MARK: - Owners of leaves

  mutating func findOwners(_ roots: [MetadataBlock]) throws(ToolError) {
    progress.begin("Finding leaves", total: UInt64(roots.count))
    let list = LeafSequence(view.reader, stream: BlockStream(view.reader.device))
    let end = view.reader.blockCount
    for (owner, root) in roots.enumerated() {
      progress.advance()
      do throws(TreeFault) {
        try list.forEach(root: root.rawValue) { leaf throws(TreeFault) in
          guard leaf < end else {
            throw TreeFault(.mappings, block: leaf, .unusable(.beyondEnd(blockCount: end)))
          }
          if leaves.insert(leaf) { leafCount += 1 }
          ownersOf[Int(leaf)] = sets.adding(UInt32(owner), to: ownersOf[Int(leaf)])
        }
      } catch {
        throw ToolError(error)
      }
    }
  }

  // MARK: - Runs

  /// Passes on all rows.
  func emit(
    ids: [ThinID], runsMax: Int, _ body: (RmapRun, Span<ThinID>) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    guard let first = regions.first, let last = regions.last else { return }
    let all = first.lowerBound..<last.upperBound
    var table = RunTable(dataBlockCount: view.dataBlockCount, runsMax: runsMax)
    progress.begin("Reading mappings", total: leafCount)
    try forEachRun(in: all) { table.count($0) }
    var rows = RowJoiner(ids: ids, sets: sets)
    let windows = table.windows(of: all)
    for (number, window) in windows.enumerated() {
      if windows.count > 1 {
        progress.begin(
          "Reading mappings, part \(number + 1) of \(windows.count)", total: leafCount)
      }
      try table.forEach(
        in: window, changed: ToolError(.unexpected, "The metadata changed while it was read."),
        read: { add throws(ToolError) in try forEachRun(in: window, add) },
        { run throws(ToolError) in try rows.add(run, body) })
    }
    try rows.finish(body)
  }

  /// Calls `body` with the runs of all leaves that begin in `window`.
  private func forEachRun(in window: Range<UInt64>, _ body: (LeafRun) -> Void) throws(ToolError) {
    let (dataBlockCount, ownersOf, regions) = (view.dataBlockCount, ownersOf, regions)
    var from: UInt64 = 0
    do throws(TreeFault) {
      try stream.read(
        next: { () throws(TreeFault) -> UInt64? in
          guard let block = leaves.first(from: from) else { return nil }
          from = block + 1
          return block
        },
        body: { block, bytes, failure throws(TreeFault) in
          var order = LeafOrder()
          let leaf = try order.next(MetadataBlock(block), bytes, failure: failure)
          progress.advance()
          let owners = ownersOf[Int(block)]
          var i = 0
          while i < leaf.entryCount {
            let (key, data) = (leaf.key(i), Mapping(rawValue: leaf.value64(i)).dataBlock)
            let end = leaf.mappingRunEnd(from: i, followsData: true)
            guard data < dataBlockCount, UInt64(end - i) <= dataBlockCount - data else {
              throw TreeFault(
                .mappings, block: block,
                .dataBlockBeyondEnd(
                  virtualBlock: key, dataBlock: max(data, dataBlockCount),
                  blockCount: dataBlockCount))
            }
            Self.clip(data..<(data + UInt64(end - i)), to: regions) { part in
              guard window.contains(part.lowerBound) else { return }
              body(
                LeafRun(
                  data: part.lowerBound, virtual: key + (part.lowerBound - data),
                  length: part.upperBound - part.lowerBound, owners: owners))
            }
            i = end
          }
        })
    } catch {
      throw ToolError(error)
    }
  }

  /// Calls `body` with the parts of `range` inside `regions`.
  @inline(__always)
  private static func clip(
    _ range: Range<UInt64>, to regions: [Range<UInt64>], _ body: (Range<UInt64>) -> Void
  ) {
    var (low, high) = (0, regions.count)
    while low < high {
      let middle = (low + high) / 2
      if regions[middle].upperBound <= range.lowerBound { low = middle + 1 } else { high = middle }
    }
    while low < regions.count, regions[low].lowerBound < range.upperBound {
      body(range.clamped(to: regions[low]))
      low += 1
    }
  }
}
