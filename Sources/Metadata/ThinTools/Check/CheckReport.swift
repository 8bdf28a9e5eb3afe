/// The result of a check.
public struct CheckReport: Sendable {
  /// The pool's transaction id.
  public internal(set) var transactionID: UInt64 = 0
  /// Free metadata blocks, according to the superblock.
  public internal(set) var metadataFreeBlocks: UInt64 = 0
  /// Whether the needs-check flag is set, after the check.
  public internal(set) var needsCheck = false
  /// The number of thin devices checked.
  public internal(set) var deviceCount = 0
  /// Findings in order; at most `findingsMax`.
  public private(set) var findings: [Finding] = []
  /// The number of fatal findings, those beyond `findingsMax` included.
  public private(set) var fatalCount = 0
  /// The number of findings of severity leak.
  public private(set) var leakCount = 0
  /// The number of findings of severity minor.
  public private(set) var minorCount = 0
  /// Whether the needs-check flag was cleared.
  public internal(set) var clearedNeedsCheck = false
  /// Whether the space maps were rebuilt.
  public internal(set) var repairedSpaceMaps = false
  /// Whether the space maps could not be rebuilt for lack of free metadata blocks.
  public internal(set) var noRoomToMend = false

  /// A whole generation that is newer than the superblock's, or may be. It is not a finding: the
  /// superblock's trees may be sound, and old blocks can look alike if a pool was made again in the
  /// same way.
  public internal(set) var newerGeneration: NewerGeneration?

  /// The most findings kept; the rest of a badly damaged device is only counted.
  public static let findingsMax = 2000

  /// Whether any finding is fatal.
  public var isDamaged: Bool { fatalCount > 0 }
  /// Whether there are no findings.
  public var isClean: Bool { fatalCount + leakCount + minorCount == 0 }

  mutating func add(_ finding: Finding) {
    switch finding.severity {
    case .fatal: fatalCount += 1
    case .leak: leakCount += 1
    case .minor: minorCount += 1
    }
    if finding.isMendable && finding.severity == .minor { mendableMinorCount += 1 }
    if findings.count < Self.findingsMax { findings.append(finding) }
  }

  /// The number of findings that rebuilding the space maps repairs, those beyond `findingsMax`
  /// included.
  public var mendableCount: Int { leakCount + mendableMinorCount }
  private var mendableMinorCount = 0

  /// Drops the findings that a repair has fixed.
  mutating func forgetMended() {
    leakCount = 0
    minorCount -= mendableMinorCount
    mendableMinorCount = 0
    findings.removeAll { $0.isMendable }
  }
}
