import TestSupport

/// The seeds of a test of snapshots: as many as DMTHIN_SNAPSHOTS says, from DMTHIN_SEED on.
func snapshotSeeds(_ usual: UInt64) -> Range<UInt64> {
  let first = environment("DMTHIN_SEED").flatMap { UInt64($0) } ?? 0
  return first..<first + (environment("DMTHIN_SNAPSHOTS").flatMap { UInt64($0) } ?? usual)
}
