public import BlockServer
import CDMThin
public import EventLoop
import Glibc

/// A scripted client of the NBD protocol, valid or not, on the same thread as the server. For tests
/// and trials only.
public final class NBDClient {
  /// A piece of a reply.
  public struct Chunk: Equatable {
    /// Bit 0 marks the last one.
    public var flags: UInt16
    /// Its kind; from 0x8000 on an error.
    public var type: UInt16
    /// What follows the header.
    public var payload: [UInt8]
  }

  /// A complete reply: simple, or in chunks.
  public struct Reply {
    /// The request's cookie.
    public var cookie: UInt64
    /// The error number, 0 for success.
    public var error: UInt32
    /// The chunks of a structured reply.
    public var chunks: [Chunk]
    /// The data of a simple reply.
    public var data: [UInt8]

    /// The error's message.
    public var message: String {
      guard let chunk = chunks.first(where: { $0.type & 0x8000 != 0 }) else { return "" }
      return String(decoding: chunk.payload.dropFirst(6), as: UTF8.self)
    }
  }

  /// The answer to an option.
  public struct OptionReply: Equatable {
    /// The option answered.
    public var option: UInt32
    /// The reply's type; from 0x8000_0000 on an error.
    public var type: UInt32
    /// What follows the header.
    public var data: [UInt8]
  }

  /// The client's end of the connection.
  public let descriptor: Int32
  private let loop: EventLoop
  private var isStructured = false
  /// The export's size.
  public private(set) var exportBytes: UInt64 = 0
  /// The export's transmission flags.
  public private(set) var exportFlags: UInt16 = 0

  /// A client of `server`.
  public init(_ server: BlockServer, _ loop: EventLoop) {
    var pair: [Int32] = [-1, -1]
    _ = dmthin_stream_pair(&pair)
    descriptor = pair[0]
    self.loop = loop
    server.adopt(pair[1])
  }

  deinit { close(descriptor) }

  // MARK: - Bytes

  /// Big-endian bytes of an integer.
  public static func big<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
    withUnsafeBytes(of: value.bigEndian) { Array($0) }
  }

  /// Parses a big-endian integer.
  public static func integer(_ bytes: some Sequence<UInt8>) -> UInt64 {
    bytes.reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Sends bytes. Returns false if the server has closed the connection, or does not accept them.
  @discardableResult
  public func send(_ bytes: [UInt8], passes: Int = 10_000) -> Bool {
    var done = 0
    var left = passes
    while done < bytes.count {
      let n = bytes.withUnsafeBytes { raw in
        Glibc.send(
          descriptor, raw.baseAddress.map { $0 + done }, raw.count - done,
          Int32(truncatingIfNeeded: MSG_NOSIGNAL))
      }
      if n > 0 {
        done += n
      } else {
        guard errno == EAGAIN, left > 0 else { return false }
        left -= 1
        loop.pass()
      }
    }
    return true
  }

  /// Receives `count` bytes; fewer if the connection ends, or nothing more arrives.
  public func receive(_ count: Int, passes: Int = 10_000) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    var left = passes
    while done < count {
      let n = bytes.withUnsafeMutableBytes { raw in
        recv(descriptor, raw.baseAddress.map { $0 + done }, count - done, 0)
      }
      if n > 0 {
        done += n
        left = passes
      } else {
        guard n < 0, errno == EAGAIN, left > 0 else { break }
        left -= 1
        loop.pass()
      }
    }
    return Array(bytes.prefix(done))
  }

  /// Receives and discards all available bytes.
  public func drain() {
    var bytes = [UInt8](repeating: 0, count: 65_536)
    while recv(descriptor, &bytes, bytes.count, 0) > 0 {}
  }

  /// Whether the server closes the connection, after anything it still sends.
  public func isClosed(passes: Int = 1000) -> Bool {
    var byte = [UInt8](repeating: 0, count: 4096)
    for _ in 0..<passes {
      let n = recv(descriptor, &byte, byte.count, 0)
      if n == 0 || n < 0 && errno != EAGAIN { return true }
      if n < 0 { loop.pass() }
    }
    return false
  }

  // MARK: - Handshake

  /// Receives the server's greeting, and answers it.
  @discardableResult
  public func greet(flags: UInt32 = 3) -> Bool {
    guard receive(18).count == 18 else { return false }
    return send(Self.big(flags))
  }

  /// Sends an option.
  public func option(_ code: UInt32, _ data: [UInt8] = []) {
    send(Self.big(0x4948_4156_454f_5054 as UInt64) + Self.big(code))
    send(Self.big(UInt32(data.count)) + data)
  }

  /// The next reply to an option; nil if none comes.
  public func optionReply() -> OptionReply? {
    let head = receive(20)
    guard head.count == 20, Self.integer(head[0..<8]) == 0x3_e889_0455_65a9 else { return nil }
    let data = receive(Int(Self.integer(head[16..<20])))
    return OptionReply(
      option: UInt32(Self.integer(head[8..<12])), type: UInt32(Self.integer(head[12..<16])),
      data: data)
  }

  /// Replies up to the one that ends an option.
  public func optionReplies() -> [OptionReply] {
    var replies: [OptionReply] = []
    while let reply = optionReply() {
      replies.append(reply)
      if reply.type == 1 || reply.type & 0x8000_0000 != 0 { break }
    }
    return replies
  }

  /// The data of GO and INFO.
  public static func information(_ name: String, _ items: [UInt16] = []) -> [UInt8] {
    big(UInt32(name.utf8.count)) + Array(name.utf8) + big(UInt16(items.count))
      + items.flatMap { big($0) }
  }

  /// The data of options about metadata contexts.
  public static func contexts(_ name: String, _ queries: [String]) -> [UInt8] {
    big(UInt32(name.utf8.count)) + Array(name.utf8) + big(UInt32(queries.count))
      + queries.flatMap { big(UInt32($0.utf8.count)) + Array($0.utf8) }
  }

  /// Makes the whole handshake. Returns false if the server refuses.
  @discardableResult
  public func connect(_ name: String = "", structured: Bool = true, status: Bool = false) -> Bool {
    guard greet() else { return false }
    if structured {
      option(8)
      guard optionReplies().last?.type == 1 else { return false }
      isStructured = true
    }
    if status {
      option(10, Self.contexts(name, ["base:allocation"]))
      guard optionReplies().last?.type == 1 else { return false }
    }
    option(7, Self.information(name))
    let replies = optionReplies()
    guard replies.last?.type == 1, let info = replies.first(where: { $0.data.count == 12 }) else {
      return false
    }
    exportBytes = Self.integer(info.data[2..<10])
    exportFlags = UInt16(Self.integer(info.data[10..<12]))
    return true
  }

  // MARK: - Requests

  /// The header of a request.
  public static func header(
    _ command: UInt16, flags: UInt16 = 0, cookie: UInt64, offset: UInt64, length: UInt32
  ) -> [UInt8] {
    big(0x2560_9513 as UInt32) + big(flags) + big(command) + big(cookie) + big(offset)
      + big(length)
  }

  /// Sends a request.
  @discardableResult
  public func request(
    _ command: UInt16, flags: UInt16 = 0, cookie: UInt64 = 1, offset: UInt64 = 0,
    length: UInt32 = 0, payload: [UInt8] = []
  ) -> Bool {
    let header = Self.header(command, flags: flags, cookie: cookie, offset: offset, length: length)
    return send(header + payload)
  }

  /// The next reply. A simple successful one has `dataBytes` bytes.
  public func reply(dataBytes: Int = 0) -> Reply? {
    var chunks: [Chunk] = []
    while true {
      let magic = receive(4)
      if magic == Self.big(0x6744_6698 as UInt32) {
        let head = receive(12)
        guard head.count == 12 else { return nil }
        let error = UInt32(Self.integer(head[0..<4]))
        let isRead = dataBytes > 0 && error == 0 && !isStructured
        return Reply(
          cookie: Self.integer(head[4..<12]), error: error, chunks: [],
          data: isRead ? receive(dataBytes) : [])
      }
      guard magic == Self.big(0x668e_33ef as UInt32) else { return nil }
      let head = receive(16)
      guard head.count == 16 else { return nil }
      let payload = receive(Int(Self.integer(head[12..<16])))
      let chunk = Chunk(
        flags: UInt16(Self.integer(head[0..<2])), type: UInt16(Self.integer(head[2..<4])),
        payload: payload)
      chunks.append(chunk)
      guard chunk.flags & 1 == 0 else {
        let failed = chunks.first { $0.type & 0x8000 != 0 }
        return Reply(
          cookie: Self.integer(head[4..<12]),
          error: failed.map { UInt32(Self.integer($0.payload[0..<4])) } ?? 0, chunks: chunks,
          data: [])
      }
    }
  }

  /// The data of a reply to a read of a range; nil if the chunks do not cover the range exactly
  /// once.
  public static func assemble(_ reply: Reply, offset: UInt64, length: Int) -> [UInt8]? {
    guard reply.error == 0 else { return nil }
    if reply.chunks.isEmpty { return reply.data.count == length ? reply.data : nil }
    var bytes = [UInt8](repeating: 0xee, count: length)
    var covered = 0
    for chunk in reply.chunks where chunk.type == 1 || chunk.type == 2 {
      let start = Int(integer(chunk.payload[0..<8])) - Int(offset)
      let part =
        chunk.type == 1
        ? Array(chunk.payload[8...])
        : [UInt8](repeating: 0, count: Int(integer(chunk.payload[8..<12])))
      guard start >= 0, start + part.count <= length else { return nil }
      bytes.replaceSubrange(start..<start + part.count, with: part)
      covered += part.count
    }
    return covered == length ? bytes : nil
  }

  /// Reads a range; nil if that fails.
  public func read(_ offset: UInt64, _ length: Int, flags: UInt16 = 0) -> [UInt8]? {
    request(0, flags: flags, cookie: offset ^ 0x55, offset: offset, length: UInt32(length))
    guard let reply = reply(dataBytes: length), reply.cookie == offset ^ 0x55 else { return nil }
    return Self.assemble(reply, offset: offset, length: length)
  }

  /// Sends a request and returns the error number of its reply; nil if there is none.
  public func perform(
    _ command: UInt16, flags: UInt16 = 0, offset: UInt64 = 0, length: UInt32 = 0,
    payload: [UInt8] = []
  ) -> UInt32? {
    request(
      command, flags: flags, cookie: 77, offset: offset, length: length, payload: payload)
    let reply = reply()
    return reply?.cookie == 77 ? reply?.error : nil
  }

  /// Writes bytes. Returns the error number, or nil if there is no reply.
  public func write(_ offset: UInt64, _ bytes: [UInt8], flags: UInt16 = 0) -> UInt32? {
    perform(1, flags: flags, offset: offset, length: UInt32(bytes.count), payload: bytes)
  }
}
