import BlockIO
import Glibc

/// Identifies a process by its id, its start and the boot, so that a later process with the same id
/// is not mistaken for it.
public struct ProcessIdentity: Equatable, Sendable, CustomStringConvertible {
  /// Process id.
  public let id: Int32
  /// Clock ticks from boot to its start.
  public let start: UInt64
  /// The id of this boot.
  public let boot: String

  /// A process with these properties.
  public init(id: Int32, start: UInt64, boot: String) {
    self.id = id
    self.start = start
    self.boot = boot
  }

  /// The running process with this id; nil if there is none.
  public init?(running id: Int32) {
    guard let stat = WholeFile.systemText("/proc/\(id)/stat"),
      // The second field is a name in brackets that may contain anything; the start is the 22nd
      // field.
      let end = stat.utf8.lastIndex(of: UInt8(ascii: ")"))
    else { return nil }
    let fields = stat[end...].split(separator: " ")
    guard fields.count > 20, let start = UInt64(fields[20]) else { return nil }
    self.init(id: id, start: start, boot: Self.currentBoot)
  }

  /// This process.
  public static var current: ProcessIdentity {
    ProcessIdentity(running: getpid())
      ?? ProcessIdentity(id: getpid(), start: 0, boot: currentBoot)
  }

  /// The id of the present boot.
  static var currentBoot: String {
    WholeFile.systemText("/proc/sys/kernel/random/boot_id") ?? "unknown"
  }

  /// Whether it still runs. A zombie does not count as running.
  public var isRunning: Bool {
    guard ProcessIdentity(running: id) == self else { return false }
    let stat = WholeFile.systemText("/proc/\(id)/stat") ?? ""
    guard let end = stat.utf8.lastIndex(of: UInt8(ascii: ")")) else { return false }
    return stat[end...].split(separator: " ").dropFirst().first != "Z"
  }

  /// `PID START BOOT`, for files.
  public var description: String { "\(id) \(start) \(boot)" }

  /// Parses `PID START BOOT`.
  init?(text: Substring) {
    let words = text.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3, let id = Int32(words[0]), id > 0, let start = UInt64(words[1]) else {
      return nil
    }
    self.init(id: id, start: start, boot: String(words[2]))
  }
}
