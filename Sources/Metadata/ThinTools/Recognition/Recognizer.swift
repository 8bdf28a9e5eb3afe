import BlockIO
import Glibc
import ThinFormat

/// Recognises a file or device by its beginning. Used when it turned out not to be what a tool
/// reads.
public enum Recognizer {
  /// The most bytes examined.
  static let bytesMax = 16 << 20

  /// The kind of file or device at `path`; nil if it cannot be read, or is neither a file nor a
  /// block device (the bytes of a pipe are left for its reader).
  public static func recognize(_ path: String) -> Recognition? {
    recognizeStart(path) ?? beginning(of: path, upTo: bytesMax).map { byContents($0) }
  }

  /// The kind shown by the first block alone; nil also if that is not enough.
  public static func recognizeStart(_ path: String) -> Recognition? {
    beginning(of: path, upTo: Limits.blockBytes).flatMap { byStart($0) }
  }

  /// The kind shown by the first bytes.
  static func recognize(_ bytes: [UInt8]) -> Recognition {
    byStart(Array(bytes.prefix(Limits.blockBytes))) ?? byContents(bytes)
  }

  /// Whether the bytes are the start of a document in XML: blanks, a byte-order mark and comments
  /// may come before.
  public static func isXML(_ bytes: [UInt8]) -> Bool {
    ["<superblock", "<?xml", "<!DOCTYPE", "<!--"].contains { text(bytes).starts(with: $0.utf8) }
  }

  private static func text(_ bytes: [UInt8]) -> ArraySlice<UInt8> {
    var rest = bytes[...]
    if rest.starts(with: [0xef, 0xbb, 0xbf]) { rest = rest.dropFirst(3) }
    return rest.drop { $0 == 0x20 || (0x09...0x0d).contains($0) }
  }

  private static func beginning(of path: String, upTo bytesMax: Int) -> [UInt8]? {
    // A named pipe is not even opened: its writer would take this process for its reader.
    var info = stat()
    guard unsafe stat(path, &info) == 0, [S_IFREG, S_IFBLK].contains(info.st_mode & S_IFMT) else {
      return nil
    }
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    return unsafe [UInt8](unsafeUninitializedCapacity: bytesMax) { buffer, count in
      count = 0
      while count < bytesMax {
        let n = unsafe pread(
          descriptor, buffer.baseAddress.map { unsafe $0 + count }, bytesMax - count, off_t(count))
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { break }
        count += n
      }
    }
  }

  /// The kind shown by the first block.
  private static func byStart(_ bytes: [UInt8]) -> Recognition? {
    if kind(bytes, at: 0) == .superblock { return .metadata }
    if isXML(bytes) { return .xml }
    if text(bytes).starts(with: "begin superblock:".utf8) { return .textDump }
    return nil
  }

  private static func byContents(_ bytes: [UInt8]) -> Recognition {
    let start =
      signatures.first { $0.matches(bytes) }?.name
      ?? (isAllZero(bytes.prefix(Limits.blockBytes)) ? "all zeroes" : nil)
    let sound = soundBlocks(bytes)
    if sound > 0 { return .damagedMetadata(soundBlocks: sound, start: start) }
    if let offset = superblockOffset(bytes) { return .metadataBehind(byteOffset: offset) }
    if superblockMagic.matches(bytes) { return .damagedMetadata(soundBlocks: 0, start: nil) }
    if let found = compressions.first(where: { $0.matches(bytes) }) {
      return .compressed(name: found.name, unpack: "\(found.name) -dc")
    }
    if packed.matches(bytes) { return .packed }
    if let label = LVMLabel(bytes) { return .physicalVolume(label) }
    if let start, start != "all zeroes" { return .other(start) }
    return isAllZero(bytes[...]) ? .zeros : .unknown
  }

  private static func isAllZero(_ bytes: ArraySlice<UInt8>) -> Bool {
    unsafe bytes.withUnsafeBytes { unsafe $0.isAllZero }
  }

  /// The number of sound metadata blocks in their places, without the first.
  private static func soundBlocks(_ bytes: [UInt8]) -> Int {
    var count = 0
    var block = 1
    while (block + 1) * Limits.blockBytes <= bytes.count {
      if number(bytes, at: block * Limits.blockBytes + 8) == UInt64(block),
        let kind = kind(bytes, at: block * Limits.blockBytes), kind != .superblock
      {
        count += 1
      }
      block += 1
    }
    return count
  }

  /// The offset of a superblock that is the first block of its device.
  private static func superblockOffset(_ bytes: [UInt8]) -> UInt64? {
    var offset = Limits.sectorBytes
    while offset + Limits.blockBytes <= bytes.count {
      if number(bytes, at: offset + 32) == SuperblockRecord.magicValue,
        number(bytes, at: offset + 8) == 0, kind(bytes, at: offset) == .superblock
      {
        return UInt64(offset)
      }
      offset += Limits.sectorBytes
    }
    return nil
  }

  /// The kind of a block with a correct checksum.
  private static func kind(_ bytes: [UInt8], at offset: Int) -> BlockKind? {
    guard offset + Limits.blockBytes <= bytes.count else { return nil }
    return unsafe bytes.withUnsafeBytes {
      unsafe BlockHeader.kind(
        of: RawSpan(
          _unsafeBytes: UnsafeRawBufferPointer(
            rebasing: $0[offset..<(offset + Limits.blockBytes)])))
    }
  }

  private static func number(_ bytes: [UInt8], at offset: Int) -> UInt64 {
    unsafe bytes.withUnsafeBytes {
      unsafe offset + 8 <= $0.count
        ? UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) : 0
    }
  }
}
