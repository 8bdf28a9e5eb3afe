import BlockIO
import DeviceMapper
import Glibc

// Verbs about udev's cookies: semaphores with which udev's rules report that they have finished.
extension DmSession {
  private static func number(_ text: String) -> UInt32? {
    errno = 0
    var isWhole = false
    let value = unsafe text.withCString { start in
      var end: UnsafeMutablePointer<CChar>?
      let value = unsafe strtoul(start, &end, 0)
      isWhole = unsafe end?.pointee == 0
      return value
    }
    return errno == 0 && isWhole && value != 0 ? UInt32(exactly: value) : nil
  }

  /// Sets the cookie from a text, unless one is set. As in dmsetup, an invalid text only prints a
  /// message, and the command runs without a cookie.
  func takeCookie(_ text: String?) {
    guard cookie == nil, let text, !text.isEmpty else { return }
    cookie = Self.number(text)
    if cookie == nil { console.note("Incorrect cookie value.") }
  }

  /// The value of DM_UDEV_COOKIE.
  static var environmentCookie: String? {
    unsafe getenv("DM_UDEV_COOKIE").map { unsafe String(cString: $0) }
  }

  /// The number in a text, as C reads it: hexadecimal after `0x`, octal after `0`.
  static func cookie(_ text: String) throws(DmFailure) -> UInt32 {
    guard let value = number(text) else { throw .failed("Incorrect cookie value.") }
    return value
  }

  func createCookie() throws {
    // Without udev there is no cookie, and that is not a failure.
    guard let cookie = try udev({ try $0.createUdevCookie() }) else { return }
    let digits = String(cookie, radix: 16, uppercase: true)
    try print("0x" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits + "\n")
  }

  func releaseCookie(_ operands: [String]) throws {
    guard let cookie = try operands.first.map(Self.cookie) ?? cookie else {
      throw DmFailure.failed("No udev transaction cookie given.")
    }
    try udev { try $0.releaseUdevCookie(cookie) }
  }

  func completeCookie(_ operands: [String]) throws {
    let cookie = try Self.cookie(operands.first ?? "")
    // The upper half may have flags of udev's rules instead of the key's usual prefix.
    let key = (UdevCookie.magic << 16) | (cookie & 0xffff)
    // Udev's rules import this line. As in dmsetup, it is printed after a failure too.
    defer { try? print("DM_COOKIE_COMPLETED=0x" + padded(String(cookie, radix: 16), 10) + "\n") }
    try udev { try $0.completeUdevCookie(key) }
  }

  /// Runs a command of the library that is not one of the driver. A failure's text is the
  /// library's, or empty.
  private func udev<R>(_ body: (any KernelOnlyCommands) throws -> R) throws -> R {
    do {
      return try body(try kernel)
    } catch let error as DeviceMapperError {
      throw DmFailure(lines: error.messages + ["Command failed."])
    }
  }

  /// Names of the flags in a cookie's upper half, from the lowest bit.
  private static let flagNames =
    [
      "DISABLE_DM_RULES_FLAG", "DISABLE_SUBSYSTEM_RULES_FLAG", "DISABLE_DISK_RULES_FLAG",
      "DISABLE_OTHER_RULES_FLAG", "LOW_PRIORITY_FLAG", "DISABLE_LIBRARY_FALLBACK_FLAG",
      "PRIMARY_SOURCE_FLAG", "FLAG7",
    ].map { "DM_UDEV_\($0)" } + (0..<8).map { "DM_SUBSYSTEM_UDEV_FLAG\($0)" }

  func showCookieFlags(_ operands: [String]) throws {
    let flags = try Self.cookie(operands.first ?? "") >> 16
    for (bit, name) in Self.flagNames.enumerated() where flags & (1 << UInt32(bit)) != 0 {
      try print("\(name)='1'\n")
    }
  }

  func listCookies() throws {
    try print(
      "Cookie       Semid      Value      Last semop time           Last change time\n")
    for cookie in try kernel.udevCookies() {
      let key = padded(String(cookie.key, radix: 16), 10)
      let numbers = "\(padded("\(cookie.semaphore)", 10)) \(padded("\(cookie.value)", 10))"
      let operated = Self.time(cookie.lastOperation)
      try print(
        "0x\(key) \(numbers) \(padded(operated, 24))  \(Self.time(cookie.lastChange))\n")
    }
  }

  private func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }

  /// `Sat Nov 21 16:12:52 2026`.
  private static func time(_ seconds: Int64) -> String {
    var moment = time_t(seconds)
    var parts = unsafe tm()
    guard unsafe localtime_r(&moment, &parts) != nil else { return "unknown" }
    return unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { buffer in
      guard let base = buffer.baseAddress,
        unsafe strftime(base, buffer.count, "%a %b %e %H:%M:%S %Y", &parts) > 0
      else { return "unknown" }
      return unsafe String(cString: base)
    }
  }

  func completeAllCookies(_ operands: [String]) throws {
    var age: Int64 = 0
    if let text = operands.first {
      guard let minutes = Int64(text), minutes >= 0, minutes < 1 << 32 else {
        throw DmFailure.failed("Failed to read age_in_minutes parameter.")
      }
      age = minutes
    }
    let prefix = "\(UdevCookie.magic) (0xd4d)"
    if !arguments.has("yes") {
      let older = age > 0 ? "older than \(age) minutes " : ""
      console.note(
        "WARNING: This operation will destroy all semaphores \(older)"
          + "with keys that have a prefix \(prefix).")
      guard try agrees() else {
        return try print("Semaphores with keys prefixed by \(prefix) NOT destroyed.\n")
      }
    }
    let kernel = try kernel
    let newest = Int64(Glibc.time(nil)) - age * 60
    var (destroyed, skipped) = (0, 0)
    for cookie in try kernel.udevCookies() {
      if age > 0, max(cookie.lastOperation, cookie.lastChange) > newest {
        skipped += 1
      } else if kernel.destroyUdevCookie(cookie) {
        destroyed += 1
      } else {
        throw DmFailure.failed(
          "Could not cleanup notification semaphore with semid "
            + "\(cookie.semaphore) and cookie value \(cookie.key) "
            + "(0x\(String(cookie.key, radix: 16)))")
      }
    }
    try print(
      "\(destroyed) semaphores with keys prefixed by \(prefix) destroyed. \(skipped) skipped.\n")
  }

  /// Asks a question on the output and reads the answer from standard input. The end of input means
  /// no.
  private func agrees() throws -> Bool {
    try print("Do you really want to continue? [y/n]: ")
    try console.output.flush()
    var byte: UInt8 = 0
    while true {
      let count = unsafe read(0, &byte, 1)
      if count < 0, errno == EINTR { continue }
      guard count == 1 else {
        try print("\n")
        return false
      }
      if byte == UInt8(ascii: "y") || byte == UInt8(ascii: "n") { return byte == UInt8(ascii: "y") }
    }
  }
}
