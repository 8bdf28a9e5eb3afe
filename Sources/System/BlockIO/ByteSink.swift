import Glibc

/// Buffered output to a descriptor, for dumps and tables, without an allocation per line.
@safe public final class ByteSink {
  /// The output's name in messages.
  public let path: String
  private let fd: Int32
  @usableFromInline let buffer: UnsafeMutablePointer<UInt8>
  @usableFromInline let capacity = 1 << 18
  /// Read and set at once each time, never while other code runs.
  @safe @exclusivity(unchecked) @usableFromInline var used = 0

  /// Writes to a descriptor that the caller closes, for example standard output. For a path, use
  /// `TextOutput`.
  public init(descriptor: Int32, path: String) {
    fd = descriptor
    self.path = path
    unsafe buffer = .allocate(capacity: 1 << 18)
  }

  deinit { unsafe buffer.deallocate() }

  /// Appends text.
  public func write(_ text: String) throws(BlockIOError) {
    var text = text
    var failure: BlockIOError?
    text.withUTF8 { utf8 in
      do throws(BlockIOError) {
        try unsafe write(UnsafeRawBufferPointer(utf8))
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }

  /// Appends text known at compile time; write `as StaticString` to select this overload.
  public func write(_ text: StaticString) throws(BlockIOError) {
    try unsafe write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// Appends a number in decimal digits.
  public func write(decimal value: UInt64) throws(BlockIOError) {
    try unsafe write(upTo: 32) { unsafe $0.append(decimal: value) }
  }

  /// Appends bytes.
  public func write(_ bytes: UnsafeRawBufferPointer) throws(BlockIOError) {
    guard let base = bytes.baseAddress else { return }
    var done = 0
    while done < bytes.count {
      if used == capacity { try flush() }
      let n = min(capacity - used, bytes.count - done)
      unsafe memcpy(buffer + used, base + done, n)
      used += n
      done += n
    }
  }

  /// Appends a short piece that `body` writes in place, with a single check for room.
  /// - Parameter bytesMax: an upper bound of the bytes that `body` writes, at most 4096.
  @inlinable @inline(__always)
  public func write(upTo bytesMax: Int, _ body: (inout ByteCursor) -> Void) throws(BlockIOError) {
    if capacity - used < bytesMax { try flush() }
    var cursor = unsafe ByteCursor(at: buffer + used)
    unsafe body(&cursor)
    used = unsafe cursor.position - buffer
  }

  /// Writes everything to the descriptor. Must be called at the end, because nothing else reports a
  /// failure.
  public func flush() throws(BlockIOError) {
    var done = 0
    while done < used {
      let n = unsafe Glibc.write(fd, buffer + done, used - done)
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

/// Writes text into memory that must have room.
@frozen @unsafe public struct ByteCursor {
  @usableFromInline var position: UnsafeMutablePointer<UInt8>

  @inlinable init(at position: UnsafeMutablePointer<UInt8>) {
    unsafe self.position = position
  }

  /// Appends text known at compile time.
  @inlinable @inline(__always)
  public mutating func append(_ text: StaticString) {
    unsafe position.update(from: text.utf8Start, count: text.utf8CodeUnitCount)
    unsafe position += text.utf8CodeUnitCount
  }

  /// Appends text made before.
  @inlinable @inline(__always)
  public mutating func append(_ piece: borrowing TextPiece) {
    unsafe position.update(from: piece.memory, count: piece.count)
    unsafe position += piece.count
  }

  /// Appends a number in decimal digits.
  @inlinable
  public mutating func append(decimal value: UInt64) {
    let digits = unsafe Self.digits(of: value)
    var at = unsafe position + digits
    unsafe position = at
    var rest = value
    while rest >= 100 {
      let quotient = rest / 100
      unsafe at -= 2
      unsafe Self.put(Int(truncatingIfNeeded: rest &- quotient &* 100), at)
      rest = quotient
    }
    if rest >= 10 {
      unsafe Self.put(Int(truncatingIfNeeded: rest), at - 2)
    } else {
      unsafe (at - 1).pointee = UInt8(truncatingIfNeeded: 48 &+ rest)
    }
  }

  /// Two digits.
  @inlinable @inline(__always)
  static func put(_ number: Int, _ at: UnsafeMutablePointer<UInt8>) {
    let tens = (number &* 103) >> 10
    unsafe at[0] = UInt8(truncatingIfNeeded: 48 &+ tens)
    unsafe at[1] = UInt8(truncatingIfNeeded: 48 &+ number &- 10 &* tens)
  }

  /// How many digits a number has.
  @inlinable @inline(__always)
  static func digits(of value: UInt64) -> Int {
    var digits = 1
    var rest = value
    while rest >= 10000 {
      digits += 4
      rest /= 10000
    }
    return digits + (rest >= 1000 ? 3 : rest >= 100 ? 2 : rest >= 10 ? 1 : 0)
  }
}

/// A short piece of text that is written many times.
@safe public struct TextPiece: ~Copyable {
  @usableFromInline let memory: UnsafeMutablePointer<UInt8>
  @usableFromInline var count = 0

  /// An empty piece.
  public init() { unsafe memory = .allocate(capacity: 128) }

  deinit { unsafe memory.deallocate() }

  /// Replaces the text by what `body` writes, at most 128 bytes.
  @inlinable @inline(__always)
  public mutating func make(_ body: (inout ByteCursor) -> Void) {
    var cursor = unsafe ByteCursor(at: memory)
    unsafe body(&cursor)
    count = unsafe cursor.position - memory
  }
}
