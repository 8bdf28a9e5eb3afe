public import BlockIO
import PersistentData
public import ThinFormat
public import ThinMetadata

/// The result of packing.
public struct PackResult: Equatable, Sendable {
  /// The number of blocks in the file.
  public var blockCount: UInt64 = 0
  /// The number of those with a wrong checksum, which the original unpack tool leaves out.
  public var unsoundCount: UInt64 = 0
  /// Blocks that could not be read, and are not in the file.
  public var unreadable: [MetadataBlock] = []
}

/// `thin_metadata_pack`; `PackedFile` is what unpacks.
public enum ThinPack {
  /// Writes every block of a metadata device that is not zero to `sink`, compressed. `PackedFile` and the
  /// original tools restore the device from it. For a metadata snapshot, writes only its blocks and
  /// the superblock.
  ///
  /// Memory: some megabytes for a chunk; for a metadata snapshot that of `TreeForest`.
  /// - Throws: `ToolError` if the metadata snapshot does not exist, or a write fails.
  public static func run(
    _ device: any BlockDevice, source: MetadataView.Source, to sink: ByteSink, progress: Progress
  ) throws(ToolError) -> PackResult {
    let blockCount = device.byteCount / UInt64(Limits.blockBytes)
    var writer = PackWriter(sink)
    try writer.begin(blockCount)
    var wanted: TreeForest?
    if source != .current { wanted = try snapshotNodes(device, source) }
    let snapshot = try source == .current ? nil : view(device, source).superblockNumber.rawValue
    progress.begin("Packing", total: blockCount)
    var next: UInt64 = 0
    var failure: ToolError?
    var result = PackResult()
    BlockStream(device).read(
      next: { () -> UInt64? in
        while failure == nil, next < blockCount {
          defer { next += 1 }
          if let wanted, next != 0, next != snapshot, !wanted.knows(next) { continue }
          return next
        }
        return nil
      },
      body: { block, bytes, error in
        progress.advance()
        guard failure == nil else { return }
        guard error == nil else { return result.unreadable.append(MetadataBlock(block)) }
        do throws(ToolError) { try writer.add(block, bytes) } catch { failure = error }
      })
    if let failure { throw failure }
    try writer.end()
    result.blockCount = writer.blockCount
    result.unsoundCount = writer.unsoundCount
    return result
  }
}

private func view(_ device: any BlockDevice, _ source: MetadataView.Source) throws(ToolError)
  -> MetadataView
{
  do throws(MetadataError) {
    return try MetadataView(device, source: source)
  } catch {
    throw ToolError(error)
  }
}

/// Every node reachable from a metadata snapshot.
private func snapshotNodes(_ device: any BlockDevice, _ source: MetadataView.Source)
  throws(ToolError)
  -> TreeForest
{
  let view = try view(device, source)
  let forest = TreeForest(
    view.reader, counts: ReferenceCounts(blockCount: view.reader.blockCount))
  var roots: [UInt64] = []
  forest.walk(.details, roots: [view.superblock.detailsRoot]) { _, _ in }
  forest.walk(.devices, roots: [view.superblock.mappingRoot]) { _, node in
    for i in 0..<node.entryCount { roots.append(node.value64(i)) }
  }
  forest.walk(.mappings, roots: roots) { _, _ in }
  return forest
}

/// Writes the parts of a packed file.
private struct PackWriter: ~Copyable {
  private let sink: ByteSink
  private var chunks: UInt64 = 0
  private var sum: UInt32 = 0xFFFF_FFFF
  private let compressor = Compressor()
  private var packer = BlockPacker()
  private var raw: [UInt8] = []
  private(set) var blockCount: UInt64 = 0
  private(set) var unsoundCount: UInt64 = 0

  init(_ sink: ByteSink) { self.sink = sink }

  mutating func begin(_ blocks: UInt64) throws(ToolError) {
    try write(
      PackFormat.littleEndian([
        PackFormat.magic, PackFormat.version, UInt64(Limits.blockBytes), blocks,
      ]))
  }

  mutating func add(_ block: UInt64, _ content: RawSpan) throws(ToolError) {
    if content.isAllZero { return }
    if let kind = BlockHeader.kind(of: content) {
      packer.add(block, content, kind)
      if packer.isFull { try writeChunk() }
    } else {
      raw += PackFormat.littleEndian([block])
      unsafe content.withUnsafeBytes { unsafe raw += $0 }
      unsoundCount += 1
      if raw.count >= PackFormat.chunkBlocks * Limits.blockBytes { try writeRaw() }
    }
    blockCount += 1
  }

  mutating func end() throws(ToolError) {
    try writeChunk()
    try writeRaw()
    try writeOwn(PackFormat.end, PackFormat.littleEndian([chunks, UInt64(sum)]))
    try written { () throws(BlockIOError) in try sink.flush() }
  }

  private mutating func writeChunk() throws(ToolError) {
    guard !packer.isEmpty else { return }
    try unsafe writeChunk(compressor.compressed(packer.bytes))
    packer.removeAll()
  }

  private mutating func writeRaw() throws(ToolError) {
    guard !raw.isEmpty else { return }
    try unsafe writeOwn(
      PackFormat.rawBlocks, raw.withUnsafeBufferPointer { unsafe compressor.compressed($0) })
    raw.removeAll(keepingCapacity: true)
  }

  private mutating func writeOwn(_ kind: UInt64, _ content: [UInt8]) throws(ToolError) {
    try writeChunk(
      PackFormat.emptyStream + PackFormat.littleEndian([PackFormat.ownMagic, kind]) + content)
  }

  private mutating func writeChunk(_ bytes: [UInt8]) throws(ToolError) {
    try write(PackFormat.littleEndian([UInt64(bytes.count)]))
    try write(bytes)
    chunks += 1
  }

  private mutating func write(_ bytes: [UInt8]) throws(ToolError) {
    sum = PackFormat.checksum(sum, bytes)
    var failure: BlockIOError?
    unsafe bytes.withUnsafeBytes { piece in
      do throws(BlockIOError) { try unsafe sink.write(piece) } catch { failure = error }
    }
    if let failure { throw ToolError(failure) }
  }
}
