public import BlockIO
public import ThinFormat

/// A packed file, which is read once to check it and once to unpack it.
public final class PackedFile {
  private let file: OpenFile
  private let byteCount: UInt64
  private let decompressor = Decompressor()
  /// Blocks that are handed out at once.
  private static let runMax = 256
  private let run = AlignedBuffer(count: PackedFile.runMax * Limits.blockBytes)
  /// Blocks of the device that was packed.
  public let blockCount: UInt64
  /// Whether the file has the end mark, which shows that it is complete.
  public private(set) var isMarked = false
  /// The number of blocks in the file.
  public private(set) var storedCount: UInt64 = 0

  /// Reads the header of an open file, which the caller closes.
  /// - Throws: `damaged` if it is not packed metadata.
  public init(_ file: OpenFile) throws(ToolError) {
    self.file = file
    do throws(BlockIOError) { byteCount = try file.byteCount() } catch { throw ToolError(error) }
    let header = try Self.read(file, 0, min(UInt64(PackFormat.headerBytes), byteCount))
    let words = stride(from: 0, to: header.count / 8 * 8, by: 8).map {
      PackFormat.word(header[$0...])
    }
    guard words.count == 4, words[0] == PackFormat.magic else {
      throw ToolError(
        .unsuitable(.input), "\(file.path) is not packed metadata as thin_metadata_pack writes it")
    }
    guard words[1] == PackFormat.version, words[2] == UInt64(Limits.blockBytes),
      words[3] <= 1 << 24
    else {
      throw ToolError(
        .damaged,
        "\(file.path): expected version \(PackFormat.version), blocks of \(Limits.blockBytes) bytes and at "
          + "most \(1 << 24) of them, found version \(words[1]), \(words[2]) bytes and \(words[3]) blocks"
      )
    }
    blockCount = words[3]
  }

  private static func read(_ file: OpenFile, _ at: UInt64, _ count: UInt64) throws(ToolError)
    -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: Int(count))
    var failure: BlockIOError?
    unsafe bytes.withUnsafeMutableBytes { buffer in
      do throws(BlockIOError) { try unsafe file.read(into: buffer, at: at) } catch {
        failure = error
      }
    }
    if let failure { throw ToolError(failure) }
    return bytes
  }

  /// Calls `body` with the number of a block and its contents, and those of blocks that follow it, for all
  /// blocks in the order of the file. Memory: that of a chunk, 32 MiB at most, and a run of 1 MiB.
  /// - Throws: `damaged` at the first damaged place, or if the file ends too early.
  public func forEachRun(
    progress: Progress, _ body: (MetadataBlock, UnsafeRawBufferPointer) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    progress.begin("Reading", total: byteCount)
    var at = UInt64(PackFormat.headerBytes)
    var sum = PackFormat.checksum(0xFFFF_FFFF, try Self.read(file, 0, at))
    var chunks: UInt64 = 0
    storedCount = 0
    isMarked = false
    while at < byteCount {
      guard !isMarked else { throw damage(at, "expected nothing after the end mark") }
      guard byteCount - at >= 8 else { throw damage(at, "it is cut short") }
      let length = try Self.read(file, at, 8)
      let count = PackFormat.word(length)
      guard count <= UInt64(PackFormat.chunkBytesMax) else {
        throw damage(
          at, "expected a chunk of at most \(PackFormat.chunkBytesMax) bytes, found \(count)")
      }
      guard count <= byteCount - at - 8 else { throw damage(at, "it is cut short in a chunk") }
      let chunk = try Self.read(file, at + 8, count)
      let before = sum
      sum = PackFormat.checksum(PackFormat.checksum(sum, length), chunk)
      try unsafe take(chunk, at, sumBefore: before, chunks, body)
      chunks += 1
      at += 8 + count
      progress.advance(by: 8 + count)
    }
  }

  private func take(
    _ chunk: [UInt8], _ at: UInt64, sumBefore: UInt32, _ chunks: UInt64,
    _ body: (MetadataBlock, UnsafeRawBufferPointer) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    guard let (content, used) = decompressor.content(chunk[...], countMax: PackFormat.chunkBytesMax)
    else {
      throw damage(at, "its compressed stream is damaged")
    }
    let rest = chunk[used...]
    if !rest.isEmpty, PackFormat.word(rest) == PackFormat.ownMagic, rest.count >= 16 {
      let kind = PackFormat.word(rest.dropFirst(8))
      return try unsafe takeOwn(rest.dropFirst(16), kind, at, sumBefore, chunks, body)
    }
    var unpacker = BlockUnpacker(content)
    var (first, count): (UInt64, Int) = (0, 0)
    while !unpacker.isAtEnd {
      if count == Self.runMax {
        try unsafe give(first, count, body)
        count = 0
      }
      let number: UInt64
      do throws(ToolError) {
        number = try unsafe next(&unpacker, into: place(count), at)
      } catch {
        // What is sound before it can be used.
        try unsafe give(first, count, body)
        throw error
      }
      if count > 0, number != first + UInt64(count) {
        try unsafe give(first, count, body)
        unsafe place(0).copyMemory(from: UnsafeRawBufferPointer(place(count)))
        count = 0
      }
      if count == 0 { first = number }
      count += 1
    }
    try unsafe give(first, count, body)
  }

  private func next(
    _ unpacker: inout BlockUnpacker, into block: UnsafeMutableRawBufferPointer, _ at: UInt64
  ) throws(ToolError) -> UInt64 {
    let number: UInt64
    do throws(BlockUnpacker.Fault) {
      number = try unsafe unpacker.next(into: block)
    } catch {
      throw damage(at, "byte \(error.at) of its content: \(error.what)")
    }
    try require(number, at)
    return number
  }

  /// The place of a block in the run.
  private func place(_ index: Int) -> UnsafeMutableRawBufferPointer {
    let start = index * Limits.blockBytes
    return unsafe UnsafeMutableRawBufferPointer(
      rebasing: run.bytes[start..<start + Limits.blockBytes])
  }

  private func takeOwn(
    _ rest: ArraySlice<UInt8>, _ kind: UInt64, _ at: UInt64, _ sum: UInt32, _ chunks: UInt64,
    _ body: (MetadataBlock, UnsafeRawBufferPointer) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    switch kind {
    case PackFormat.end:
      guard rest.count == 16, PackFormat.word(rest) == chunks,
        PackFormat.word(rest.dropFirst(8)) == UInt64(sum)
      else { throw damage(at, "the end mark does not match the file") }
      isMarked = true
    case PackFormat.rawBlocks:
      let size = 8 + Limits.blockBytes
      guard let (content, _) = decompressor.content(rest, countMax: PackFormat.chunkBytesMax),
        content.count % size == 0
      else { throw damage(at, "its compressed stream is damaged") }
      for start in stride(from: 0, to: content.count, by: size) {
        let number = PackFormat.word(content[start...])
        try require(number, at)
        unsafe place(0).copyBytes(from: content[(start + 8)..<(start + size)])
        try unsafe give(number, 1, body)
      }
    default: throw damage(at, "a part of an unknown kind, \(kind)")
    }
  }

  private func require(_ number: UInt64, _ at: UInt64) throws(ToolError) {
    guard number < blockCount else {
      throw damage(at, "block \(number), expected one below \(blockCount)")
    }
  }

  private func give(
    _ first: UInt64, _ count: Int,
    _ body: (MetadataBlock, UnsafeRawBufferPointer) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    guard count > 0 else { return }
    storedCount += UInt64(count)
    let bytes = unsafe UnsafeRawBufferPointer(rebasing: run.bytes[..<(count * Limits.blockBytes)])
    try written { () throws(BlockIOError) in try unsafe body(MetadataBlock(first), bytes) }
  }

  private func damage(_ at: UInt64, _ what: String) -> ToolError {
    ToolError(.damaged, "\(file.path) is damaged in the chunk at byte \(at): \(what)")
  }
}
