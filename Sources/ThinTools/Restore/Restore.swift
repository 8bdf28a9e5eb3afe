public import BlockIO
import Glibc
import PersistentData
public import ThinFormat

/// What a restore may change of what the XML says.
public struct RestoreOptions: Equatable, Sendable {
  /// Data block size in sectors, instead of the XML's.
  public var dataBlockSectors: UInt32?
  /// Data blocks of the pool, where that is more than the XML's.
  public var dataBlockCount: UInt64?
  /// The transaction id, where that is more than the XML's.
  public var transactionID: UInt64?
  /// Refuse to give up metadata that the output holds before the new one is in place.
  public var keepsOld = false
  /// The XML has been judged already.
  public var isJudged = false

  /// Options that change nothing.
  public init() {}
}

/// What a restore did.
public struct RestoreResult: Equatable, Sendable {
  /// The superblock that was written.
  public var superblock: Superblock
  /// Thin devices restored.
  public var deviceCount: UInt64
  /// Mappings of all devices together.
  public var mappingCount: UInt64
  /// What could not be kept, a line each.
  public var warnings: [String]
}

/// The smallest device that a pool's metadata is restored to, in bytes.
public let restoreBytesMin: UInt64 = 40960

/// Writes a pool's metadata from its XML.
///
/// Where the output holds metadata of a pool, or parts of it, the whole XML is judged before the first
/// write. If that metadata is sound, the new one goes into blocks that it does not use, and the old pool is
/// whole until the last write of all, that of the superblock, which is one sector; then the old roots are
/// zeroed. Where there are too few blocks for both, and where the old metadata is damaged, `onNotice` hears
/// of it, and the old superblock is zeroed first. On an output without metadata it is as well.
/// From then on until everything else is durable nothing on the output passes for metadata.
///
/// Memory: two bits per block of the pool, a byte where counts reach four, and less than a
/// megabyte besides, whatever the number of mappings; more where the output holds metadata, which is
/// checked. What does not fit beside sound metadata is kept in a temporary file for as long as it takes to
/// find out how much that is.
/// - Parameters:
///   - descriptor: where the XML is read from, from where it stands; stays the caller's, and can be set
///     back with lseek(2).
///   - path: what messages call it.
///   - output: at least `restoreBytesMin` bytes; what is beyond `Limits.metadataBlocksMax` blocks
///     is not used.
///   - progress: counts the bytes of XML read, of `xmlByteCount` in all.
///   - xmlByteCount: bytes of the XML, 0 where not known.
///   - onNotice: gets a line before old metadata is given up.
/// - Throws: `damaged` for XML that is not a sound pool's, with its line; `output` where the
///   output is too small or `keepsOld` forbids it, `inputOutput` where a system call failed.
public func restore(
  xml descriptor: Int32, path: String, to output: any BlockDevice,
  options: RestoreOptions = RestoreOptions(), progress: Progress = Progress(),
  xmlByteCount: UInt64 = 0, onNotice: (String) -> Void = { _ in }
) throws(ToolError) -> RestoreResult {
  try requireRoom(output)
  let begin = lseek(descriptor, 0, SEEK_CUR)
  func run(_ place: Restorer.Place) throws(ToolError) -> Restorer {
    guard begin < 0 || lseek(descriptor, begin, SEEK_SET) == begin else {
      throw ToolError(BlockIOError(.read, path: path, code: errno))
    }
    let restorer = Restorer(output: output, options: options, place: place)
    progress.begin(place.isNowhere ? "Judging" : "Restoring", total: xmlByteCount)
    try PoolXmlReader(descriptor: descriptor, path: path, handler: restorer, progress: progress)
      .read()
    return restorer
  }
  let old = OldMetadata.find(on: output, progress: progress)
  switch old {
  case .none: break
  case .damaged, .sound:
    if !options.isJudged { _ = try run(.nowhere) }
  }
  switch old {
  case .none: break
  case .damaged:
    let what =
      "\(output.path) holds damaged metadata, of which thin_dump --repair may save something"
    guard !options.keepsOld else {
      throw ToolError(.precious, "\(what); it is kept. Without --keep-old it is overwritten")
    }
    onNotice("\(what); it is overwritten now")
  case .sound(let sound):
    switch try run(.beside(sound)).finish() {
    case .done(let result): return result
    case .tooFew(let needed):
      let blocks = min(output.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
      let what =
        "\(output.path) holds sound metadata; the new one needs \(needed - 1) blocks of 4096 bytes, "
        + "and \(sound.freeCount(below: blocks)) are free beside it"
      guard needed <= blocks else {
        throw ToolError(.outOfSpace, "out of metadata space: \(what). It is kept")
      }
      guard !options.keepsOld else {
        throw ToolError(.precious, "\(what). It is kept; without --keep-old it is overwritten")
      }
      onNotice("\(what). It is given up: its superblock is zeroed now")
    }
  }
  guard case .done(let result) = try run(.fromStart).finish() else {
    throw ToolError(.outOfSpace, "out of metadata space: \(output.path)")
  }
  return result
}

/// Judges the XML of a pool, as `restore` does, without writing anything.
/// - Parameters:
///   - onRead: gets every piece that is read, before it is looked at.
/// - Throws: what `restore` throws for that XML, and what `onRead` throws.
public func judge(
  xml descriptor: Int32, path: String, for output: any BlockDevice, options: RestoreOptions,
  progress: Progress, onRead: @escaping (UnsafeRawBufferPointer) throws(ToolError) -> Void
) throws(ToolError) {
  try requireRoom(output)
  progress.begin("Reading", total: 0)
  let restorer = Restorer(output: output, options: options, place: .nowhere)
  try PoolXmlReader(
    descriptor: descriptor, path: path, handler: restorer, progress: progress, onRead: onRead
  ).read()
}

func requireRoom(_ output: any BlockDevice) throws(ToolError) {
  guard output.byteCount >= restoreBytesMin else {
    throw ToolError(
      .outOfSpace,
      "Output file too small: \(output.path) has \(output.byteCount) bytes, at least "
        + "\(restoreBytesMin) are needed")
  }
}
