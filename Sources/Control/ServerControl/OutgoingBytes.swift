import Glibc

/// A buffer of bytes to send on a socket that may not accept them all at once.
public struct OutgoingBytes {
  /// The result of sending.
  public enum Progress: Sendable {
    /// There is nothing left to send.
    case done
    /// The socket accepts no more for now.
    case waits
    /// The other side has gone, or the socket has failed; errno says how.
    case failed
  }

  private var bytes: [UInt8]
  private var sent = 0

  /// Bytes to send.
  public init(_ bytes: [UInt8] = []) { self.bytes = bytes }

  /// Whether there is nothing left to send.
  public var isEmpty: Bool { bytes.isEmpty }

  /// The bytes kept until all of them are sent.
  public var count: Int { bytes.count }

  /// The bytes still to be sent.
  public var left: Int { bytes.count - sent }

  /// Appends bytes.
  public mutating func append(_ more: [UInt8]) {
    if sent > 0 {
      bytes.removeFirst(sent)
      sent = 0
    }
    if bytes.isEmpty { bytes = more } else { bytes += more }
  }

  /// Sends as much as `socket` accepts.
  public mutating func send(to socket: Int32) -> Progress {
    while sent < bytes.count {
      let n = unsafe bytes.withUnsafeBytes { raw in
        unsafe Glibc.send(
          socket, raw.baseAddress.map { unsafe $0 + sent }, raw.count - sent,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n < 0 && errno == EINTR { continue }
      if n < 0 && errno == EAGAIN { return .waits }
      guard n > 0 else { return .failed }
      sent += n
    }
    self = OutgoingBytes()
    return .done
  }
}
