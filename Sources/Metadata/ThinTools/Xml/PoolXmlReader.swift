import Cexpat
import Glibc

/// Reads the XML of a pool, as thin_dump writes it, from a file descriptor.
///
/// The text goes through expat, except mappings and refs in exactly the form of a dump, which are
/// recognised in the buffer, ten times as fast. That is possible only when expat is between
/// elements: it gets the text in pieces that end after a `>`, and if the last element event ended
/// with the piece, nothing is pending in expat and whole elements can bypass it.
///
/// Memory: a buffer of 256 KiB, and at most 64 KiB of one tag or comment in expat, whatever the
/// text. Entity declarations are refused; a DOCTYPE without them is skipped.
///
/// Invariants: expat has received `fedCount` bytes; `buffer[start..<end]` follows these and the
/// elements that bypassed it.
@safe public final class PoolXmlReader {
  /// The longest tag, comment or other markup, in bytes.
  static let markupMax = 65536
  private static let bufferBytes = 1 << 18

  /// The name of the text in messages.
  public let path: String
  let handler: any PoolXmlHandler
  private let descriptor: Int32
  /// False in tests: everything goes through expat.
  private let usesFastPath: Bool
  /// Bytes read at once, and so the places where pieces may be cut; small in tests.
  private let readBytes: Int
  /// Counts the bytes read.
  private let progress: Progress?
  /// Receives every piece that was read, before it is parsed.
  private let onRead: ((UnsafeRawBufferPointer) throws(ToolError) -> Void)?

  private let buffer: UnsafeMutablePointer<UInt8>
  private var start = 0
  private var end = 0
  private var atEnd = false
  private var fedCount = 0
  /// Newlines in elements that bypassed expat.
  private var unseenLines = 0

  let parser: XML_Parser?
  var section = PoolXmlSection.prolog
  /// The byte at which the last element event ended, counted in expat's input.
  var eventEnd = -1
  /// An internal DTD subset may declare default attributes: then all elements must go through
  /// expat.
  var hasInternalSubset = false
  var failure: ToolError?

  /// Reads the rest of `descriptor`, which the caller closes.
  /// - Parameters:
  ///   - path: its name in messages.
  ///   - handler: receives the elements.
  ///   - progress: counts the bytes read.
  ///   - onRead: receives every piece that was read, before it is parsed.
  public convenience init(
    descriptor: Int32, path: String, handler: any PoolXmlHandler, progress: Progress? = nil,
    onRead: ((UnsafeRawBufferPointer) throws(ToolError) -> Void)? = nil
  ) {
    unsafe self.init(
      descriptor: descriptor, path: path, handler: handler, progress: progress,
      usesFastPath: true, readBytes: Self.bufferBytes, onRead: onRead)
  }

  init(
    descriptor: Int32, path: String, handler: any PoolXmlHandler, progress: Progress?,
    usesFastPath: Bool, readBytes: Int,
    onRead: ((UnsafeRawBufferPointer) throws(ToolError) -> Void)? = nil
  ) {
    unsafe self.onRead = onRead
    self.descriptor = descriptor
    self.path = path
    self.handler = handler
    self.progress = progress
    self.usesFastPath = usesFastPath
    self.readBytes = readBytes
    unsafe buffer = .allocate(capacity: Self.bufferBytes + CanonicalElement.overread)
    unsafe buffer.initialize(repeating: 0, count: Self.bufferBytes + CanonicalElement.overread)
    unsafe parser = XML_ParserCreate("UTF-8")
  }

  deinit {
    if let parser = unsafe parser { unsafe XML_ParserFree(parser) }
    unsafe buffer.deallocate()
  }

  /// Reads to the end of the text, which must be a whole document. Call once.
  /// - Throws: `damaged`, with path and line, for text that is not the XML of a pool and for what
  ///   the handler calls damaged; other errors of the handler unchanged; `inputOutput` if the text
  ///   cannot be read.
  public func read() throws(ToolError) {
    guard let parser = unsafe parser else { throw ToolError(.unexpected, "\(path): out of memory") }
    unsafe connect(parser)
    try skipPrologue()
    while true {
      if usesFastPath && eventEnd == fedCount && section.holdsMappings && !hasInternalSubset {
        try passElements()
      }
      if let close = unsafe memchr(buffer + start, 0x3E, end - start) {
        try unsafe feed(UnsafeRawPointer(close) - UnsafeRawPointer(buffer + start) + 1)
      } else if atEnd || end - start == Self.bufferBytes {
        try feed(end - start)
        if atEnd { break }
      } else {
        try fill()
      }
    }
    try finish()
  }

  /// The current line, counted from one.
  var line: Int {
    guard let parser = unsafe parser else { return 1 }
    return unsafe Int(XML_GetCurrentLineNumber(parser)) + unseenLines
  }

  /// An error of the text at the current line.
  func damaged(_ message: String) -> ToolError {
    ToolError(.invalidDump, "\(path): line \(line): \(message)")
  }

  /// The error that the handler threw, with the line if it is about the text.
  func located(_ error: ToolError) -> ToolError {
    error.cause == .invalidDump ? damaged(error.message) : error
  }

  /// Moves the rest of the buffer to the front and reads more.
  private func fill() throws(ToolError) {
    if start > 0 {
      unsafe memmove(buffer, buffer + start, end - start)
      end -= start
      start = 0
    }
    while true {
      let n = unsafe Glibc.read(descriptor, buffer + end, min(readBytes, Self.bufferBytes - end))
      if n < 0 && errno == EINTR { continue }
      guard n >= 0 else {
        throw ToolError(
          .unexpected, unsafe "cannot read \(path): \(String(cString: strerror(errno)))")
      }
      try unsafe onRead?(UnsafeRawBufferPointer(start: buffer + end, count: n))
      atEnd = n == 0
      end += n
      progress?.advance(by: UInt64(n))
      return
    }
  }

  /// Skips a byte order mark and white space, which expat does not accept before `<?xml`.
  private func skipPrologue() throws(ToolError) {
    while end < 3 && !atEnd { try fill() }
    if unsafe end >= 3 && buffer[0] == 0xEF && buffer[1] == 0xBB && buffer[2] == 0xBF { start = 3 }
    while true {
      while start < end, unsafe Self.isSpace(buffer[start]) {
        if unsafe buffer[start] == 0x0A { unseenLines += 1 }
        start += 1
      }
      if start < end || atEnd { break }
      try fill()
    }
    // With UTF-16, expat would follow the byte order, and the ends of elements could not be
    // recognised.
    while end - start < 2 && !atEnd { try fill() }
    guard end > start else { throw damaged("the file is empty, expected <superblock>") }
    guard unsafe buffer[start] == 0x3C, unsafe end - start < 2 || buffer[start + 1] != 0 else {
      throw damaged("this is not XML in UTF-8, expected <superblock> as thin_dump writes it")
    }
  }

  static func isSpace(_ byte: UInt8) -> Bool {
    byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
  }

  /// Consumes mappings and refs from `start` on while they are in canonical form.
  private func passElements() throws(ToolError) {
    var at = unsafe UnsafePointer(buffer + start)
    let end = unsafe UnsafePointer(buffer + self.end)
    var lines = 0
    do throws(ToolError) {
      while true {
        if let run = unsafe CanonicalElement.scan(&at, end: end, newlines: &lines) {
          try handler.mapping(run)
        } else if section.holdsRefs,
          let name = unsafe CanonicalElement.scanRef(&at, end: end, newlines: &lines)
        {
          try unsafe handler.ref(name: String(decoding: name, as: UTF8.self))
        } else {
          break
        }
      }
    } catch {
      unseenLines += lines
      throw located(error)
    }
    unseenLines += lines
    start = unsafe at - UnsafePointer(buffer)
  }

  private func feed(_ count: Int) throws(ToolError) {
    let text = unsafe UnsafeRawPointer(buffer + start).assumingMemoryBound(to: CChar.self)
    start += count
    fedCount += count
    let status = unsafe XML_Parse(parser, text, Int32(count), 0)
    if let failure { throw failure }
    guard status == XML_STATUS_OK else { throw syntaxError() }
    if unsafe fedCount - Int(XML_GetCurrentByteIndex(parser)) > Self.markupMax {
      throw damaged("markup of more than \(Self.markupMax) bytes")
    }
  }

  private func finish() throws(ToolError) {
    let status = unsafe XML_Parse(parser, nil, 0, 1)
    if let failure { throw failure }
    guard status == XML_STATUS_OK else {
      if section != .end {
        throw damaged("unexpected end of the text, expected \(section.expected)")
      }
      throw syntaxError()
    }
  }

  private func syntaxError() -> ToolError {
    let reason = unsafe XML_ErrorString(XML_GetErrorCode(parser)).map { unsafe String(cString: $0) }
    return damaged("\(reason ?? "not XML"), expected \(section.expected)")
  }
}
