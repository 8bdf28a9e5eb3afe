import CDMThin
import Glibc

/// Writes text to a path that the user gave: dumps, reports, manual pages.
///
/// It refuses to overwrite an input, a file that another program has locked or that a loop device
/// uses, and a block device unless that is allowed. A regular file is replaced as a whole by
/// `commit`; without it, the file is unchanged. Pipes, terminals, other character devices, and the
/// process's own descriptors (/dev/stdout) receive the text as it is written. Links are followed:
/// the file is replaced, not the link. If a file has several names, only this name gets the new
/// text.
public final class TextOutput {
  /// The destination of the text.
  public let sink: ByteSink
  private let way: Way

  private enum Way {
    /// Written under another name, for a regular file.
    case aside(FileReplacement)
    /// Written directly; the object owns the descriptor.
    case through(Int32)
  }

  /// The checks before an output is opened.
  public struct Rules {
    /// Paths of the inputs, which must not be overwritten.
    public var inputs: [String] = []
    /// Whether the output may be a block device.
    public var mayBeDevice = false
    /// Describes a file from its first bytes, up to 4096, if text must not replace it; otherwise
    /// nil.
    public var isPrecious: (([UInt8]) -> String?)?

    /// Rules for text without inputs.
    public init() {}
  }

  /// Opens an output.
  /// - Throws: `OutputError`; nothing has been changed then.
  public init(path: String, _ rules: Rules = Rules()) throws(OutputError) {
    let place = OutputPath(path)
    var info = stat()
    let status =
      unsafe place.ownDescriptor.map { unsafe fstat($0, &info) } ?? stat(place.path, &info)
    let code = status == 0 ? 0 : errno
    let descriptor: Int32
    if status == 0 {
      try OutputError.requireOther(FileIdentity(info), path, rules.inputs)
      way = try Self.open(place, path, info, rules)
    } else if code == ENOENT && !place.isDescriptor {
      do throws(BlockIOError) {
        way = .aside(try FileReplacement(at: place.path, old: nil, copies: false))
      } catch {
        throw OutputError(error)
      }
    } else {
      throw OutputError(BlockIOError(.create, path: path, code: code))
    }
    switch way {
    case .aside(let replacement): descriptor = replacement.descriptor
    case .through(let own): descriptor = own
    }
    sink = ByteSink(descriptor: descriptor, path: path)
  }

  deinit {
    if case .through(let descriptor) = way { close(descriptor) }
  }

  /// Whether it is a regular file written under another name, so that `write(_:at:)` may be used.
  public var isAside: Bool {
    if case .aside = way { true } else { false }
  }

  /// Sets the size of such a file, filled with zeros, for content that is not written in order.
  public func setSize(_ byteCount: UInt64) throws(BlockIOError) {
    guard case .aside(let replacement) = way,
      ftruncate(replacement.descriptor, off_t(clamping: byteCount)) == 0
    else { throw BlockIOError(.write, path: sink.path, code: errno) }
  }

  /// Writes a piece of such a file.
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard case .aside(let replacement) = way else { return }
    try unsafe OpenFile(adopting: replacement.descriptor, path: sink.path).write(bytes, at: offset)
  }

  /// Completes the text: flushes it, and replaces a regular file, durably.
  /// - Throws: `BlockIOError`; a regular file is unchanged.
  public func commit() throws(BlockIOError) {
    try sink.flush()
    switch way {
    case .aside(let replacement): try replacement.commit()
    case .through(let descriptor):
      // Pipes and terminals cannot be synced.
      if fsync(descriptor) != 0 && [EIO, ENOSPC, EDQUOT].contains(errno) {
        throw BlockIOError(.flush, path: sink.path, code: errno)
      }
    }
  }

  private static func open(
    _ place: OutputPath, _ path: String, _ info: stat, _ rules: Rules
  ) throws(OutputError) -> Way {
    if let own = place.ownDescriptor {
      // Not opened again: its position is where the caller wants the text, and it may be
      // append-only.
      return .through(try opened(fcntl(own, F_DUPFD_CLOEXEC, 3), path, info))
    }
    switch info.st_mode & S_IFMT {
    case S_IFREG:
      return .aside(try replacement(place, path, info, rules))
    case S_IFBLK:
      guard rules.mayBeDevice else {
        throw OutputError(
          .precious,
          "\(path) is a block device: its content would be overwritten with text. To allow that, "
            + "give --onto-device")
      }
      return unsafe .through(
        try opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC | O_EXCL), path, info))
    default:
      return unsafe .through(
        try opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC | O_NOCTTY), path, info))
    }
  }

  private static func replacement(
    _ place: OutputPath, _ path: String, _ info: stat, _ rules: Rules
  ) throws(OutputError) -> FileReplacement {
    // Opened for writing even if another file replaces it, so that a user without permission gets
    // an error.
    let old = try unsafe opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC), path, info)
    do throws(BlockIOError) {
      _ = try OpenFile.claim(old, path: path, readOnly: false)
    } catch {
      close(old)
      throw OutputError(error)
    }
    if let what = rules.isPrecious?(firstBytes(place.path)) {
      release(old)
      throw OutputError(
        .precious,
        "\(path) is \(what), and text does not replace it: give another output, or remove it first")
    }
    do throws(BlockIOError) {
      return try FileReplacement(at: place.path, old: (info, old), copies: place.isDescriptor)
    } catch {
      release(old)
      throw OutputError(error)
    }
  }

  private static func release(_ old: Int32) {
    flock(old, LOCK_UN)
    close(old)
  }

  private static func firstBytes(_ path: String) -> [UInt8] {
    let descriptor = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    return unsafe [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
      count = unsafe max(0, pread(descriptor, buffer.baseAddress, buffer.count, 0))
    }
  }

  private static func opened(_ descriptor: Int32, _ path: String, _ info: stat) throws(OutputError)
    -> Int32
  {
    guard descriptor < 0 else { return descriptor }
    let code = errno
    let user = code == EBUSY ? FileUsers.user(ofDevice: FileIdentity(info)) : nil
    throw OutputError(BlockIOError(.open, path: path, code: code, user: user))
  }
}
