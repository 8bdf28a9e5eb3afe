public import BlockIO
import Glibc
import PersistentData
public import ThinFormat

/// The options of a restore.
public struct RestoreOptions: Equatable, Sendable {
  /// Data block size in sectors, instead of the XML's.
  public var dataBlockSectors: UInt32?
  /// Data blocks of the pool; used if more than in the XML.
  public var dataBlockCount: UInt64?
  /// Transaction id; used if more than in the XML.
  public var transactionID: UInt64?
  /// Whether to refuse a restore that would destroy old metadata before the new metadata is
  /// complete.
  public var keepsOld = false
  /// Whether the XML was checked before.
  public var isJudged = false

  /// The default options.
  public init() {}
}

/// The result of a restore.
public struct RestoreResult: Equatable, Sendable {
  /// The superblock that was written.
  public var superblock: Superblock
  /// Thin devices restored.
  public var deviceCount: UInt64
  /// The number of mappings of all devices.
  public var mappingCount: UInt64
  /// Losses, one line each.
  public var warnings: [String]
}

/// `thin_restore`.
public enum ThinRestore {
  /// The smallest device for a restore, in bytes.
  @inlinable public static var bytesMin: UInt64 { 40960 }

  /// Writes a pool's metadata from its XML.
  ///
  /// If the output holds metadata of a pool, or parts of it, the whole XML is checked before the
  /// first write. If that metadata is sound, the new metadata goes into blocks that it does not use.
  /// The old pool is whole until the last write, that of the superblock, which is one sector; then
  /// the old roots are zeroed. If there are too few blocks for both, or the old metadata is damaged,
  /// `onNotice` is called, and the old superblock is zeroed first. On an output without metadata the
  /// superblock is zeroed first too. From then on until everything else is durable, nothing on the
  /// output looks like valid metadata.
  ///
  /// Memory: two bits per block of the pool, a byte where counts reach four, and less than a megabyte
  /// besides, whatever the number of mappings; more if the output holds metadata, which is checked.
  /// Blocks that do not fit beside sound metadata are kept in a temporary file until their number is
  /// known.
  /// - Parameters:
  ///   - descriptor: the XML, read from the present position. The caller closes it, and can reset it
  ///     with lseek(2).
  ///   - path: its name in messages.
  ///   - output: at least `bytesMin` bytes; blocks beyond `Limits.metadataBlocksMax` are not
  ///     used.
  ///   - progress: counts the bytes of XML read, out of `xmlByteCount`.
  ///   - xmlByteCount: bytes of the XML, 0 if unknown.
  ///   - onNotice: receives a line before old metadata is overwritten.
  /// - Throws: `damaged`, with the line, for XML that is not a sound pool's; `output` if the output
  ///   is too small or `keepsOld` prevents it; `inputOutput` if a system call failed.
  public static func run(
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
      try unsafe PoolXmlReader(
        descriptor: descriptor, path: path, handler: restorer, progress: progress
      )
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

  /// Checks the XML of a pool as `run` does, without writing.
  /// - Parameters:
  ///   - onRead: receives every piece that was read, before it is parsed.
  /// - Throws: the errors of `run` for that XML, and those of `onRead`.
  public static func judge(
    xml descriptor: Int32, path: String, for output: any BlockDevice, options: RestoreOptions,
    progress: Progress, onRead: @escaping (UnsafeRawBufferPointer) throws(ToolError) -> Void
  ) throws(ToolError) {
    try requireRoom(output)
    progress.begin("Reading", total: 0)
    let restorer = Restorer(output: output, options: options, place: .nowhere)
    try unsafe PoolXmlReader(
      descriptor: descriptor, path: path, handler: restorer, progress: progress, onRead: onRead
    ).read()
  }
}

func requireRoom(_ output: any BlockDevice) throws(ToolError) {
  guard output.byteCount >= ThinRestore.bytesMin else {
    throw ToolError(
      .outOfSpace,
      "Output file too small: \(output.path) has \(output.byteCount) bytes, at least "
        + "\(ThinRestore.bytesMin) are needed")
  }
}
