public import BlockIO
public import ThinFormat
public import ThinMetadata

/// What a rescue is to save.
public struct RescueOptions: Equatable, Sendable {
  /// What is salvaged.
  public var salvage = SalvageOptions()
  /// The state of the pool to read.
  public var source = MetadataView.Source.current
  /// Memory for mappings, in bytes; beyond it they are in a temporary file.
  public var bytesMax = 64 << 20

  /// Everything that can be saved.
  public init() {}
}

/// Consecutive virtual blocks on consecutive data blocks.
struct RescueRun: BitwiseCopyable {
  var virtualBlock: UInt64
  var dataBlock: UInt64
  var length: UInt64
}

/// Consecutive runs of the store, which may belong to several devices.
struct RescueSlice: BitwiseCopyable {
  var firstVirtual: UInt64
  var firstRun: UInt64
  /// At least 1.
  var runCount: UInt64
}

/// A thin device of an index.
public struct RescueDevice: Sendable {
  /// Its id.
  public let id: ThinID
  /// What was saved of its mappings, and what was not.
  public let report: RepairReport.Device
  /// Mappings that it has.
  public internal(set) var mappedBlocks: UInt64 = 0
  /// The virtual block after the last mapping.
  public internal(set) var endBlock: VirtualBlock = 0
  /// Virtual blocks whose mappings are lost where there is none, sorted and without overlaps. The last
  /// may end at the largest number: it is unknown how far the device reached.
  public let lost: [Range<VirtualBlock>]
  /// Virtual blocks whose mappings may not be the latest.
  public let doubtful: [Range<VirtualBlock>]
  var slices: Range<UInt64> = 0..<0

  init(_ report: RepairReport.Device) {
    id = report.id
    self.report = report
    doubtful = Self.ranges(report.ranges.filter { $0.kind == .doubtful })
    var lost = report.ranges.filter { $0.kind == .lost }
    // Ranges beyond those that are kept may be anywhere after them.
    if report.unsaidRanges > 0, let last = lost.last {
      lost.append(RepairReport.Range(kind: .lost, begin: last.begin, end: nil, block: last.block))
    }
    self.lost = Self.ranges(lost)
  }

  private static func ranges(_ ranges: [RepairReport.Range]) -> [Range<VirtualBlock>] {
    var found: [Range<VirtualBlock>] = []
    for range in ranges.sorted(by: { $0.begin < $1.begin }) {
      let end = range.end ?? VirtualBlock(.max)
      guard range.begin < end else { continue }
      if let last = found.last, range.begin <= last.upperBound {
        found[found.count - 1] = last.lowerBound..<max(last.upperBound, end)
      } else {
        found.append(range.begin..<end)
      }
    }
    return found
  }

  /// Whether everything that it had is there, for certain.
  public var isWhole: Bool {
    lost.isEmpty && doubtful.isEmpty
      && (report.expected == nil || report.expected == report.saved)
  }

  /// The size that its mappings show, in blocks: the pool does not record the size of a device.
  public var knownBlocks: UInt64 {
    lost.reduce(endBlock) { $1.upperBound.rawValue == .max ? $0 : max($0, $1.upperBound) }.rawValue
  }
}

/// The mappings of every thin device that can be read of a pool's metadata, damaged or not, and the ranges
/// that are lost. Runs that devices share are kept once.
///
/// Memory: twice `RescueOptions.bytesMax` at most, some bytes for each device, and while it is made that of a
/// dump with `repair`.
public final class RescueIndex {
  /// Bytes of a data block.
  public let blockBytes: UInt64
  /// Transaction id of the pool.
  public let transactionID: UInt64
  /// Devices by id.
  public let devices: [RescueDevice]
  /// What was saved and what was not, with a line for every guess.
  public let report: RepairReport
  let runs: RecordStore<RescueRun>
  let slices: RecordStore<RescueSlice>

  /// Whether a part of it is in a temporary file.
  public var isSpilled: Bool { runs.isSpilled || slices.isSpilled }

  /// The device of this id.
  public subscript(id: ThinID) -> RescueDevice? {
    var (low, high) = (0, devices.count)
    while low < high {
      let middle = (low + high) / 2
      if devices[middle].id < id { low = middle + 1 } else { high = middle }
    }
    return low < devices.count && devices[low].id == id ? devices[low] : nil
  }

  /// Reads the metadata, of which nothing is trusted and nothing is written.
  /// - Throws: `damaged` if nothing can be saved, `metadata` if there is no such metadata snapshot,
  ///   `system` if
  ///   the temporary file is full.
  public init(
    _ device: any BlockDevice, options: RescueOptions = RescueOptions(), progress: Progress
  )
    throws(ToolError)
  {
    var salvaging = options.salvage
    salvaging.rangesMax = 1 << 16
    salvaging.keepsLargeIDs = true
    if options.source != .current {
      do throws(MetadataError) {
        salvaging.generation = .block(
          try MetadataView(device, source: options.source).superblockNumber)
      } catch {
        throw ToolError(error)
      }
    }
    let log = SalvageLog()
    let pool: DumpSource
    do throws(ToolError) {
      pool = try salvage(device, options: salvaging, progress: progress, log: log)
    } catch {
      throw error.saying((log.lines + [error.message]).joined(separator: "\n"))
    }
    let sectors = pool.header.dataBlockSectors
    guard Limits.isDataBlockSize(sectors) else {
      throw ToolError(
        .refused,
        "a data block of \(sectors) sectors is impossible: expected a multiple of "
          + "\(Limits.dataBlockSectorsMin) up to \(Limits.dataBlockSectorsMax) (--data-block-size)")
    }
    blockBytes = UInt64(sectors) * UInt64(Limits.sectorBytes)
    transactionID = pool.header.transactionID
    let sink = RescueSink(
      log.report.devices, bytesMax: options.bytesMax,
      blocksMax: UInt64(Int64.max) / blockBytes)
    var dumper = Dumper(pool, sink, progress)
    try dumper.write(pool.header, pool.devices)
    var report = log.report
    report.notes = log.lines + log.report.notes
    self.report = report
    devices = sink.devices
    runs = sink.runs
    slices = sink.slices
  }
}
