import Glibc
public import ThinFormat

/// The owner and the duration of a pool's metadata snapshot, kept in a file. The kernel knows only
/// that there is a metadata snapshot; a pool has at most one.
public struct Lease: Equatable, Sendable {
  /// The owner's name, as the owner gave it.
  public var owner: String
  /// The process whose end ends the lease; nil for none.
  public var holder: ProcessIdentity?
  /// The boot in which it was taken.
  public var boot: String
  /// The time at which it was taken, in seconds since that boot. The clock of day is not used: it
  /// may be set, and early in a boot it is often wrong.
  public var taken: UInt64
  /// The duration in seconds; nil for no limit.
  public var seconds: UInt64?
  /// Block of the metadata snapshot's superblock, which identifies the snapshot.
  public var heldRoot: MetadataBlock

  private static let heading = "dmthin lease 2"

  /// A lease.
  public init(
    owner: String, holder: ProcessIdentity?, boot: String, taken: UInt64, seconds: UInt64?,
    heldRoot: MetadataBlock
  ) {
    self.owner = owner
    self.holder = holder
    self.boot = boot
    self.taken = taken
    self.seconds = seconds
    self.heldRoot = heldRoot
  }

  /// Why the lease has ended; nil while it holds.
  /// - Parameters:
  ///   - now: seconds since the start of this boot.
  ///   - heldRoot: the block of the pool's present metadata snapshot.
  public func fault(now: UInt64, heldRoot: MetadataBlock?) -> String? {
    if boot != ProcessIdentity.currentBoot { return "it was taken before the last boot" }
    if let heldRoot, heldRoot != self.heldRoot {
      return "the pool holds another metadata snapshot now"
    }
    if let holder, !holder.isRunning { return "its process \(holder.id) has ended" }
    guard let seconds else { return nil }
    guard now >= taken else { return "it was taken later than now" }
    return now - taken >= seconds ? "its limit of \(seconds) seconds has passed" : nil
  }

  /// Seconds since the start of this boot, time asleep included.
  public static func now() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_BOOTTIME, &time)
    return UInt64(max(0, time.tv_sec))
  }

  /// Seconds since it was taken.
  /// - Parameter now: seconds since the start of this boot.
  public func age(now: UInt64 = Lease.now()) -> UInt64 { now >= taken ? now - taken : 0 }

  /// The file's text.
  var text: String {
    var text = "\(Self.heading)\nowner \(escaped(owner))\nboot \(boot)\ntaken \(taken)\n"
    if let seconds { text += "seconds \(seconds)\n" }
    if let holder { text += "holder \(holder)\n" }
    return text + "held \(heldRoot)\nend\n"
  }

  /// Parses a file's text; nil if it is incomplete or of another format.
  init?(_ text: String) {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    guard lines.count >= 4, lines.first == Substring(Self.heading), lines.last == "",
      lines[lines.count - 2] == "end"
    else { return nil }
    var values: [Substring: Substring] = [:]
    for line in lines[1..<(lines.count - 2)] {
      let words = line.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
      guard words.count == 2, values.updateValue(words[1], forKey: words[0]) == nil else {
        return nil
      }
    }
    guard let owner = values["owner"].flatMap({ unescaped($0) }), let boot = values["boot"],
      let taken = values["taken"].flatMap({ UInt64($0) }),
      let heldRoot = values["held"].flatMap({ UInt64($0) })
    else { return nil }
    self.init(
      owner: owner, holder: nil, boot: String(boot), taken: taken, seconds: nil,
      heldRoot: MetadataBlock(heldRoot))
    if let value = values["holder"] {
      guard let identity = ProcessIdentity(text: value) else { return nil }
      holder = identity
    }
    if let value = values["seconds"] {
      guard let number = UInt64(value) else { return nil }
      seconds = number
    }
  }
}
