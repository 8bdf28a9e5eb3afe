public import BlockIO
import ThinFormat

/// What became of a device when a repair in place was taken back.
public enum UndoOutcome: Equatable, Sendable {
  /// So many blocks are again what they were.
  case restored(blocks: UInt64)
  /// The device is what it was before the repair already.
  case nothingToDo
}

extension ThinRepair {
  /// Makes sound metadata of what can be saved of a pool's, on the device where it is.
  ///
  /// Nothing is written to the device before the result is made, fits, and every block that it overwrites is
  /// kept, with what tells this device from others. Then the device's first block is zeroed, the others are
  /// written, and the first last, with a flush between each: whenever that is interrupted, `undo` gives
  /// back the old device, and another call with what was kept does that and repairs it again.
  ///
  /// Memory: `run`'s.
  /// - Parameters:
  ///   - kept: what an earlier call on this device has kept, where it was interrupted; nil otherwise.
  ///   - keep: gets what writes the blocks; returns when they are durable.
  ///   - onSize: gets the blocks needed and the blocks that there are, before anything is written.
  /// - Throws: as `run` and `undo` do, and where a block that is to be overwritten cannot be read.
  public static func runInPlace(
    _ device: any BlockDevice, options: RepairOptions, kept: (any BlockDevice)? = nil,
    progress: Progress = Progress(),
    onSize: (_ needed: UInt64, _ available: UInt64) -> Void = { _, _ in },
    keep: (_ write: (ByteSink) throws(BlockIOError) -> Void) throws(ToolError) -> Void
  ) throws(ToolError) -> RepairResult {
    if let kept { _ = try undo(of: device, from: kept, progress: progress) }
    return try repair(device, options: options, progress: progress, onSize: onSize) {
      scratch, needed throws(ToolError) in
      try keep { sink throws(BlockIOError) in
        do throws(BlockIOError) {
          try UndoFile.write(device, needed, replacedBy: scratch, to: sink, progress)
        } catch {
          guard error.operation == .read, error.path == device.path else { throw error }
          throw BlockIOError(
            .read, path: error.path, offset: error.offset, code: error.code,
            detail:
              "\(error.reason). What cannot be read cannot be kept, so that nothing was written: repair "
              + "to another device")
        }
      }
    }
  }

  /// Takes a repair in place back: every block that it overwrote is again what it was.
  ///
  /// Nothing is written before the file was found whole and the device found to be the one that was
  /// repaired, in every block what it was before the repair or what the repair wrote. It may be interrupted,
  /// and repeated.
  /// - Parameter kept: what `runInPlace` has kept.
  /// - Throws: `refused` where the file is none, or the device is another or was written to since; `damaged`
  ///   where the file is not whole; `system` where reading or writing failed.
  public static func undo(
    of device: any BlockDevice, from kept: any BlockDevice, progress: Progress = Progress()
  ) throws(ToolError) -> UndoOutcome {
    let file = try UndoFile(kept, progress)
    guard device.byteCount == file.deviceBytes else {
      throw ToolError(
        .refused,
        "\(device.path) is another device than \(kept.path) was kept of: it has \(device.byteCount) bytes, "
          + "that one had \(file.deviceBytes)")
    }
    let bytes = UInt64(Limits.blockBytes)
    progress.begin("Comparing the device", total: device.byteCount / bytes)
    let (now, old) = (
      AlignedBuffer(count: Limits.blockBytes), AlignedBuffer(count: Limits.blockBytes)
    )
    var changed: [UInt64] = []
    for block in 0..<file.keptCount {
      progress.advance()
      try file.readKept(block, into: old)
      // A block that cannot be read may still be written.
      guard unsafe (try? device.read(into: now.bytes, at: block * bytes)) != nil else {
        changed.append(block)
        continue
      }
      if unsafe now.bytes.elementsEqual(old.bytes) { continue }
      guard unsafe file.mayBe(block, now: now.bytes, kept: old.bytes) else {
        throw otherDevice(
          device, kept, "block \(block) is neither what it was nor what the repair wrote")
      }
      changed.append(block)
    }
    guard UndoFile.rest(of: device, from: file.keptCount, progress) == file.restDigest else {
      throw otherDevice(device, kept, "what the repair did not touch is not what it was")
    }
    guard !changed.isEmpty else { return .nothingToDo }
    do throws(BlockIOError) {
      try restore(changed, of: device, from: file, old)
    } catch {
      throw ToolError(error)
    }
    return .restored(blocks: file.keptCount)
  }
}

private func otherDevice(_ device: any BlockDevice, _ kept: any BlockDevice, _ what: String)
  -> ToolError
{
  ToolError(
    .refused,
    "\(device.path) is not the device that \(kept.path) was kept of, or was written to after the repair: "
      + "\(what). Nothing was written")
}

/// Writes kept blocks back. Until the last of all, the first block, nothing on the device passes for
/// metadata.
private func restore(
  _ blocks: [UInt64], of device: any BlockDevice, from file: UndoFile, _ buffer: AlignedBuffer
) throws(BlockIOError) {
  let bytes = UInt64(Limits.blockBytes)
  func put(_ block: UInt64) throws(BlockIOError) {
    do throws(ToolError) {
      try file.readKept(block, into: buffer)
    } catch {
      guard case .system(let error) = error.cause else { return }
      throw error
    }
    try unsafe device.write(UnsafeRawBufferPointer(buffer.bytes), at: block * bytes)
  }
  buffer.zero()
  try unsafe device.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
  try device.flush()
  for block in blocks where block > 0 { try put(block) }
  try device.flush()
  try put(0)
  try device.flush()
}
