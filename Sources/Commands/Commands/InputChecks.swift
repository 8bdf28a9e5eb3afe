import Glibc
import ThinFormat
public import ThinTools

/// Checks before a tool opens anything, so that mistakes get plain messages.
public enum InputChecks {
  /// Bytes of the smallest metadata that a pool fits in.
  public static var outputBytesMin: UInt64 { 40960 }

  /// Requires that the input exists and is a regular file or a block device.
  public static func requireInput(_ path: String) throws(ToolError) {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else {
      let code = errno
      if code == ENOENT { throw ToolError(.notFound(.input), "Couldn't find input file '\(path)'") }
      throw ToolError(
        .unsuitable(.input), unsafe "cannot open '\(path)': \(String(cString: strerror(code)))")
    }
    guard isFileOrDevice(info) else {
      throw ToolError(.unsuitable(.input), "Not a block device or regular file '\(path)'.")
    }
    try requireOtherThanStandardOutput(path)
  }

  /// Requires that the input exists, is not XML, and has room for a metadata block. The reader of
  /// the superblock decides whether it is metadata.
  public static func requireMetadata(_ path: String) throws(ToolError) {
    try requireInput(path)
    let isTooSmall = try byteCount(path, .input) < UInt64(Limits.blockBytes)
    switch Recognizer.recognizeStart(path) {
    case .xml:
      throw ToolError(
        .unsuitable(.input),
        "This looks like XML.  This tool only supports the binary metadata format."
          + " (thin_restore reads XML.)")
    case .textDump:
      throw ToolError(
        .unsuitable(.input),
        "'\(path)' is not metadata.\n\(Recognition.textDump.advice(path) ?? "")"
      )
    default: break
    }
    guard isTooSmall else { return }
    let message = "Metadata device/file too small.  Is this binary metadata?"
    switch Recognizer.recognize(path) {
    case nil, .zeros, .unknown: throw ToolError(.unsuitable(.input), message)
    case let found?: throw ToolError(.unsuitable(.input), "\(message)\n\(found.advice(path) ?? "")")
    }
  }

  /// Requires that the input of a restore is not metadata or another recognised format other than
  /// XML. The XML reader judges the text, and everything that comes through a pipe.
  public static func requireDump(_ path: String) throws(ToolError) {
    switch Recognizer.recognize(path) {
    case nil, .xml, .unknown, .zeros: return
    case .metadata, .damagedMetadata(soundBlocks: 1..., start: _):
      throw ToolError(
        .unsuitable(.input),
        "'\(path)' is the metadata of a thin pool, but thin_restore reads a dump of it; are -i and -o "
          + "swapped?\n  next: thin_dump -o pool.xml \(shellQuoted(path))")
    case let found?:
      throw ToolError(
        .unsuitable(.input),
        "'\(path)' is not an XML dump as thin_dump writes it.\n\(found.advice(path) ?? "")")
    }
  }

  /// Requires that the output exists, is a regular file or a block device, and has room for a pool.
  public static func requireOutput(_ path: String) throws(ToolError) {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else {
      let code = errno
      if code == ENOENT {
        throw ToolError(
          .notFound(.output),
          "Couldn't find output file '\(path)' (create it first: its size is the metadata's)")
      }
      throw ToolError(
        .unsuitable(.output), unsafe "cannot open '\(path)': \(String(cString: strerror(code)))")
    }
    guard isFileOrDevice(info) else {
      throw ToolError(.unsuitable(.output), "Not a block device or regular file '\(path)'.")
    }
    try requireOtherThanStandardOutput(path)
    let bytes = try byteCount(path, .output)
    if bytes < outputBytesMin {
      throw ToolError(
        .outOfSpace,
        "Output file too small. (\(bytes) bytes; at least \(outputBytesMin) are needed)")
    }
  }

  /// Runs `body`; to an error about a bad superblock it adds what the input may be instead.
  static func explaining<Result>(_ path: String, _ body: () throws -> Result) throws -> Result {
    do {
      return try body()
    } catch let error as ToolError where error.isDamage {
      let advice = Recognizer.recognize(path)?.advice(path)
      throw advice.map { error.saying("\(error.message)\n\($0)") } ?? error
    }
  }

  private static func isFileOrDevice(_ info: stat) -> Bool {
    let type = info.st_mode & S_IFMT
    return type == S_IFREG || type == S_IFBLK
  }

  private static func byteCount(_ path: String, _ side: ToolError.Side) throws(ToolError)
    -> UInt64
  {
    let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
    defer {
      if fd >= 0 { close(fd) }
    }
    let end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END)
    guard end >= 0 else {
      throw ToolError(
        .unsuitable(side), unsafe "cannot open '\(path)': \(String(cString: strerror(errno)))")
    }
    return UInt64(end)
  }
}
