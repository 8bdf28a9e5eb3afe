import Glibc

/// Buffered output to a descriptor: text of dumps and tables, without an allocation per line.
public final class ByteSink {
  /// What messages call the output.
  public let path: String
  private let fd: Int32
  private let owned: Bool
  private let buffer: UnsafeMutablePointer<UInt8>
  private let capacity = 1 << 18
  private var used = 0

  /// Writes to a descriptor that stays the caller's, standard output for instance.
  public init(descriptor: Int32, path: String) {
    fd = descriptor
    owned = false
    self.path = path
    buffer = .allocate(capacity: 1 << 18)
  }

  /// Creates or truncates `path`.
  public init(creating path: String) throws(BlockIOError) {
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
    guard fd >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    owned = true
    self.path = path
    buffer = .allocate(capacity: 1 << 18)
  }

  deinit {
    if owned { close(fd) }
    buffer.deallocate()
  }

  /// Appends text that is known at compile time.
  @inline(__always)
  public func write(_ text: StaticString) throws(BlockIOError) {
    try write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// Appends text.
  public func write(_ text: String) throws(BlockIOError) {
    var text = text
    var failure: BlockIOError?
    text.withUTF8 { utf8 in
      do throws(BlockIOError) {
        try write(UnsafeRawBufferPointer(utf8))
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }

  /// Appends bytes.
  public func write(_ bytes: UnsafeRawBufferPointer) throws(BlockIOError) {
    guard let base = bytes.baseAddress else { return }
    var done = 0
    while done < bytes.count {
      if used == capacity { try flush() }
      let n = min(capacity - used, bytes.count - done)
      memcpy(buffer + used, base + done, n)
      used += n
      done += n
    }
  }

  /// Appends a number in decimal digits.
  public func write(decimal value: UInt64) throws(BlockIOError) {
    if capacity - used < 20 { try flush() }
    var digits = 1
    var limit: UInt64 = 10
    while value >= limit {
      digits += 1
      let (next, overflow) = limit.multipliedReportingOverflow(by: 10)
      if overflow { break }
      limit = next
    }
    var rest = value
    var at = used + digits
    while at > used {
      at -= 1
      let quotient = rest / 10
      buffer[at] = UInt8(truncatingIfNeeded: 48 + (rest - quotient * 10))
      rest = quotient
    }
    used += digits
  }

  /// Hands everything to the system. Must be called at the end: nothing else tells of a failure.
  public func flush() throws(BlockIOError) {
    var done = 0
    while done < used {
      let n = Glibc.write(fd, buffer + done, used - done)
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else {
        let code = errno
        used = 0
        throw BlockIOError(.write, path: path, code: code)
      }
      done += n
    }
    used = 0
  }
}
