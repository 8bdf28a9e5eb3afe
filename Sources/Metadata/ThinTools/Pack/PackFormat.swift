import CDMThin
import ThinFormat

/// The file format of `thin_metadata_pack`: that of the original tools, with extensions that they
/// ignore.
///
/// It has a header of four words, then chunks: a length, and a compressed stream of packed blocks.
/// The original tools ignore the bytes of a chunk after its stream. The extensions are stored
/// there, after an empty stream: blocks with a wrong checksum, and at the end a mark with the
/// number of chunks and a checksum of the file, by which a truncated file is recognised.
enum PackFormat {
  static var magic: UInt64 { 0xA537_A0AA_6309_EF77 }
  static var version: UInt64 { 3 }
  static var headerBytes: Int { 32 }
  /// Blocks of a chunk.
  static var chunkBlocks: Int { 1024 }
  /// The largest accepted chunk: a block packs to at most twice its size.
  static var chunkBytesMax: Int { 16 << 20 }
  /// An empty compressed stream.
  static var emptyStream: [UInt8] { [0x78, 0x9C, 3, 0, 0, 0, 0, 1] }
  /// Marks the extension that follows.
  static var ownMagic: UInt64 { 0x6B63_6170_6D64_6874 }
  /// Literal blocks follow, compressed: a number and 4096 bytes each.
  static var rawBlocks: UInt64 { 1 }
  /// The end mark: the number of chunks before it, and the CRC-32C of everything before it.
  static var end: UInt64 { 2 }

  static func littleEndian(_ words: [UInt64]) -> [UInt8] {
    words.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(8 * $0)) } }
  }

  static func word(_ bytes: some Collection<UInt8>) -> UInt64 {
    bytes.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Continues the checksum of a file.
  static func checksum(_ sum: UInt32, _ bytes: [UInt8]) -> UInt32 {
    unsafe bytes.withUnsafeBytes { piece in
      unsafe piece.baseAddress.map { unsafe dmthin_crc32c(sum, $0, piece.count) } ?? sum
    }
  }
}
