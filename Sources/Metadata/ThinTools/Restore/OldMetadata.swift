import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// The metadata on an output before a restore.
enum OldMetadata {
  /// No metadata of a pool.
  case none
  /// Parts of a pool: thin_dump --repair may be able to save some of it.
  case damaged
  /// A sound pool.
  case sound(SoundMetadata)

  /// Blocks at the start to examine if there is no superblock: a new pool of the kernel has its
  /// first nodes there, and so has a restored one.
  private static let sampleBlocks = 64

  /// Examines `output`. Sound metadata is checked as by thin_check.
  static func find(on output: any BlockDevice, progress: Progress) -> OldMetadata {
    let count = min(sampleBlocks, Int(output.byteCount) / Limits.blockBytes)
    let buffer = AlignedBuffer(count: count * Limits.blockBytes)
    do throws(BlockIOError) {
      try unsafe output.read(into: buffer.bytes, at: 0)
    } catch {
      // An unreadable block may still be writable, since many disks replace a bad sector on write.
      return .damaged
    }
    let start = unsafe UnsafeRawBufferPointer(rebasing: buffer.bytes[..<Limits.blockBytes])
    guard unsafe SuperblockRecord.isClaimed(by: RawSpan(_unsafeBytes: start)) else {
      return (0..<count).contains { hasKind(buffer, block: $0) } ? .damaged : .none
    }
    do throws(ToolError) {
      let checker = try Checker(output, CheckOptions(), progress)
      try checker.run()
      guard !checker.report.isDamaged else { return .damaged }
      return .sound(
        SoundMetadata(superblock: checker.view.superblock, counts: checker.metadataCounts))
    } catch {
      return .damaged
    }
  }

  private static func hasKind(_ buffer: AlignedBuffer, block: Int) -> Bool {
    let start = block * Limits.blockBytes
    let bytes = unsafe UnsafeRawBufferPointer(
      rebasing: buffer.bytes[start..<(start + Limits.blockBytes)])
    return unsafe BlockHeader.kind(of: RawSpan(_unsafeBytes: bytes)) != nil
  }
}

/// The metadata of a sound pool, beside which new metadata may be written.
struct SoundMetadata {
  /// Its superblock.
  let superblock: Superblock
  /// The counts of its blocks: a block with a count of zero is free.
  let counts: ReferenceCounts

  /// The number of blocks below `blockCount` that it does not use.
  func freeCount(below blockCount: UInt64) -> UInt64 {
    (1..<max(1, blockCount)).reduce(0) { $0 + (counts.count(of: $1) == 0 ? 1 : 0) }
  }

  /// The blocks that make it a pool: the roots of its devices, and the superblock copy of a
  /// metadata snapshot.
  var roots: [UInt64] {
    [superblock.mappingRoot, superblock.detailsRoot, superblock.metadataSnapshot].filter { $0 != 0 }
  }
}
