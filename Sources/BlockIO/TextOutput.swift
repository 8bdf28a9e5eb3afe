import CDMThin
import Glibc

/// The one way in which text is written to a path that was given: dumps, reports, manual pages.
///
/// It is never written over what is read, over a file that another program has locked or that is in use
/// as a loop device, and not onto a block device unless that was asked for. A regular file is replaced as
/// a whole, at `commit`; where that is not reached, it stays what it was. Pipes, terminals, other
/// character devices, and what is behind an own descriptor (/dev/stdout) get the text as it comes. Links
/// are followed: the file is replaced, and not the link. Of a file with several names only this name gets
/// the new text.
public final class TextOutput {
  /// Where the text goes.
  public let sink: ByteSink
  private let way: Way

  private enum Way {
    /// Written aside, for a regular file.
    case aside(FileReplacement)
    /// Written as it comes; the descriptor is the object's.
    case through(Int32)
  }

  /// What is asked of an output before it is opened.
  public struct Rules {
    /// Paths of what the text is made of, which is not to be overwritten.
    public var inputs: [String] = []
    /// Whether it may be a block device.
    public var mayBeDevice = false
    /// Tells by the first bytes of a file, up to 4096, what it is, where text must not replace it.
    public var isPrecious: (([UInt8]) -> String?)?

    /// Rules for text that is made of nothing that could be overwritten.
    public init() {}
  }

  /// Opens an output.
  /// - Throws: `OutputError`; nothing has been changed then.
  public init(path: String, _ rules: Rules = Rules()) throws(OutputError) {
    let place = OutputPath(path)
    var info = stat()
    let status = place.ownDescriptor.map { fstat($0, &info) } ?? stat(place.path, &info)
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

  /// Whether it is a regular file that is written aside, so that `write(_:at:)` may be used.
  public var isAside: Bool {
    if case .aside = way { true } else { false }
  }

  /// Gives a file that is written aside its size, of zeros: for contents that do not come front to back.
  public func setSize(_ byteCount: UInt64) throws(BlockIOError) {
    guard case .aside(let replacement) = way,
      ftruncate(replacement.descriptor, off_t(clamping: byteCount)) == 0
    else { throw BlockIOError(.write, path: sink.path, code: errno) }
  }

  /// Writes a piece of such a file.
  public func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard case .aside(let replacement) = way else { return }
    try OpenFile(adopting: replacement.descriptor, path: sink.path).write(bytes, at: offset)
  }

  /// Ends the text: hands it to the system, and puts a regular file in its place, durably.
  /// - Throws: `BlockIOError`; a regular file is what it was.
  public func commit() throws(BlockIOError) {
    try sink.flush()
    switch way {
    case .aside(let replacement): try replacement.commit()
    case .through(let descriptor):
      // Pipes and terminals have nothing to sync.
      if fsync(descriptor) != 0 && [EIO, ENOSPC, EDQUOT].contains(errno) {
        throw BlockIOError(.flush, path: sink.path, code: errno)
      }
    }
  }

  private static func open(
    _ place: OutputPath, _ path: String, _ info: stat, _ rules: Rules
  ) throws(OutputError) -> Way {
    if let own = place.ownDescriptor {
      // Not opened anew: it stands where the caller wants the text, and may be for appending only.
      return .through(try opened(fcntl(own, F_DUPFD_CLOEXEC, 3), path, info))
    }
    switch info.st_mode & S_IFMT {
    case S_IFREG:
      return .aside(try replacement(place, path, info, rules))
    case S_IFBLK:
      guard rules.mayBeDevice else {
        throw OutputError(
          .precious,
          "\(path) is a block device: its content would be overwritten with text. If that is wanted, "
            + "give --onto-device")
      }
      return .through(try opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC | O_EXCL), path, info))
    default:
      return .through(
        try opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC | O_NOCTTY), path, info))
    }
  }

  private static func replacement(
    _ place: OutputPath, _ path: String, _ info: stat, _ rules: Rules
  ) throws(OutputError) -> FileReplacement {
    // Opened for writing also where another file takes its place: whoever may not write it fails.
    let old = try opened(Glibc.open(place.path, O_WRONLY | O_CLOEXEC), path, info)
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
        "\(path) is \(what), and not replaced by text: name another output, or remove it first")
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
    let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return [] }
    defer { close(descriptor) }
    return [UInt8](unsafeUninitializedCapacity: 4096) { buffer, count in
      count = max(0, pread(descriptor, buffer.baseAddress, buffer.count, 0))
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
