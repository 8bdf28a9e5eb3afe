import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// What an output holds before something is restored to it.
enum OldMetadata {
  /// Nothing of a pool.
  case none
  /// Parts of a pool: thin_dump --repair may get something of it.
  case damaged
  /// A pool that is sound.
  case sound(SoundMetadata)

  /// Blocks at the start that are looked at where there is no superblock: a pool of the kernel's has its
  /// first nodes there, and so has a restored one.
  private static let sampleBlocks = 64

  /// Looks at `output`. Sound metadata is checked as thin_check does.
  static func find(on output: any BlockDevice, progress: Progress) -> OldMetadata {
    let count = min(sampleBlocks, Int(output.byteCount) / Limits.blockBytes)
    let buffer = AlignedBuffer(count: count * Limits.blockBytes)
    do throws(BlockIOError) {
      try output.read(into: buffer.bytes, at: 0)
    } catch {
      // What cannot be read may still be written, which makes many a disk replace the sector.
      return .damaged
    }
    let start = UnsafeRawBufferPointer(rebasing: buffer.bytes[..<Limits.blockBytes])
    guard SuperblockRecord.isClaimed(by: RawSpan(_unsafeBytes: start)) else {
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
    let bytes = UnsafeRawBufferPointer(
      rebasing: buffer.bytes[start..<(start + Limits.blockBytes)])
    return BlockHeader.kind(of: RawSpan(_unsafeBytes: bytes)) != nil
  }
}

/// A sound pool's metadata, beside which other metadata may be written.
struct SoundMetadata {
  /// Its superblock.
  let superblock: Superblock
  /// Counts of its blocks: a block with a count of zero is free.
  let counts: ReferenceCounts

  /// Blocks below `blockCount` that nothing of it is in.
  func freeCount(below blockCount: UInt64) -> UInt64 {
    (1..<max(1, blockCount)).reduce(0) { $0 + (counts.count(of: $1) == 0 ? 1 : 0) }
  }

  /// Blocks without which it is no pool any more: the roots of its devices, and the superblock copy
  /// that a metadata snapshot is.
  var roots: [UInt64] {
    [superblock.mappingRoot, superblock.detailsRoot, superblock.metadataSnapshot].filter { $0 != 0 }
  }
}
