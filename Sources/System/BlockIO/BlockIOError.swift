import Glibc

/// A failed system call on a device or file.
public struct BlockIOError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The operation that failed.
  public enum Operation: String, Sendable {
    case find = "find"
    case open = "open"
    case create = "create"
    case replace = "replace"
    case keep = "keep temporary data in"
    case size = "find the size of"
    case read = "read"
    case write = "write"
    case flush = "flush"
    case allocate = "allocate memory for"
    case reserve = "reserve space for"
    case use = "continue with"
  }

  /// The operation that failed.
  public let operation: Operation
  /// The path given by the user, or a description.
  public let path: String
  /// Bytes from the start, for reads and writes.
  public let offset: UInt64?
  /// The system's error number; 0 for an unexpected end.
  public let code: Int32
  /// Whether another program has locked the file; `code` is then EBUSY.
  public let isLocked: Bool
  /// The reason, if more is known than the number; replaces the system's text.
  public let detail: String?
  /// The user of the file or device, if `code` is EBUSY and the user is known: `dmthin (process
  /// 4711)` for a lock, `mounted on /mnt` for a device.
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

  /// Whether another program uses the file or device.
  public var isInUse: Bool { code == EBUSY }
  /// Whether it was a write to a pipe whose reader has gone away.
  public var isReaderGone: Bool { operation == .write && code == EPIPE }

  /// The known reason, or else the system's text for `code`.
  public var reason: String {
    if let detail { return detail }
    if isLocked {
      return "another program has locked it" + (user.map { ": \($0)" } ?? "")
    }
    return unsafe code == 0 ? "unexpected end" : String(cString: strerror(code))
  }

  /// One line, with advice if there is any.
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
