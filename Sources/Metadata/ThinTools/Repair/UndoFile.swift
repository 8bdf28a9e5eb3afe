import BlockIO
import CDMThin
import ThinFormat

/// The file that takes a repair in place back: the blocks that it overwrites, as they were.
///
/// Blocks of 4096 bytes. First a header: magic, version, size of the device in bytes, number of blocks kept,
/// which are the device's first, checksum. Then for each of them the CRC-32C of the eight sectors that take
/// its place, 32 bytes; then the blocks. Last a trailer: a digest of the table and of the blocks, a digest of
/// the rest of the device, checksum. The digests are what tells the device from others: a repair does not
/// touch the rest.
///
/// Memory: 32 bytes for each block kept, and a mebibyte.
struct UndoFile {
  static let magic: [UInt8] = Array("dmthin undo".utf8) + [0, 0, 0, 0, 0]
  private static let version: UInt64 = 1
  private static let bytes = UInt64(Limits.blockBytes)
  static let sectorsOfBlock = Limits.blockBytes / Limits.sectorBytes
  private static let tableBytes = 4 * sectorsOfBlock
  /// What a block that cannot be read counts as.
  private static let unreadable: UInt32 = 0xDEAD_B10C

  /// Bytes of the device.
  let deviceBytes: UInt64
  /// How many blocks are kept.
  let keptCount: UInt64
  /// Digest of the device's other blocks.
  let restDigest: UInt64
  /// CRC-32C of each sector that a repair writes.
  private let table: [UInt32]
  private let file: any BlockDevice
  private var firstKept: UInt64 { 1 + Self.tableBlocks(keptCount) }

  private static func tableBlocks(_ count: UInt64) -> UInt64 {
    (count * UInt64(tableBytes) + bytes - 1) / bytes
  }

  // MARK: - Digests

  static func sum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    unsafe bytes.baseAddress.map { unsafe dmthin_crc32c(0xFFFF_FFFF, $0, bytes.count) } ?? 0
  }

  /// Digest of a device's blocks from `first` on.
  static func rest(of device: any BlockDevice, from first: UInt64, _ progress: Progress) -> UInt64 {
    var digest = Digest()
    var next = first
    let end = device.byteCount / bytes
    BlockStream(device).read(
      next: { () -> UInt64? in
        guard next < end else { return nil }
        next += 1
        return next - 1
      },
      body: { _, span, failure in
        progress.advance()
        unsafe digest.add(
          UInt64(failure == nil ? span.withUnsafeBytes { unsafe sum($0) } : unreadable))
      })
    return digest.value
  }

  // MARK: - Writing

  /// Writes the file that takes back what `copy` is to overwrite on `device`.
  /// - Throws: where a block that is overwritten cannot be read, or the file cannot be written.
  static func write(
    _ device: any BlockDevice, _ count: UInt64, replacedBy copy: any BlockDevice,
    to sink: ByteSink, _ progress: Progress
  ) throws(BlockIOError) {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    func put(_ fill: (UnsafeMutableRawBufferPointer) -> Void) throws(BlockIOError) {
      buffer.zero()
      unsafe fill(buffer.bytes)
      try unsafe sink.write(UnsafeRawBufferPointer(buffer.bytes))
    }
    try unsafe put { block in
      unsafe block.copyBytes(from: magic)
      for (i, value) in [version, device.byteCount, count].enumerated() {
        unsafe block.storeBytes(of: value.littleEndian, toByteOffset: 16 + 8 * i, as: UInt64.self)
      }
      unsafe seal(block)
    }
    progress.begin("Keeping what is overwritten", total: device.byteCount / bytes)
    var digest = Digest()
    let piece = AlignedBuffer(count: Limits.blockBytes)
    var next: UInt64 = 0
    while next < count {
      let inBlock = min(count - next, bytes / UInt64(tableBytes))
      buffer.zero()
      for i in 0..<inBlock {
        try unsafe copy.read(into: piece.bytes, at: (next + i) * bytes)
        for sector in 0..<sectorsOfBlock {
          unsafe buffer.bytes.storeBytes(
            of: Self.sector(piece.bytes, sector).littleEndian,
            toByteOffset: Int(i) * tableBytes + 4 * sector, as: UInt32.self)
        }
      }
      unsafe digest.add(UInt64(sum(UnsafeRawBufferPointer(buffer.bytes))))
      try unsafe sink.write(UnsafeRawBufferPointer(buffer.bytes))
      next += inBlock
    }
    for block in 0..<count {
      try unsafe device.read(into: piece.bytes, at: block * bytes)
      unsafe digest.add(UInt64(sum(UnsafeRawBufferPointer(piece.bytes))))
      try unsafe sink.write(UnsafeRawBufferPointer(piece.bytes))
      progress.advance()
    }
    let rest = rest(of: device, from: count, progress)
    try unsafe put { block in
      unsafe block.copyBytes(from: magic)
      unsafe block.storeBytes(of: digest.value.littleEndian, toByteOffset: 16, as: UInt64.self)
      unsafe block.storeBytes(of: rest.littleEndian, toByteOffset: 24, as: UInt64.self)
      unsafe seal(block)
    }
  }

  private static func sector(_ block: UnsafeMutableRawBufferPointer, _ i: Int) -> UInt32 {
    let from = i * Limits.sectorBytes
    return unsafe sum(UnsafeRawBufferPointer(rebasing: block[from..<(from + Limits.sectorBytes)]))
  }

  /// The last four bytes are the checksum of the others.
  private static func seal(_ block: UnsafeMutableRawBufferPointer) {
    let end = block.count - 4
    let sum = unsafe sum(UnsafeRawBufferPointer(rebasing: block[..<end]))
    unsafe block.storeBytes(of: sum.littleEndian, toByteOffset: end, as: UInt32.self)
  }

  // MARK: - Reading

  /// Opens such a file, and reads all of it to see that it is whole.
  /// - Throws: `refused` where it is none, `damaged` where it is not what was written.
  init(_ file: any BlockDevice, _ progress: Progress) throws(ToolError) {
    self.file = file
    let header = try Self.sealed(file, 0)
    guard let header, header[0] == Self.version else {
      throw ToolError(
        .refused, "\(file.path) is no file that a repair in place has kept old blocks in")
    }
    (deviceBytes, keptCount) = (header[1], header[2])
    let blocks = file.byteCount / Self.bytes
    guard keptCount <= Limits.metadataBlocksMax, keptCount <= deviceBytes / Self.bytes,
      2 + Self.tableBlocks(keptCount) + keptCount == blocks,
      let trailer = try Self.sealed(file, blocks - 1)
    else { throw Self.damaged(file) }
    restDigest = trailer[1]
    var digest = Digest()
    var table: [UInt32] = []
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    progress.begin("Reading what was kept", total: blocks)
    for block in 1..<(blocks - 1) {
      try Self.read(file, buffer, block)
      unsafe digest.add(UInt64(Self.sum(UnsafeRawBufferPointer(buffer.bytes))))
      progress.advance()
      guard block <= Self.tableBlocks(keptCount) else { continue }
      for i in 0..<(Limits.blockBytes / 4) {
        unsafe table.append(
          UInt32(littleEndian: buffer.bytes.load(fromByteOffset: 4 * i, as: UInt32.self)))
      }
    }
    guard digest.value == trailer[0] else { throw Self.damaged(file) }
    self.table = table
  }

  private static func damaged(_ file: any BlockDevice) -> ToolError {
    ToolError(
      .damaged,
      "\(file.path) is not what a repair in place wrote: it is cut short or changed. Nothing was "
        + "written to the device")
  }

  private static func read(_ file: any BlockDevice, _ buffer: AlignedBuffer, _ block: UInt64)
    throws(ToolError)
  {
    do throws(BlockIOError) {
      try unsafe file.read(into: buffer.bytes, at: block * bytes)
    } catch {
      throw ToolError(error)
    }
  }

  /// The numbers of a header or trailer; nil where it is none.
  private static func sealed(_ file: any BlockDevice, _ block: UInt64) throws(ToolError)
    -> [UInt64]?
  {
    guard file.byteCount >= 2 * bytes, file.byteCount % bytes == 0 else { return nil }
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    try read(file, buffer, block)
    let end = Limits.blockBytes - 4
    let sum = unsafe sum(UnsafeRawBufferPointer(rebasing: buffer.bytes[..<end]))
    guard unsafe buffer.bytes.starts(with: magic),
      unsafe UInt32(littleEndian: buffer.bytes.load(fromByteOffset: end, as: UInt32.self)) == sum
    else { return nil }
    return (0..<3).map {
      unsafe UInt64(littleEndian: buffer.bytes.load(fromByteOffset: 16 + 8 * $0, as: UInt64.self))
    }
  }

  /// Reads a kept block.
  /// - Precondition: `block` is below `keptCount`.
  func readKept(_ block: UInt64, into buffer: AlignedBuffer) throws(ToolError) {
    try Self.read(file, buffer, firstKept + block)
  }

  /// Whether a block of the device is as it was, as the repair leaves it, or partly both, as a power cut
  /// leaves it; the first block may be zeroed, too.
  func mayBe(
    _ block: UInt64, now: UnsafeMutableRawBufferPointer, kept: UnsafeMutableRawBufferPointer
  ) -> Bool {
    for i in 0..<Self.sectorsOfBlock {
      let sector = (i * Limits.sectorBytes)..<((i + 1) * Limits.sectorBytes)
      if unsafe now[sector].elementsEqual(kept[sector]) { continue }
      if unsafe Self.sector(now, i) == table[Int(block) * Self.sectorsOfBlock + i] { continue }
      guard block == 0, unsafe now[sector].allSatisfy({ $0 == 0 }) else { return false }
    }
    return true
  }
}
