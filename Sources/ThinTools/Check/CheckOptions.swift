import ThinMetadata

/// What `check` does. Which options go together is the command's business.
public struct CheckOptions: Equatable, Sendable {
  /// Look at the superblock only.
  public var superblockOnly = false
  /// Look at superblock, device tree and device details only.
  public var skipMappings = false
  /// Look at the metadata snapshot's trees, of a live pool maybe; no space maps.
  public var metadataSnapshot = false
  /// The block that the metadata snapshot must be at, where that is asked for.
  public var metadataSnapshotBlock: UInt64?
  /// Block to use as root of the device tree.
  public var mappingRoot: UInt64?
  /// Block to use as root of the details tree.
  public var detailsRoot: UInt64?
  /// Clear the needs-check flag when nothing fatal was found, after mending leaks.
  public var clearNeedsCheck = false
  /// Mend leaks and clear the needs-check flag.
  public var autoRepair = false
  /// Whether what is not fatal keeps the needs-check flag from being cleared.
  public var ignoreNonFatal = false

  /// The full check, changing nothing.
  public init() {}

  /// Which state of the pool to look at.
  var source: MetadataView.Source {
    guard metadataSnapshot else { return .current }
    return metadataSnapshotBlock.map { .metadataSnapshotAt($0) } ?? .metadataSnapshot
  }

  /// Whether the device must be opened for writing.
  public var mayWrite: Bool { clearNeedsCheck || autoRepair }
}
