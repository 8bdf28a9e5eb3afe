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
      if code == ENOENT { throw ToolError(.notFound(.input), "Couldn't find input file '\(path)'") }
      throw ToolError(
        .unsuitable(.input), "cannot open '\(path)': \(String(cString: strerror(code)))")
    }
    guard isFileOrDevice(info) else {
      throw ToolError(.unsuitable(.input), "Not a block device or regular file '\(path)'.")
    }
    try requireOtherThanStandardOutput(path)
  }

  /// The input exists, is not XML, and has room for a metadata block. Whether it is metadata is
  /// for the reader of the superblock to say.
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
        .unsuitable(.input), "'\(path)' is no metadata.\n\(Recognition.textDump.advice(path) ?? "")"
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

  /// The input of a restore is no metadata and nothing else that is known but XML. What its text is
  /// worth is for the reader of the XML to say, and so is what comes through a pipe.
  public static func requireDump(_ path: String) throws(ToolError) {
    switch Recognizer.recognize(path) {
    case nil, .xml, .unknown, .zeros: return
    case .metadata, .damagedMetadata(soundBlocks: 1..., start: _):
      throw ToolError(
        .unsuitable(.input),
        "'\(path)' is the metadata of a thin pool, and a restore reads a dump of such; are -i and -o "
          + "swapped?\n  next: thin_dump -o pool.xml \(shellQuoted(path))")
    case let found?:
      throw ToolError(
        .unsuitable(.input),
        "'\(path)' is no dump in XML, as thin_dump writes it.\n\(found.advice(path) ?? "")")
    }
  }

  /// The output exists, is a regular file or a block device, and has room for a pool.
  public static func requireOutput(_ path: String) throws(ToolError) {
    var info = stat()
    guard stat(path, &info) == 0 else {
      let code = errno
      if code == ENOENT {
        throw ToolError(
          .notFound(.output),
          "Couldn't find output file '\(path)' (create it first: its size is the metadata's)")
      }
      throw ToolError(
        .unsuitable(.output), "cannot open '\(path)': \(String(cString: strerror(code)))")
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

  /// Adds to an error of `body` about damage what the input may be instead, where its superblock
  /// is no good.
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
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    defer {
      if fd >= 0 { close(fd) }
    }
    let end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END)
    guard end >= 0 else {
      throw ToolError(
        .unsuitable(side), "cannot open '\(path)': \(String(cString: strerror(errno)))")
    }
    return UInt64(end)
  }
}
