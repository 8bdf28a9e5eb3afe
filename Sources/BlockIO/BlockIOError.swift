import Glibc

/// A system call on a device or file that failed.
public struct BlockIOError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What was being done.
  public enum Operation: String, Sendable {
    case open = "open"
    case create = "create"
    case replace = "replace"
    case keep = "keep what is needed later in"
    case size = "find the size of"
    case read = "read"
    case write = "write"
    case flush = "flush"
    case allocate = "allocate memory for"
    case reserve = "reserve space for"
    case use = "go on with"
  }

  /// What was being done.
  public let operation: Operation
  /// The path given by the user, or a description.
  public let path: String
  /// Bytes from the start, for reads and writes.
  public let offset: UInt64?
  /// The system's error number; 0 for an unexpected end.
  public let code: Int32
  /// Whether it is a file that another program has locked; `code` is then EBUSY.
  public let isLocked: Bool
  /// What is known beyond the number, in place of the system's words.
  public let detail: String?
  /// Who uses it, where `code` is EBUSY and that is known: `dmthin (process 4711)` for a lock, `mounted
  /// on /mnt` for a device.
  public let user: String?

  /// An error of `operation` on `path`.
  public init(
    _ operation: Operation, path: String, offset: UInt64? = nil, code: Int32,
    isLocked: Bool = false, detail: String? = nil, user: String? = nil
  ) {
    self.user = user
    self.isLocked = isLocked
    self.detail = detail
    self.operation = operation
    self.path = path
    self.offset = offset
    self.code = code
  }

  /// Whether another program uses what was to be opened.
  public var isInUse: Bool { code == EBUSY }
  /// Whether it was written to a pipe whose reader has gone away.
  public var isReaderGone: Bool { operation == .write && code == EPIPE }

  /// What is known of the reason, or else the system's words for `code`.
  public var reason: String {
    if let detail { return detail }
    if isLocked {
      return "another program has locked it" + (user.map { ": \($0)" } ?? "")
    }
    return code == 0 ? "unexpected end" : String(cString: strerror(code))
  }

  /// One line, with what to do where that is known.
  public var description: String {
    var text = "cannot \(operation.rawValue) \(path)"
    if let offset { text += " at byte \(offset)" }
    text += ": \(reason)"
    if code == EBUSY && operation == .open && !isLocked {
      let how = user.map { ", \($0)" } ?? ""
      text +=
        " (it is in use\(how); deactivate the pool first, or use its metadata snapshot with -m)"
    }
    if operation == .keep || operation == .create && path == TemporarySpace.description {
      text += " (TMPDIR names another folder for it)"
    }
    return text
  }
}
