import ThinFormat
import ThinMetadata

/// A metadata snapshot that goes with its pool.
struct HeldSnapshot {
  /// The copy of the superblock that it is.
  let superblock: Superblock
  /// The thin devices that it holds.
  let devices: [ThinDevice]
}
