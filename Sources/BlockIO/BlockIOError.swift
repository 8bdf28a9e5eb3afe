import Glibc

/// A system call on a device or file that failed.
public struct BlockIOError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What was being done.
  public enum Operation: String, Sendable {
    case open = "open"
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

  /// An error of `operation` on `path`.
  public init(
    _ operation: Operation, path: String, offset: UInt64? = nil, code: Int32,
    isLocked: Bool = false, detail: String? = nil
  ) {
    self.isLocked = isLocked
    self.detail = detail
    self.operation = operation
    self.path = path
    self.offset = offset
    self.code = code
  }

  /// What is known of the reason, or else the system's words for `code`.
  public var reason: String {
    if let detail { return detail }
    if isLocked { return "another program has locked it" }
    return code == 0 ? "unexpected end" : String(cString: strerror(code))
  }

  /// One line, with what to do where that is known.
  public var description: String {
    var text = "cannot \(operation.rawValue) \(path)"
    if let offset { text += " at byte \(offset)" }
    text += ": \(reason)"
    if code == EBUSY && operation == .open && !isLocked {
      text += " (it is in use; deactivate the pool first, or use its metadata snapshot with -m)"
    }
    return text
  }
}
