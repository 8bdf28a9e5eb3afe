import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata
import ThinTools

/// Cuts the power at every point of a transaction, and checks the result.
///
/// The rule: the image is that of the last transaction that was certainly committed, or, as a
/// whole, of one whose superblock was being written. It is clean, except that blocks leaked by the
/// old state may remain. A restore leaves the old pool or the restored one; if there is no room for
/// both, the result may not be recognised as metadata.
public struct CrashTrial {
  /// The interrupted operation.
  public enum Kind: Hashable, Sendable, CustomStringConvertible {
    /// A transaction of the engine.
    case operation(PoolOperation)
    /// Formatting and the first data blocks.
    case format
    /// `thin_check --auto-repair`.
    case autoRepair
    /// `thin_restore` beside an old pool.
    case restore
    /// `thin_restore` without room for both.
    case restoreInPlace

    /// Every kind.
    public static var allCases: [Kind] {
      PoolOperation.allCases.map { .operation($0) } + [
        .format, .autoRepair, .restore, .restoreInPlace,
      ]
    }

    /// The name in reports.
    public var description: String {
      switch self {
      case .operation(let operation): operation.rawValue
      case .format: "format"
      case .autoRepair: "auto-repair"
      case .restore: "restore"
      case .restoreInPlace: "restore in place"
      }
    }
  }

  /// An image that violates the rule.
  public struct Failure: Error, CustomStringConvertible {
    /// The image, and the violation.
    public let description: String
  }

  private let kind: Kind
  private let seed: UInt64
  private let device: MemoryDevice
  private let recording: RecordingDevice
  private let dumpText = DumpText()
  /// The steps that write block 0.
  private var commits: [Int] = []
  /// Dumps of the state at the start and after each of `commits`; nil if it is not metadata.
  private var states: [[UInt8]?] = []

  /// Performs and records an operation of `kind` on a random pool.
  /// - Parameter losesFlushes: whether to drop the flushes, so that the trial finds failures.
  public init(_ kind: Kind, seed: UInt64, losesFlushes: Bool = false) throws {
    self.kind = kind
    self.seed = seed
    let run = try ModelRun.smallPool(seed: seed)
    let cacheBlocksMax = Bool.random(using: &run.random) ? 8 : 8192
    let act: (RecordingDevice) throws -> Void
    switch kind {
    case .operation(let operation):
      let body = try operation.prepare(run)
      act = { try body(PoolMetadata.open($0, cacheBlocksMax: cacheBlocksMax)) }
    case .format:
      for block in 0..<(run.device.byteCount / UInt64(Limits.blockBytes)) {
        // Any content of the device, except in block 0.
        let bytes = run.device.edit(block)
        for i in 0..<(block == 0 ? bytes.count : 1) { bytes[i] = 0 }
      }
      act = {
        let pool = try PoolMetadata.format(
          $0, dataBlockSectors: 128, cacheBlocksMax: cacheBlocksMax)
        try pool.resizeData(to: 40000)
        try pool.commit()
      }
    case .autoRepair:
      for _ in 0..<5 { _ = try run.pool.allocateDataBlock() }
      try run.pool.setNeedsCheck()
      try run.pool.commit()
      act = {
        var options = CheckOptions()
        options.autoRepair = true
        _ = try ThinCheck.run($0, options: options, progress: Progress())
      }
    case .restore, .restoreInPlace:
      if kind == .restoreInPlace { try Self.fill(run.pool) }
      let other = try ModelRun.smallPool(seed: ~seed)
      let xml = DumpText()
      _ = try xml(other.device)
      act = { _ = try ThinRestore.run(xml: xml.descriptor, path: "xml", to: $0) }
    }
    device = run.device
    device.keep()
    recording = RecordingDevice(device, losesFlushes: losesFlushes)
    try act(recording)
    device.revert()
    try findStates()
  }

  /// Leaves only a few free metadata blocks in a pool.
  private static func fill(_ pool: PoolMetadata) throws {
    var id: ThinID = 1
    while pool.freeMetadataBlocks > 14 {
      if try !pool.hasDevice(id) {
        try pool.createThin(id)
        try pool.commit()
      }
      id = id + 1
    }
  }

  private mutating func findStates() throws {
    for (i, step) in recording.steps.enumerated() {
      if case .write(0, _) = step { commits.append(i) }
    }
    var random = SplitMix64(seed: 0)
    for cut in [0] + commits.map({ $0 + 1 }) {
      try recording.replay(cut, .all, on: device, &random)
      states.append(try? dumpText.state(of: device))
      device.revert()
    }
  }

  /// Checks images of every cut: everything written until then, and two random parts of what was
  /// not flushed.
  /// - Returns: the number of images checked.
  public func run() throws -> Int {
    var random = SplitMix64(seed: seed ^ 0x5eed)
    var count = 0
    for cut in 0...recording.steps.count {
      let durable = recording.durableSteps(at: cut)
      let oldest = commits.count { $0 < durable }
      let newest = commits.count { $0 < cut }
      for survivors in RecordingDevice.Survivors.allCases {
        if survivors != .all && cut - durable < 2 { continue }
        try recording.replay(cut, survivors, on: device, &random)
        // If the superblock of a cut is completely on the device, only the newest state fits.
        let accepted = survivors == .all ? states[newest...newest] : states[oldest...newest]
        if let problem = try judge(accepted, continues: count % 8 == 0) {
          throw Failure(
            description: "seed \(seed), \(kind), cut at \(cut) of \(recording.steps.count), "
              + "\(survivors) of what is not flushed survive: \(problem)")
        }
        count += 1
        device.revert()
      }
    }
    return count
  }

  private func judge(_ accepted: ArraySlice<[UInt8]?>, continues: Bool) throws -> String? {
    let report: CheckReport
    do {
      report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    } catch {
      return accepted.contains(nil) ? nil : "\(error)"
    }
    let isFinal = states.count == 1 || accepted == [states.last ?? nil]
    if report.isDamaged || !report.isClean && (kind != .autoRepair || isFinal) {
      return "\(report.findings.prefix(3))"
    }
    guard accepted.contains(try dumpText.state(of: device)) else {
      return "neither the old state nor the new"
    }
    guard continues, report.isClean else { return nil }
    // The next transaction must work too.
    let pool = try PoolMetadata.open(device)
    let id: ThinID = (1...).first { (try? pool.hasDevice($0)) == false } ?? 1
    do throws(PoolError) {
      try pool.createThin(id)
      try pool.commit()
    } catch {
      return error == .metadataFull ? nil : "the next transaction: \(error)"
    }
    let after = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    return after.isClean ? nil : "after the next transaction: \(after.findings.prefix(3))"
  }
}
