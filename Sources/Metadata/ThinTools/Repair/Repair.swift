public import BlockIO
import PersistentData
import ThinFormat

/// What a repair is to do.
public struct RepairOptions: Equatable, Sendable {
  /// What is salvaged.
  public var salvage = SalvageOptions()
  /// Refuse to give up metadata that the output holds before the new one is in place.
  public var keepsOld = false

  /// Everything that can be saved.
  public init() {}
}

/// What a repair did, or would do.
public struct RepairResult: Equatable, Sendable {
  /// What was saved, and what was not.
  public var report: RepairReport
  /// Blocks of 4096 bytes that the result takes.
  public var neededBlocks: UInt64
  /// Blocks of the output that can be used.
  public var outputBlocks: UInt64
  /// Transaction id of the result.
  public var transactionID: UInt64
}

/// `thin_repair`.
public enum ThinRepair {
  /// Makes sound metadata of what can be saved of a pool's.
  ///
  /// What is saved is what `ThinDump` with `repair` saves, without an XML between, and in addition the
  /// metadata snapshot, if it is whole. The flag that asks for a check is cleared. The result is made in a
  /// temporary file first: its size is known before the output is touched, and a damaged pool is read once.
  /// What the output holds is treated as `ThinRestore` treats it.
  ///
  /// Memory: `ThinDump`'s for a repair, and `ThinRestore`'s.
  /// - Parameters:
  ///   - output: nil where nothing is to be written; then the result is for an output of `device`'s size.
  ///   - onSize: gets the blocks needed and the blocks that there are, before anything is written.
  ///   - onNotice: gets a line before old metadata is given up.
  /// - Throws: `damaged` where nothing can be saved, `output` where the output is too small or `keepsOld`
  ///   forbids it, `inputOutput` where a system call failed.
  public static func run(
    _ device: any BlockDevice, to output: (any BlockDevice)?, options: RepairOptions,
    progress: Progress = Progress(),
    onSize: (_ needed: UInt64, _ available: UInt64) -> Void = { _, _ in },
    onNotice: (String) -> Void = { _ in }
  ) throws(ToolError) -> RepairResult {
    if let output { try requireRoom(output) }
    let (repair, result) = try made(device, for: output ?? device, options, progress)
    onSize(repair.needed, repair.available)
    if output != nil { try repair.putInPlace(onNotice) }
    return result
  }
}

/// The same over the damaged metadata itself.
/// - Parameter keep: is called before the first write; gets the result and the number of blocks, the first
///   ones, that it overwrites.
func repair(
  _ device: any BlockDevice, options: RepairOptions, progress: Progress,
  onSize: (_ needed: UInt64, _ available: UInt64) -> Void,
  keep: (_ result: any BlockDevice, _ needed: UInt64) throws(ToolError) -> Void
) throws(ToolError) -> RepairResult {
  try requireRoom(device)
  let (repair, result) = try made(device, for: device, options, progress)
  onSize(repair.needed, repair.available)
  try repair.putInPlace(keep: keep)
  return result
}

/// What is salvaged of `device`, made for `output`, and nothing of it written there.
private func made(
  _ device: any BlockDevice, for output: any BlockDevice, _ options: RepairOptions,
  _ progress: Progress
) throws(ToolError) -> (Repair, RepairResult) {
  let log = SalvageLog()
  let pool: DumpSource
  do throws(ToolError) {
    pool = try salvage(device, options: options.salvage, progress: progress, log: log)
  } catch {
    // What was seen on the way tells what to give.
    let seen = log.lines.map { "\($0)\n" }.joined()
    throw error.saying(seen + error.message)
  }
  var repair = Repair(pool, output, options, progress)
  try repair.make()
  var result = RepairResult(
    report: log.report, neededBlocks: repair.needed, outputBlocks: repair.available,
    transactionID: max(pool.header.transactionID, options.salvage.overrides.transactionID ?? 0))
  result.report.notes = log.lines + log.report.notes
  return (repair, result)
}

/// One run of `ThinRepair`: what was salvaged, on its way to the output.
private struct Repair {
  private let pool: DumpSource
  private let output: any BlockDevice
  private let options: RepairOptions
  private let progress: Progress
  private var scratch: ScratchDevice?
  let available: UInt64
  private(set) var needed: UInt64 = 0

  init(
    _ pool: DumpSource, _ output: any BlockDevice, _ options: RepairOptions, _ progress: Progress
  ) {
    self.pool = pool
    self.output = output
    self.options = options
    self.progress = progress
    available = min(output.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Makes the result, and finds out how large it is.
  mutating func make() throws(ToolError) {
    let scratch: ScratchDevice
    do throws(BlockIOError) { scratch = try ScratchDevice() } catch { throw ToolError(error) }
    let restorer = try build(.scratch(scratch))
    switch try restorer.finish() {
    case .done:
      needed = restorer.blocksUsed
      self.scratch = scratch
    case .tooFew(let needed):
      // A larger output has more bitmaps to count its blocks.
      let per = UInt64(Limits.entriesPerBitmap)
      let rest = needed - (available + per - 1) / per
      self.needed = rest + (rest + per - 2) / (per - 1)
    }
  }

  private func build(_ place: Restorer.Place) throws(ToolError) -> Restorer {
    var restoring = RestoreOptions()
    restoring.keepsOld = options.keepsOld
    let restorer = Restorer(output: output, options: restoring, place: place)
    var header = pool.header
    header.flags &= ~SuperblockRecord.needsCheckFlag
    var dumper = Dumper(pool, RestorerSink(restorer: restorer), progress)
    try dumper.write(header, pool.devices, snapshot: pool.snapshot)
    return restorer
  }

  /// What was made, if it fits.
  private func result() throws(ToolError) -> ScratchDevice {
    guard let scratch else {
      throw ToolError(
        .outOfSpace,
        "out of metadata space: \(output.path) has \(available) blocks of 4096 bytes, and \(needed) are "
          + "needed (\(needed * UInt64(Limits.blockBytes)) bytes). Nothing was written")
    }
    return scratch
  }

  /// Writes the result over what it was made of.
  func putInPlace(keep: (any BlockDevice, UInt64) throws(ToolError) -> Void) throws(ToolError) {
    let scratch = try result()
    try keep(scratch, needed)
    do throws(BlockIOError) { try copy(scratch) } catch { throw ToolError(error) }
  }

  /// Writes the result to the output.
  func putInPlace(_ onNotice: (String) -> Void) throws(ToolError) {
    let scratch = try result()
    switch OldMetadata.find(on: output, progress: progress) {
    case .none: break
    case .damaged:
      let what =
        "\(output.path) holds damaged metadata, of which thin_repair may save something"
      guard !options.keepsOld else {
        throw ToolError(.precious, "\(what); it is kept. Without --keep-old it is overwritten")
      }
      onNotice("\(what); it is overwritten now")
    case .sound(let sound):
      if case .done = try build(.beside(sound)).finish() { return }
      let what =
        "\(output.path) holds sound metadata; the new one needs \(needed - 1) blocks of 4096 bytes, "
        + "and \(sound.freeCount(below: available)) are free beside it"
      guard !options.keepsOld else {
        throw ToolError(.precious, "\(what). It is kept; without --keep-old it is overwritten")
      }
      onNotice("\(what). It is given up: its superblock is zeroed now")
    }
    do throws(BlockIOError) { try copy(scratch) } catch { throw ToolError(error) }
  }

  /// Copies what was made. Until the last write of all, that of the superblock, nothing on the output passes
  /// for metadata.
  private func copy(_ scratch: ScratchDevice) throws(BlockIOError) {
    let bytes = UInt64(Limits.blockBytes)
    let buffer = AlignedBuffer(count: 256 * Limits.blockBytes)
    let block = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<Limits.blockBytes])
    unsafe block.initializeMemory(as: UInt8.self, repeating: 0)
    try unsafe output.write(UnsafeRawBufferPointer(block), at: 0)
    try output.flush()
    progress.begin("Writing", total: needed)
    var next: UInt64 = 1
    while next < needed {
      let count = min(256, needed - next)
      let piece = unsafe UnsafeMutableRawBufferPointer(
        rebasing: buffer.bytes[..<(Int(count) * Limits.blockBytes)])
      try unsafe scratch.read(into: piece, at: next * bytes)
      try unsafe output.write(UnsafeRawBufferPointer(piece), at: next * bytes)
      next += count
      progress.advance(by: count)
    }
    try output.flush()
    try unsafe scratch.read(into: block, at: 0)
    try unsafe output.write(UnsafeRawBufferPointer(block), at: 0)
    try output.flush()
    withExtendedLifetime(buffer) {}
  }
}
