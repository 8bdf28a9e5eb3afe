public import BlockIO
public import ThinFormat

/// Why a block could not be used.
public enum BlockProblem: Error, Equatable, Sendable, CustomStringConvertible {
  /// The device did not give it.
  case io(BlockIOError)
  /// It is not what its place says.
  case format(FormatError)
  /// Its number is beyond the end of the metadata.
  case beyondEnd(blockCount: UInt64)

  /// What was expected and what was found.
  public var description: String {
    switch self {
    case .io(let error): "\(error)"
    case .format(let error): "\(error)"
    case .beyondEnd(let count): "beyond the end of the metadata, which has \(count) blocks"
    }
  }
}

/// Reads single metadata blocks, one at a time, into a buffer of its own.
public final class BlockReader {
  /// Where blocks come from.
  public let device: any BlockDevice
  /// Blocks that a pool can use: what the device has, at most `Limits.metadataBlocksMax`.
  public let blockCount: UInt64
  private let buffer = AlignedBuffer(count: Limits.blockBytes)

  /// A reader of `device`.
  public init(_ device: any BlockDevice) {
    self.device = device
    blockCount = min(device.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Reads `block` and hands out its bytes, unjudged.
  /// - Throws: `BlockProblem` when it cannot be read, or what `body` throws.
  public func withBlock<R>(
    _ block: UInt64, _ body: (RawSpan) throws(BlockProblem) -> R
  ) throws(BlockProblem) -> R {
    guard block < blockCount else { throw .beyondEnd(blockCount: blockCount) }
    do throws(BlockIOError) {
      try device.read(into: buffer.bytes, at: block * UInt64(Limits.blockBytes))
    } catch {
      throw .io(error)
    }
    return try body(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer.bytes)))
  }

  /// The same with a sound block of `kind`.
  public func withBlock<R>(
    _ block: UInt64, of kind: BlockKind, _ body: (RawSpan) throws(BlockProblem) -> R
  ) throws(BlockProblem) -> R {
    try withBlock(block) { bytes throws(BlockProblem) in
      try requireSound(bytes, number: block, kind: kind)
      return try body(bytes)
    }
  }

  /// Reads `block` as a node of a tree of `kind`.
  public func withNode<R>(
    _ block: UInt64, of kind: TreeKind,
    _ body: (borrowing BtreeNodeView) throws(BlockProblem) -> R
  ) throws(BlockProblem) -> R {
    try withBlock(block) { bytes throws(BlockProblem) in
      try body(try validatedNode(bytes, number: block, kind: kind))
    }
  }
}

/// Refuses what is not a sound block `number` of `kind`.
public func requireSound(_ bytes: RawSpan, number: UInt64, kind: BlockKind) throws(BlockProblem) {
  do throws(FormatError) {
    try BlockHeader.verify(bytes, number: number, kind: kind)
  } catch {
    throw .format(error)
  }
}

/// A node of a tree of `kind`, or the problem with it.
@_lifetime(copy bytes)
func validatedNode(_ bytes: RawSpan, number: UInt64, kind: TreeKind) throws(BlockProblem)
  -> BtreeNodeView
{
  do throws(FormatError) {
    return try BtreeNodeView(validating: bytes, number: number, leafValueSize: kind.valueSize)
  } catch {
    throw .format(error)
  }
}
