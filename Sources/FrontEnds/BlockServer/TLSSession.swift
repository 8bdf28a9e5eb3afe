import Cgnutls
import Glibc

/// TLS on a connection. Calls do not wait: they return -1 with errno set to EAGAIN instead.
@safe final class TLSSession {
  enum Progress {
    case done, again, failed
  }

  /// What a session takes of memory, the library's included.
  static let bytes = 64 << 10
  /// The most that goes into one record.
  private static let recordBytes = 16 << 10

  private let session: gnutls_session_t
  // Kept for as long as the session is.
  private let credentials: TLSCredentials
  private let record = UnsafeMutableRawPointer.allocate(byteCount: recordBytes, alignment: 64)
  /// A record was taken, and has not gone out entirely.
  private var isSending = false

  init?(_ credentials: TLSCredentials, _ descriptor: Int32) {
    var session: gnutls_session_t?
    let flags = UInt32(
      GNUTLS_SERVER.rawValue | GNUTLS_NONBLOCK.rawValue | GNUTLS_NO_SIGNAL.rawValue)
    guard unsafe gnutls_init(&session, flags) == 0, let session = unsafe session else { return nil }
    unsafe self.session = session
    self.credentials = credentials
    guard unsafe credentials.apply(to: session) else { return nil }
    unsafe gnutls_transport_set_int2(session, descriptor, descriptor)
  }

  deinit {
    unsafe gnutls_deinit(session)
    unsafe record.deallocate()
  }

  /// Whether the handshake waits for the client to take something, rather than to say something.
  var wantsToWrite: Bool { unsafe gnutls_record_get_direction(session) == 1 }
  /// Whether there is more to receive that has come already.
  var hasPending: Bool { unsafe gnutls_record_check_pending(session) > 0 }

  func shakeHands() -> Progress {
    // Warnings are passed over, but not without end.
    for _ in 0..<16 {
      let status = unsafe gnutls_handshake(session)
      if status == 0 { return .done }
      if status == GNUTLS_E_AGAIN { return .again }
      if gnutls_error_is_fatal(status) != 0 {
        // So that clients can say more than that the connection has ended; if they take it at once.
        _ = unsafe gnutls_alert_send_appropriate(session, status)
        return .failed
      }
    }
    return .failed
  }

  /// Bytes received, 0 at the end, -1 with errno set.
  func receive(_ bytes: UnsafeMutableRawPointer?, _ count: Int) -> Int {
    let n = unsafe gnutls_record_recv(session, bytes, count)
    if n >= 0 { return n }
    // A connection cut off without a goodbye ends as one does that says it.
    if n == Int(GNUTLS_E_PREMATURE_TERMINATION) { return 0 }
    return fail(n)
  }

  /// Sends from the front of vectors; returns the bytes taken, or -1 with errno set. What was taken
  /// may go out with the next call only: the caller calls again while `isBlocked`.
  func send(_ vectors: UnsafeMutablePointer<iovec>, _ count: Int) -> Int {
    guard finishRecord() else { return -1 }
    var staged = 0
    for i in 0..<count where staged < Self.recordBytes {
      let part = unsafe min(vectors[i].iov_len, Self.recordBytes - staged)
      guard let base = unsafe vectors[i].iov_base else { continue }
      unsafe (record + staged).copyMemory(from: base, byteCount: part)
      staged += part
    }
    let n = unsafe gnutls_record_send(session, record, staged)
    if n >= 0 { return n }
    guard n == Int(GNUTLS_E_AGAIN) || n == Int(GNUTLS_E_INTERRUPTED) else { return fail(n) }
    isSending = true
    return staged
  }

  /// Whether a record waits for the client to take it.
  var isBlocked: Bool { isSending }

  /// Sends the rest of a record that was taken; false, with errno set, if it is not gone yet.
  func finishRecord() -> Bool {
    guard isSending else { return true }
    let n = unsafe gnutls_record_send(session, nil, 0)
    guard n >= 0 else {
      _ = fail(n)
      return false
    }
    isSending = false
    return true
  }

  private func fail(_ code: Int) -> Int {
    errno =
      code == Int(GNUTLS_E_AGAIN) ? EAGAIN : code == Int(GNUTLS_E_INTERRUPTED) ? EINTR : EPROTO
    return -1
  }

  /// Says goodbye, if the client takes it at once.
  func end(politely: Bool) {
    if politely { _ = unsafe gnutls_bye(session, GNUTLS_SHUT_WR) }
  }
}
