public import BlockIO
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
/// The output is not touched before the XML's `<superblock>` was read and found possible. Then
/// its superblock is zeroed and stays so until everything else is durable: a restore that fails,
/// for whatever reason, leaves nothing behind that passes for metadata.
///
/// Memory: two bits per block of the pool, a byte where counts reach four, and less than a
/// megabyte besides; it does not depend on the number of mappings.
/// - Parameters:
///   - descriptor: where the XML is read from; stays the caller's.
///   - path: what messages call it.
///   - output: at least `restoreBytesMin` bytes; what is beyond `Limits.metadataBlocksMax` blocks
///     is not used.
///   - progress: counts the bytes of XML read, of `xmlByteCount` in all.
///   - xmlByteCount: bytes of the XML, 0 where not known.
/// - Throws: `damaged` for XML that is not a sound pool's, with its line; `output` where the
///   output is too small, `inputOutput` where a system call failed.
public func restore(
  xml descriptor: Int32, path: String, to output: any BlockDevice,
  options: RestoreOptions = RestoreOptions(), progress: Progress = Progress(),
  xmlByteCount: UInt64 = 0
) throws(ToolError) -> RestoreResult {
  guard output.byteCount >= restoreBytesMin else {
    throw ToolError(
      .output,
      "Output file too small: \(output.path) has \(output.byteCount) bytes, at least "
        + "\(restoreBytesMin) are needed")
  }
  let restorer = Restorer(output: output, options: options)
  progress.begin("Restoring", total: xmlByteCount)
  let reader = PoolXmlReader(
    descriptor: descriptor, path: path, handler: restorer, progress: progress)
  try reader.read()
  return try restorer.finish()
}
