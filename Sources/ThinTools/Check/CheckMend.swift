import BlockIO
import PersistentData
import ThinFormat

extension Checker {
  /// Does what the options ask for after the check; nothing when anything is fatal.
  func mend() throws(ToolError) {
    guard options.mayWrite, !report.isDamaged else { return }
    let mends = !options.superblockOnly && !options.skipMappings
    let leaks = report.leakCount + report.minorCount > 0
    if mends && leaks { try rebuildSpaceMaps() }
    if report.needsCheck { try clearNeedsCheck() }
  }

  private func clearNeedsCheck() throws(ToolError) {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    do throws(BlockIOError) {
      try device.read(into: buffer.bytes, at: 0)
      var superblock = Superblock(
        decoding: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer.bytes)))
      superblock.needsCheck = false
      superblock.encode(into: buffer.bytes)
      BlockHeader.seal(buffer.bytes, number: 0, kind: .superblock)
      // One sector carries all that changes, so a power cut leaves the old or the new state.
      try device.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
      try device.flush()
    } catch {
      throw ToolError(error)
    }
    report.needsCheck = false
    report.clearedNeedsCheck = true
  }

  private func rebuildSpaceMaps() throws(ToolError) {
  }
}
