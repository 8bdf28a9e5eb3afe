import Glibc
import ThinFormat
public import ThinTools

/// What is looked at before a tool opens anything, so that mistakes are told in plain words.
public enum InputChecks {
  /// Bytes of the smallest metadata that a pool fits in.
  public static var outputBytesMin: UInt64 { 40960 }

  /// The input exists, and is a regular file or a block device.
  public static func requireInput(_ path: String) throws(ToolError) {
    var info = stat()
    guard stat(path, &info) == 0 else {
      let code = errno
      if code == ENOENT { throw ToolError(.input, "Couldn't find input file '\(path)'") }
      throw ToolError(.input, "cannot open '\(path)': \(String(cString: strerror(code)))")
    }
    guard isFileOrDevice(info) else {
      throw ToolError(.input, "Not a block device or regular file '\(path)'.")
    }
    try requireOtherThanStandardOutput(path)
  }

  /// The input exists, is not XML, and has room for a metadata block. Whether it is metadata is
  /// for the reader of the superblock to say.
  public static func requireMetadata(_ path: String) throws(ToolError) {
    try requireInput(path)
    let start = firstBytes(of: path)
    if isXML(start) {
      throw ToolError(
        .input,
        "This looks like XML.  This tool only supports the binary metadata format."
          + " (thin_restore reads XML.)")
    }
    if try byteCount(path, .input) < UInt64(Limits.blockBytes) {
      throw ToolError(.input, "Metadata device/file too small.  Is this binary metadata?")
    }
  }

  /// The output exists, is a regular file or a block device, and has room for a pool.
  public static func requireOutput(_ path: String) throws(ToolError) {
    var info = stat()
    guard stat(path, &info) == 0 else {
      let code = errno
      if code == ENOENT {
        throw ToolError(
          .output,
          "Couldn't find output file '\(path)' (create it first: its size is the metadata's)")
      }
      throw ToolError(.output, "cannot open '\(path)': \(String(cString: strerror(code)))")
    }
    guard isFileOrDevice(info) else {
      throw ToolError(.output, "Not a block device or regular file '\(path)'.")
    }
    try requireOtherThanStandardOutput(path)
    let bytes = try byteCount(path, .output)
    if bytes < outputBytesMin {
      throw ToolError(
        .output, "Output file too small. (\(bytes) bytes; at least \(outputBytesMin) are needed)")
    }
  }

  /// Adds to an error of `body` about damage what the input may be instead, where its superblock
  /// is no good.
  static func explaining<Result>(_ path: String, _ body: () throws -> Result) throws -> Result {
    do {
      return try body()
    } catch let error as ToolError where error.kind == .damaged {
      throw hint(path).map { ToolError(.damaged, "\(error.message)\n\($0)") } ?? error
    }
  }

  /// What a file whose superblock is no good may be instead: a sentence to print after the error,
  /// or nil where nothing is recognised.
  public static func hint(_ path: String) -> String? {
    hint(firstBlock: firstBytes(of: path))
  }

  static func hint(firstBlock bytes: [UInt8]) -> String? {
    guard bytes.count == Limits.blockBytes else { return nil }
    let kind = bytes.withUnsafeBytes { BlockHeader.kind(of: RawSpan(_unsafeBytes: $0)) }
    if kind == .superblock { return nil }
    if bytes.allSatisfy({ $0 == 0 }) {
      return "The first block is all zeroes: this is unformatted, or the superblock was wiped."
    }
    if let found = foreignFormats.first(where: { $0.matches(bytes) }) {
      return "This looks like \(found.name), not like the metadata device of a thin pool."
    }
    if ForeignFormat("", at: 32, littleEndian: SuperblockRecord.magicValue).matches(bytes) {
      return "This was thin-pool metadata once; thin_dump --repair may get most of it back."
    }
    return nil
  }

  /// Whether the bytes are the start of a document in XML: blanks, a byte-order mark and comments
  /// may come before.
  static func isXML(_ bytes: [UInt8]) -> Bool {
    var rest = bytes[...]
    if rest.starts(with: [0xef, 0xbb, 0xbf]) { rest = rest.dropFirst(3) }
    rest = rest.drop { $0 == 0x20 || (0x09...0x0d).contains($0) }
    return ["<superblock", "<?xml", "<!DOCTYPE", "<!--"].contains { rest.starts(with: $0.utf8) }
  }

  private static func isFileOrDevice(_ info: stat) -> Bool {
    let type = info.st_mode & S_IFMT
    return type == S_IFREG || type == S_IFBLK
  }

  private static func byteCount(_ path: String, _ kind: ToolError.Kind) throws(ToolError)
    -> UInt64
  {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    defer {
      if fd >= 0 { close(fd) }
    }
    let end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END)
    guard end >= 0 else {
      throw ToolError(kind, "cannot open '\(path)': \(String(cString: strerror(errno)))")
    }
    return UInt64(end)
  }

  /// Up to a metadata block from the start; nothing where that cannot be read.
  private static func firstBytes(of path: String) -> [UInt8] {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    if fd < 0 { return [] }
    defer { close(fd) }
    return [UInt8](unsafeUninitializedCapacity: Limits.blockBytes) { buffer, count in
      count = max(0, pread(fd, buffer.baseAddress, buffer.count, 0))
    }
  }
}

/// Something that is known by bytes at a place in its first block.
private struct ForeignFormat {
  let name: String
  let offset: Int
  let bytes: [UInt8]

  init(_ name: String, at offset: Int, _ bytes: [UInt8]) {
    self.name = name
    self.offset = offset
    self.bytes = bytes
  }

  init(_ name: String, at offset: Int, _ text: String) {
    self.init(name, at: offset, Array(text.utf8))
  }

  init(_ name: String, at offset: Int, littleEndian value: UInt64) {
    self.init(name, at: offset, (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) })
  }

  func matches(_ block: [UInt8]) -> Bool { block.dropFirst(offset).starts(with: bytes) }
}

private let foreignFormats = [
  ForeignFormat("metadata of dm-cache", at: 32, littleEndian: 0o6_142_003),
  ForeignFormat("metadata of dm-era", at: 32, littleEndian: 0o17_660_203_573),
  ForeignFormat(
    "packed metadata (see thin_metadata_unpack)", at: 0, littleEndian: 0xa537_a0aa_6309_ef77),
  ForeignFormat("an ext2, ext3 or ext4 file system", at: 1080, [0x53, 0xef]),
  ForeignFormat("an XFS file system", at: 0, "XFSB"),
  ForeignFormat("a LUKS volume", at: 0, "LUKS"),
  ForeignFormat("a physical volume of LVM", at: 512, "LABELONE"),
  ForeignFormat("a swap area", at: 4086, "SWAPSPACE2"),
  ForeignFormat("a qcow2 image", at: 0, [0x51, 0x46, 0x49, 0xfb]),
  ForeignFormat("a file compressed with gzip", at: 0, [0x1f, 0x8b]),
  ForeignFormat("a file compressed with xz", at: 0, [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
  ForeignFormat("a file compressed with zstd", at: 0, [0x28, 0xb5, 0x2f, 0xfd]),
  ForeignFormat("a disk with a partition table", at: 512, "EFI PART"),
  ForeignFormat("a disk with a partition table", at: 510, [0x55, 0xaa]),
]
