import DataPath
import EventLoop
import Glibc

/// How many handshakes of TLS begin, of each source: each takes milliseconds of the server's one thread.
///
/// A source has some to begin with, and gets more with time; beyond that its connections wait in line.
/// Unix sockets are the owner's own and have no limit.
final class HandshakeRates {
  /// Handshakes that a source can begin at once, and the time after which it gets another.
  private static let burst: UInt64 = 32
  private static let intervalNanoseconds: UInt64 = 50_000_000
  /// Sources that are remembered; with more, those are forgotten that have been quiet for long enough.
  private static let sourcesMax = 4096

  /// A network address: an IPv4 address, or the first half of an IPv6 address, which one site has.
  struct Source: Hashable {
    var family: Int32
    var address: UInt64
  }

  private let loop: EventLoop
  /// For each source the time at which it has as many as it can have.
  private var fullTimes: [Source: UInt64] = [:]
  private var waiting: [Connection] = []
  private lazy var timer = LoopTimer { [unowned self] in wake() }

  init(_ loop: EventLoop) { self.loop = loop }

  /// Whether a handshake may begin; if not, `startTLS` is called again later.
  func admit(_ connection: Connection) -> Bool {
    guard let source = Self.source(connection.descriptor) else { return true }
    let now = loop.time
    let full = max(now, fullTimes[source] ?? now)
    guard full &- now <= (Self.burst - 1) * Self.intervalNanoseconds else {
      waiting.append(connection)
      if !timer.isSet { loop.set(timer, after: Self.intervalNanoseconds) }
      return false
    }
    if fullTimes.count >= Self.sourcesMax { fullTimes = fullTimes.filter { $0.value > now } }
    fullTimes[source] = full &+ Self.intervalNanoseconds
    return true
  }

  /// A connection has gone.
  func forget(_ connection: Connection) {
    if !waiting.isEmpty { waiting.removeAll { $0 === connection } }
  }

  private func wake() {
    let due = waiting
    waiting = []
    for connection in due where connection.phase != .ended {
      connection.startTLS()
      connection.updateInterest()
    }
  }

  private static func source(_ descriptor: Int32) -> Source? {
    var address = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let status = unsafe withUnsafeMutablePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe getpeername(descriptor, $0, &length)
      }
    }
    guard status == 0 else { return nil }
    let family = Int32(address.ss_family)
    return unsafe withUnsafeBytes(of: &address) { raw in
      switch family {
      case AF_INET:
        unsafe Source(
          family: AF_INET, address: UInt64(raw.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
      case AF_INET6:
        unsafe Source(
          family: AF_INET6, address: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      default: nil
      }
    }
  }
}
