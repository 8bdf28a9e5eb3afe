public import ThinFormat
import ThinMetadata

/// The options of `ThinCheck`. The command decides which may be combined.
public struct CheckOptions: Equatable, Sendable {
  /// Check only the superblock.
  public var superblockOnly = false
  /// Check only the superblock, the device tree and the device details.
  public var skipMappings = false
  /// Check the trees of the metadata snapshot, possibly of an active pool, but no space maps.
  public var metadataSnapshot = false
  /// The required block of the metadata snapshot; nil for any.
  public var metadataSnapshotBlock: MetadataBlock?
  /// Block to use as root of the device tree.
  public var mappingRoot: MetadataBlock?
  /// Block to use as root of the details tree.
  public var detailsRoot: MetadataBlock?
  /// Clear the needs-check flag if nothing fatal was found, after repairing leaks.
  public var clearNeedsCheck = false
  /// Repair leaks and clear the needs-check flag.
  public var autoRepair = false
  /// Whether to clear the needs-check flag in spite of findings that are not fatal.
  public var ignoreNonFatal = false

  /// The full check, without changes.
  public init() {}

  /// The state of the pool to check.
  var source: MetadataView.Source {
    guard metadataSnapshot else { return .current }
    return metadataSnapshotBlock.map { .metadataSnapshotAt($0) } ?? .metadataSnapshot
  }

  /// Whether the device must be opened for writing.
  public var mayWrite: Bool { clearNeedsCheck || autoRepair }
}
