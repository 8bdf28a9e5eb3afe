public import BlockIO
public import ThinFormat

/// Why a block is unusable.
public enum BlockProblem: Error, Equatable, Sendable, CustomStringConvertible {
  /// The device could not read it.
  case io(BlockIOError)
  /// It has the wrong format.
  case format(FormatError)
  /// Its number is beyond the end of the metadata.
  case beyondEnd(blockCount: UInt64)

  /// The expected and the found value.
  public var description: String {
    switch self {
    case .io(let error): "\(error)"
    case .format(let error): "\(error)"
    case .beyondEnd(let count): "beyond the end of the metadata, which has \(count) blocks"
    }
  }
}

/// Reads single metadata blocks, one at a time, into its own buffer.
public final class BlockReader {
  /// The device of the blocks.
  public let device: any BlockDevice
  /// Usable blocks: those of the device, at most `Limits.metadataBlocksMax`.
  public let blockCount: UInt64
  private let buffer = AlignedBuffer(count: Limits.blockBytes)

  /// A reader of `device`.
  public init(_ device: any BlockDevice) {
    self.device = device
    blockCount = min(device.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Reads `block` and passes its bytes to `body`, unchecked.
  /// - Throws: `BlockProblem` if it cannot be read, or the errors of `body`.
  public func withBlock<R>(
    _ block: UInt64, _ body: (RawSpan) throws(BlockProblem) -> R
  ) throws(BlockProblem) -> R {
    guard block < blockCount else { throw .beyondEnd(blockCount: blockCount) }
    do throws(BlockIOError) {
      try unsafe device.read(into: buffer.bytes, at: block * UInt64(Limits.blockBytes))
    } catch {
      throw .io(error)
    }
    return try unsafe body(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer.bytes)))
  }

  /// Reads `block` and requires a sound block of `kind`.
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

/// Requires a sound block `number` of `kind`.
public func requireSound(_ bytes: RawSpan, number: UInt64, kind: BlockKind) throws(BlockProblem) {
  do throws(FormatError) {
    try BlockHeader.verify(bytes, number: number, kind: kind)
  } catch {
    throw .format(error)
  }
}

/// A node of a tree of `kind`, or the problem of the block.
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
