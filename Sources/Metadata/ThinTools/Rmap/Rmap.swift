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

  /// Lists all data blocks of the pool.
  public init() {}
}

/// A run of data blocks that maps to a run of virtual blocks of one device.
public struct RmapRow: Equatable, Sendable {
  /// The first data block.
  public var dataBegin: DataBlock
  /// One above the last data block.
  public var dataEnd: DataBlock
  /// The thin device.
  public var id: ThinID
  /// The virtual block of the first data block.
  public var virtualBegin: VirtualBlock
  /// One above the last virtual block.
  public var virtualEnd: VirtualBlock { virtualBegin + (dataBegin..<dataEnd).length }
}

/// `thin_rmap`.
public enum ThinRmap {
  /// Lists the virtual blocks and the thin devices of each data block, one row for each device that
  /// shares it.
  ///
  /// Leaves are read in disk order, once for each million and a half of runs that they hold. Rows are
  /// sorted by their first data block, then their last one, then the device.
  ///
  /// Memory: about 64 MiB for runs, four bytes for each metadata block, eight for each leaf of the
  /// largest device, and 40 for each row that begins within a longer one.
  /// - Throws: `ToolError` at the first damage; the rows before it are correct.
  public static func run(
    _ device: any BlockDevice, options: RmapOptions, progress: Progress,
    _ body: (RmapRow) throws(BlockIOError) -> Void
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
    try rmap.findOwners(roots)
    for window in try rmap.windows() { try rmap.emit(window, body) }
    try rmap.finish(body)
  }
}

/// One execution of `ThinRmap`.
private struct Rmap: ~Copyable {
  /// A run of one leaf.
  private struct Run {
    var data: UInt64
    var virtual: UInt64
    var length: UInt32
    var owners: UInt32
  }

  private static let runsMax = 3 << 19
  private static let bucketsMax: UInt64 = 1 << 16
  private let view: MetadataView
  private let stream: BlockStream
  private let progress: Progress
  /// In ascending order, without overlaps.
  private let regions: [Range<UInt64>]
  private var ids: [ThinID] = []
  private var sets = OwnerSets()
  /// The set of devices that have a leaf, by block.
  private let ownersOf: ZeroedArray<UInt32>
  private var leaves: Bitset
  private var leafCount: UInt64 = 0
  /// Rows that may still grow, or wait for such a row before them.
  private var rows: [RmapRow] = []
  /// The number of rows in `rows` that were passed on.
  private var done = 0
  /// The position of the last row of each device, counted from the first row of all.
  private var last: [Int] = []
  /// The number of rows removed from `rows`.
  private var gone = 0

  init(_ view: MetadataView, _ regions: [Range<UInt64>], _ progress: Progress) {
    self.view = view
    self.progress = progress
    stream = BlockStream(view.reader.device)
    ownersOf = ZeroedArray(count: Int(view.reader.blockCount))
    leaves = Bitset(limit: view.reader.blockCount)
    var joined: [Range<UInt64>] = []
    for region in regions.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = joined.last, region.lowerBound <= last.upperBound {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, region.upperBound)
      } else {
        joined.append(region)
      }
    }
    self.regions = regions.isEmpty ? [0..<view.dataBlockCount] : joined
  }

  // MARK: - Owners of leaves

  mutating func findOwners(_ roots: [(id: ThinID, root: MetadataBlock)]) throws(ToolError) {
    progress.begin("Finding leaves", total: UInt64(roots.count))
    ids = roots.map(\.id)
    last = Array(repeating: -1, count: ids.count)
    let list = LeafSequence(view.reader, stream: BlockStream(view.reader.device))
    let end = view.reader.blockCount
    for (owner, root) in roots.enumerated() {
      progress.advance()
      do throws(TreeFault) {
        try list.forEach(root: root.root.rawValue) { leaf throws(TreeFault) in
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

  /// Ranges of data blocks in which few enough runs begin to be kept in memory.
  func windows() throws(ToolError) -> [Range<UInt64>] {
    guard let first = regions.first, let last = regions.last else { return [] }
    let all = first.lowerBound..<max(first.lowerBound, last.upperBound)
    let perLeaf = UInt64(BtreeNodeRecord.entriesMax(valueSize: TreeKind.mappings.valueSize))
    guard leafCount * perLeaf > UInt64(Self.runsMax) else { return [all] }
    let width = max(1, view.dataBlockCount / Self.bucketsMax + 1)
    var counts = [UInt32](repeating: 0, count: Int(view.dataBlockCount / width) + 1)
    progress.begin("Counting runs", total: leafCount)
    try forEachRun(in: all) { counts[Int($0.data / width)] += 1 }
    var windows: [Range<UInt64>] = []
    var (begin, sum) = (all.lowerBound, 0)
    for (bucket, count) in counts.enumerated() {
      if sum + Int(count) > Self.runsMax, sum > 0 {
        let end = UInt64(bucket) * width
        windows.append(begin..<end)
        (begin, sum) = (end, 0)
      }
      sum += Int(count)
    }
    return windows + [begin..<max(begin, all.upperBound)]
  }

  /// Calls `body` with the runs of all leaves that begin in `window`.
  private func forEachRun(in window: Range<UInt64>, _ body: (Run) -> Void) throws(ToolError) {
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
          let leaf = try order.next(block, bytes, failure: failure)
          progress.advance()
          let owners = ownersOf[Int(block)]
          var i = 0
          while i < leaf.entryCount {
            let (key, data) = (leaf.key(i), Mapping(rawValue: leaf.value64(i)).dataBlock)
            var end = i + 1
            while end < leaf.entryCount, leaf.key(end) == key + UInt64(end - i),
              Mapping(rawValue: leaf.value64(end)).dataBlock == data + UInt64(end - i)
            {
              end += 1
            }
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
                Run(
                  data: part.lowerBound, virtual: key + (part.lowerBound - data),
                  length: UInt32(part.upperBound - part.lowerBound), owners: owners))
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

  // MARK: - Rows

  mutating func emit(
    _ window: Range<UInt64>, _ body: (RmapRow) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    progress.begin("Reading mappings", total: leafCount)
    var runs: [Run] = []
    try forEachRun(in: window) { runs.append($0) }
    // Twenty-one bits for the position, and the rest for the data block.
    var keys = [UInt64]()
    keys.reserveCapacity(runs.count)
    let isNarrow = runs.count < 1 << 21 && window.upperBound - window.lowerBound < 1 << 42
    if isNarrow {
      for (i, run) in runs.enumerated() {
        keys.append((run.data - window.lowerBound) << 21 | UInt64(i))
      }
      keys.sort()
    } else {
      runs.sort { $0.data < $1.data }
      keys = (0..<UInt64(runs.count)).map { $0 }
    }
    for (n, key) in keys.enumerated() {
      let run = runs[Int(isNarrow ? key & (1 << 21 - 1) : key)]
      sets.forEach(run.owners) { add(run, owner: Int($0)) }
      if n & 4095 == 4095 { try handOn(before: DataBlock(run.data), body) }
    }
  }

  /// Extends the last row of a device, or adds one.
  @inline(__always)
  private mutating func add(_ run: Run, owner: Int) {
    let place = last[owner] - gone
    if place >= 0 {
      let row = rows[place]
      if row.dataEnd.rawValue == run.data, row.virtualEnd.rawValue == run.virtual {
        rows[place].dataEnd = row.dataEnd + UInt64(run.length)
        return
      }
    }
    last[owner] = gone + rows.count
    rows.append(
      RmapRow(
        dataBegin: DataBlock(run.data), dataEnd: DataBlock(run.data + UInt64(run.length)),
        id: ids[owner], virtualBegin: VirtualBlock(run.virtual)))
  }

  /// Passes on rows that no run from `data` on can extend, up to the first that one may.
  private mutating func handOn(
    before data: DataBlock, _ body: (RmapRow) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    while done < rows.count {
      let begin = rows[done].dataBegin
      guard begin < data else { break }
      var end = done
      while end < rows.count, rows[end].dataBegin == begin, rows[end].dataEnd < data { end += 1 }
      if end < rows.count, rows[end].dataBegin == begin { break }
      if end - done > 1 {
        rows[done..<end].sort {
          ($0.dataEnd, $0.id, $0.virtualBegin) < ($1.dataEnd, $1.id, $1.virtualBegin)
        }
      }
      while done < end {
        let row = rows[done]
        try written { () throws(BlockIOError) in try body(row) }
        done += 1
      }
    }
    guard done > 1 << 15 || done == rows.count else { return }
    rows.removeFirst(done)
    gone += done
    done = 0
  }

  mutating func finish(_ body: (RmapRow) throws(BlockIOError) -> Void) throws(ToolError) {
    try handOn(before: DataBlock(.max), body)
  }
}
