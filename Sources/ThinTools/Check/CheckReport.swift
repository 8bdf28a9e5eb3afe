/// What a check found, and did.
public struct CheckReport: Sendable {
  /// The pool's transaction id.
  public internal(set) var transactionID: UInt64 = 0
  /// Metadata blocks that are not allocated, by the superblock's own account.
  public internal(set) var metadataFreeBlocks: UInt64 = 0
  /// Whether the needs-check flag is set, after what the check did.
  public internal(set) var needsCheck = false
  /// Thin devices looked at.
  public internal(set) var deviceCount = 0
  /// Findings in the order found; at most `findingsMax`.
  public private(set) var findings: [Finding] = []
  /// Findings of each severity, those beyond `findingsMax` included.
  public private(set) var fatalCount = 0
  /// Findings of severity leak.
  public private(set) var leakCount = 0
  /// Findings of severity minor.
  public private(set) var minorCount = 0
  /// Whether the needs-check flag was cleared.
  public internal(set) var clearedNeedsCheck = false
  /// Whether the space maps were rebuilt.
  public internal(set) var repairedSpaceMaps = false
  /// Whether the space maps were not rebuilt for want of free metadata blocks.
  public internal(set) var noRoomToMend = false

  /// A whole generation that is newer than the superblock's, or may be. No finding: what the superblock leads to
  /// may be sound, and old blocks can look alike where a pool was made anew as it was before.
  public internal(set) var newerGeneration: NewerGeneration?

  /// Findings kept; what a wrecked device yields beyond is counted only.
  public static let findingsMax = 2000

  /// Whether anything is fatal.
  public var isDamaged: Bool { fatalCount > 0 }
  /// Whether nothing at all was found.
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

  /// Findings that writing the space maps anew mends, those beyond `findingsMax` included.
  public var mendableCount: Int { leakCount + mendableMinorCount }
  private var mendableMinorCount = 0

  /// After a repair: what it mended is no longer there.
  mutating func forgetMended() {
    leakCount = 0
    minorCount -= mendableMinorCount
    mendableMinorCount = 0
    findings.removeAll { $0.isMendable }
  }
}
