import BlockIO
import CDMThin
import Glibc

/// A socket that accepts connections.
public final class Listener {
  /// What messages call it: a path, or an address with its port.
  public let name: String
  /// The listening socket.
  public let descriptor: Int32
  /// The file that goes when the listener does, and what identifies it.
  private var file: SocketFile?
  private var isClosed = false

  private init(descriptor: Int32, name: String) {
    self.descriptor = descriptor
    self.name = name
  }

  deinit { close() }

  /// What a client connects to: the full path of a unix socket, also of one that was passed, or else the
  /// name.
  public var address: String {
    var address = sockaddr_un()
    var length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let isUnix =
      unsafe withUnsafeMutablePointer(to: &address) { address in
        unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          unsafe getsockname(descriptor, $0, &length)
        }
      } == 0 && address.sun_family == sa_family_t(AF_UNIX)
    guard isUnix else { return name }
    let path = unsafe withUnsafeBytes(of: address.sun_path) {
      unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
    guard let full = unsafe realpath(path, nil) else { return name }
    defer { unsafe free(full) }
    return unsafe String(cString: full)
  }

  /// Stops listening; a unix socket's file is removed if it is still the listener's own.
  public func close() {
    // Closed twice, the number could be another descriptor's the second time.
    guard !isClosed else { return }
    isClosed = true
    file?.remove()
    file = nil
    Glibc.close(descriptor)
  }

  // MARK: - Unix sockets

  /// Listens on a unix socket at `path`, for its owner alone. A socket of root's or this user's on which
  /// no process listens is replaced.
  /// - Throws: `SystemError`; EADDRINUSE if another process listens, or the file is no socket.
  public static func unix(path: String) throws(SystemError) -> Listener {
    let place = try SocketFile.Place(path)
    let fd = try open(AF_UNIX)
    do throws(SystemError) {
      if unsafe dmthin_bind_unix(fd, path) != 0 {
        guard errno == EADDRINUSE else { throw SystemError("bind", errno) }
        try place.removeStale()
        try unsafe check(dmthin_bind_unix(fd, path), "bind")
      }
      let file = try place.made()
      do throws(SystemError) {
        try check(listen(fd, SOMAXCONN), "listen")
      } catch {
        file.remove()
        throw error
      }
      let listener = Listener(descriptor: fd, name: path)
      listener.file = file
      return listener
    } catch {
      Glibc.close(fd)
      throw error
    }
  }

  /// Whether others could put a socket of theirs in place of one that is made at `path`.
  public static func othersMayReplace(path: String) -> Bool {
    (try? TrustedFolder.parent(of: path))?.folder.letsOthersReplace ?? false
  }

  // MARK: - TCP

  /// Listens on `text`, `ADDRESS:PORT` or `[ADDRESS]:PORT`, on every address that it stands for.
  /// Port 0 lets the system choose; `name` tells then.
  /// - Throws: `SystemError`; EINVAL where the text is no address.
  public static func tcp(_ text: String) throws(SystemError) -> [Listener] {
    guard let (host, port) = split(text) else { throw SystemError("address \(text)", EINVAL) }
    var hints = unsafe addrinfo()
    unsafe hints.ai_family = AF_UNSPEC
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    unsafe hints.ai_flags = AI_PASSIVE
    var list: UnsafeMutablePointer<addrinfo>?
    guard unsafe getaddrinfo(host, port, &hints, &list) == 0 else {
      throw SystemError("address \(text)", EADDRNOTAVAIL)
    }
    defer { unsafe freeaddrinfo(list) }
    var listeners: [Listener] = []
    var next = unsafe list
    while let info = unsafe next {
      unsafe next = info.pointee.ai_next
      unsafe listeners.append(try tcp(info.pointee, host))
    }
    return listeners
  }

  private static func tcp(_ info: addrinfo, _ host: String) throws(SystemError) -> Listener {
    let fd = try unsafe open(info.ai_family)
    do throws(SystemError) {
      set(fd, SOL_SOCKET, SO_REUSEADDR)
      if unsafe info.ai_family == AF_INET6 { set(fd, Int32(IPPROTO_IPV6), IPV6_V6ONLY) }
      try unsafe check(bind(fd, info.ai_addr, info.ai_addrlen), "bind")
      try check(listen(fd, SOMAXCONN), "listen")
    } catch {
      Glibc.close(fd)
      throw error
    }
    let name = unsafe info.ai_family == AF_INET6 ? "[\(host)]" : host
    return Listener(descriptor: fd, name: "\(name):\(port(fd))")
  }

  private static func split(_ text: String) -> (String, String)? {
    guard let colon = text.lastIndex(of: ":") else { return nil }
    var host = text[..<colon]
    let port = text[text.index(after: colon)...]
    if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
    guard !host.isEmpty, let number = UInt16(port) else { return nil }
    return (String(host), String(number))
  }

  private static func port(_ fd: Int32) -> UInt16 {
    var address = sockaddr_in6()
    var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    let status = unsafe withUnsafeMutablePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe getsockname(fd, $0, &length)
      }
    }
    // The port is at the same place in both families.
    return status == 0 ? UInt16(bigEndian: address.sin6_port) : 0
  }

  // MARK: - Sockets of the service manager

  /// The sockets that the service manager passed (LISTEN_FDS), none where it passed none to this
  /// process.
  /// - Throws: `SystemError` where one does not listen: it would be ready for ever, without a connection.
  public static func passed() throws(SystemError) -> [Listener] {
    guard let pid = unsafe getenv("LISTEN_PID"), unsafe Int32(String(cString: pid)) == getpid(),
      let text = unsafe getenv("LISTEN_FDS"), let count = unsafe Int32(String(cString: text)),
      (1...256).contains(count)
    else { return [] }
    // Not for the programs that this process starts.
    unsafe unsetenv("LISTEN_PID")
    unsafe unsetenv("LISTEN_FDS")
    var listeners: [Listener] = []
    for fd in 3..<3 + count {
      var isListening: Int32 = 0
      var length = socklen_t(MemoryLayout<Int32>.size)
      let call = "accept on descriptor \(fd)"
      try unsafe check(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length), call)
      guard isListening != 0 else { throw SystemError(call, EINVAL) }
      _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
      _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
      listeners.append(Listener(descriptor: fd, name: "socket \(fd)"))
    }
    return listeners
  }

  private static func open(_ family: Int32) throws(SystemError) -> Int32 {
    let fd = dmthin_stream_socket(family)
    guard fd >= 0 else { throw SystemError("socket", errno) }
    return fd
  }

  private static func check(_ status: Int32, _ call: String) throws(SystemError) {
    guard status == 0 else { throw SystemError(call, errno) }
  }

  /// Sets an option of a socket to 1.
  public static func set(_ fd: Int32, _ level: Int32, _ option: Int32) {
    var one: Int32 = 1
    unsafe setsockopt(fd, level, option, &one, socklen_t(MemoryLayout<Int32>.size))
  }
}
