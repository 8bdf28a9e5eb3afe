import Cgnutls
import Glibc

/// How connections are encrypted: not at all, where clients ask for it, or always.
public struct Security {
  /// Whether clients may or must use TLS.
  public enum Mode: String, CaseIterable, Sendable {
    case off, allow, require
  }

  private let mode: Mode
  private let credentials: TLSCredentials?

  /// Nothing is encrypted.
  public static var plain: Security { Security(mode: .off, credentials: nil) }

  private init(mode: Mode, credentials: TLSCredentials?) {
    self.mode = mode
    self.credentials = credentials
  }

  /// TLS with `credentials`, where `mode` is not `off`.
  public init(_ mode: Mode, _ credentials: TLSCredentials) {
    self.init(mode: mode, credentials: credentials)
  }

  /// What the user should know of the files that keys are in.
  public var warnings: [String] { credentials?.warnings ?? [] }

  var isOffered: Bool { mode != .off && credentials != nil }
  var isRequired: Bool { mode == .require }

  func makeSession(_ descriptor: Int32) -> TLSSession? {
    credentials.flatMap { TLSSession($0, descriptor) }
  }
}

/// A TLS library call that failed, with its words.
public struct TLSError: Error, Sendable, CustomStringConvertible {
  /// What was being done, and why that failed.
  public let description: String

  init(_ what: String, _ code: Int32) {
    description = unsafe "\(what): \(String(cString: gnutls_strerror(code)))"
  }

  fileprivate init(description: String) { self.description = description }
}

/// By what a server proves who it is, and clients who they are.
@safe public final class TLSCredentials {
  fileprivate let certificates: gnutls_certificate_credentials_t?
  fileprivate let keys: gnutls_psk_server_credentials_t?
  fileprivate let verifiesClients: Bool
  fileprivate let warnings: [String]

  /// A certificate and its key, both in PEM files. With `clientAuthority`, a file of certificates,
  /// clients have to have one that these have signed.
  /// - Throws: `TLSError` where a file cannot be used.
  public init(
    certificate: String, key: String, clientAuthority: String? = nil
  ) throws(TLSError) {
    var credentials: gnutls_certificate_credentials_t?
    let status = unsafe gnutls_certificate_allocate_credentials(&credentials)
    guard status == 0, let credentials = unsafe credentials else {
      throw TLSError("certificates", status)
    }
    unsafe certificates = credentials
    unsafe keys = nil
    verifiesClients = clientAuthority != nil
    warnings = KeyFile.warnings(key)
    let loaded = unsafe gnutls_certificate_set_x509_key_file(
      credentials, certificate, key, GNUTLS_X509_FMT_PEM)
    guard loaded >= 0 else { throw TLSError("\(certificate), \(key)", loaded) }
    guard unsafe !Self.hasWeakKey(credentials) else {
      throw TLSError(
        description:
          "\(key): the key is too short to be safe: make one of 2048 bits or more (RSA), or of "
          + "256 (ECDSA), and a certificate for it")
    }
    if let clientAuthority {
      let count = unsafe gnutls_certificate_set_x509_trust_file(
        credentials, clientAuthority, GNUTLS_X509_FMT_PEM)
      guard count > 0 else { throw TLSError(clientAuthority, count) }
    }
  }

  /// Whether a key is weaker than 112 bits of security, which clients of today refuse too.
  private static func hasWeakKey(_ credentials: gnutls_certificate_credentials_t) -> Bool {
    var key: gnutls_x509_privkey_t?
    // A key that the library does not show, or does not judge, has to be taken as it is.
    guard unsafe gnutls_certificate_get_x509_key(credentials, 0, &key) == 0, let key = unsafe key
    else { return false }
    defer { unsafe gnutls_x509_privkey_deinit(key) }
    let strength = unsafe gnutls_x509_privkey_sec_param(key).rawValue
    return strength != GNUTLS_SEC_PARAM_UNKNOWN.rawValue
      && strength < GNUTLS_SEC_PARAM_MEDIUM.rawValue
  }

  /// Keys that client and server share: a file of `NAME:HEX` lines, as `psktool` makes it.
  /// - Throws: `TLSError` where the file cannot be used.
  public init(sharedKeys path: String) throws(TLSError) {
    var credentials: gnutls_psk_server_credentials_t?
    let status = unsafe gnutls_psk_allocate_server_credentials(&credentials)
    guard status == 0, let credentials = unsafe credentials else {
      throw TLSError("shared keys", status)
    }
    unsafe certificates = nil
    unsafe keys = credentials
    verifiesClients = false
    warnings = KeyFile.warnings(path)
    // The library takes anything, and finds no key in it when a client comes.
    if let fault = KeyFile.fault(path) { throw TLSError(description: "\(path): \(fault)") }
    let loaded = unsafe gnutls_psk_set_server_credentials_file(credentials, path)
    guard loaded >= 0 else { throw TLSError(path, loaded) }
  }

  deinit {
    if let certificates = unsafe certificates {
      unsafe gnutls_certificate_free_credentials(certificates)
    }
    if let keys = unsafe keys { unsafe gnutls_psk_free_server_credentials(keys) }
  }

  func apply(to session: gnutls_session_t) -> Bool {
    // Older versions have known weaknesses, and no client needs them. The profile is for clients'
    // certificates: 112 bits of security, and no digest that has been broken.
    let versions = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%PROFILE_MEDIUM"
    let priority = unsafe keys == nil ? versions : "\(versions):+ECDHE-PSK:+DHE-PSK:+PSK"
    guard unsafe gnutls_priority_set_direct(session, priority, nil) == 0 else { return false }
    if let certificates = unsafe certificates {
      unsafe gnutls_certificate_server_set_request(
        session, verifiesClients ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE)
      if verifiesClients { unsafe gnutls_session_set_verify_cert(session, nil, 0) }
      return unsafe gnutls_credentials_set(
        session, GNUTLS_CRD_CERTIFICATE, UnsafeMutableRawPointer(certificates)) == 0
    }
    guard let keys = unsafe keys else { return false }
    return unsafe gnutls_credentials_set(session, GNUTLS_CRD_PSK, UnsafeMutableRawPointer(keys))
      == 0
  }
}
