/// The number of used blocks and the total: `USED/TOTAL`.
public struct BlockUsage: Hashable, Sendable, CustomStringConvertible {
  /// Blocks in use.
  public var used: UInt64
  /// All blocks.
  public var total: UInt64

  /// `used` of `total` blocks.
  public init(used: UInt64, total: UInt64) {
    self.used = used
    self.total = total
  }

  /// Parses `USED/TOTAL`.
  init?(_ word: Substring) {
    let parts = word.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2, let used = plain(parts[0]), let total = plain(parts[1]) else {
      return nil
    }
    self.init(used: used, total: total)
  }

  /// `used/total`.
  public var description: String { "\(used)/\(total)" }
}

/// Parses a number as the kernel prints it: digits without leading zeros.
func plain(_ word: Substring) -> UInt64? {
  guard let value = UInt64(word), String(value) == word else { return nil }
  return value
}

/// The status of a thin pool.
public enum ThinPoolStatus: Hashable, Sendable {
  /// It works, though possibly not in full.
  case working(Details)
  /// `Fail`: it serves no I/O any more.
  case failed
  /// `Error`: its metadata could not be queried.
  case error

  /// The mode of a pool.
  public enum Mode: String, CaseIterable, Sendable {
    /// Everything is possible.
    case readWrite = "rw"
    /// Metadata cannot be changed: the pool is read-only, or out of metadata space.
    case readOnly = "ro"
    /// No new data block can be allocated.
    case outOfDataSpace = "out_of_data_space"
  }

  /// How discards are handled.
  public enum Discards: String, CaseIterable, Sendable {
    case ignored = "ignore_discard"
    case passedDown = "discard_passdown"
    case notPassedDown = "no_discard_passdown"
  }

  /// How writes that find no free block are handled.
  public enum NoSpace: String, CaseIterable, Sendable {
    case error = "error_if_no_space"
    case queue = "queue_if_no_space"
  }

  /// The fields of a working pool.
  public struct Details: Hashable, Sendable {
    /// The number that volume managers change with the pool.
    public var transactionID: UInt64
    /// Blocks of 4096 bytes of the metadata.
    public var metadata: BlockUsage
    /// Data blocks.
    public var data: BlockUsage
    /// Block of the superblock of the metadata snapshot that is held, if any.
    public var heldRoot: UInt64?
    /// The mode.
    public var mode: Mode
    /// How discards are handled.
    public var discards: Discards
    /// How writes that find no free block are handled.
    public var noSpace: NoSpace
    /// Whether it needs a check before it is writable again.
    public var needsCheck: Bool
    /// Number of free metadata blocks at which an event is raised; old kernels do not report it.
    public var metadataLowWater: UInt64?

    /// A writable pool.
    public init(
      transactionID: UInt64, metadata: BlockUsage, data: BlockUsage, heldRoot: UInt64? = nil,
      mode: Mode = .readWrite, discards: Discards = .passedDown, noSpace: NoSpace = .queue,
      needsCheck: Bool = false, metadataLowWater: UInt64? = nil
    ) {
      self.transactionID = transactionID
      self.metadata = metadata
      self.data = data
      self.heldRoot = heldRoot
      self.mode = mode
      self.discards = discards
      self.noSpace = noSpace
      self.needsCheck = needsCheck
      self.metadataLowWater = metadataLowWater
    }
  }

  /// Parses the parameters of a status line; nil if they are not a pool's.
  public init?(_ parameters: String) {
    let words = parameters.split(separator: " ", omittingEmptySubsequences: false)
    if parameters == "Fail" {
      self = .failed
    } else if parameters == "Error" {
      self = .error
    } else {
      guard words.count == 9 || (words.count == 10 && words[9].isEmpty),
        let transaction = plain(words[0]), let metadata = BlockUsage(words[1]),
        let data = BlockUsage(words[2]), let mode = Mode(rawValue: String(words[4])),
        let discards = Discards(rawValue: String(words[5])),
        let noSpace = NoSpace(rawValue: String(words[6])),
        words[7] == "-" || words[7] == "needs_check"
      else { return nil }
      var details = Details(transactionID: transaction, metadata: metadata, data: data)
      if words[3] != "-" {
        guard let root = plain(words[3]) else { return nil }
        details.heldRoot = root
      }
      (details.mode, details.discards, details.noSpace) = (mode, discards, noSpace)
      details.needsCheck = words[7] == "needs_check"
      if words.count == 10 {
        guard let mark = plain(words[8]) else { return nil }
        details.metadataLowWater = mark
      } else if !words[8].isEmpty {
        return nil
      }
      self = .working(details)
    }
  }

  /// As the kernel prints it: the status of a working pool ends with a blank.
  public var parameters: String {
    switch self {
    case .failed: return "Fail"
    case .error: return "Error"
    case .working(let details):
      let root = details.heldRoot.map { "\($0)" } ?? "-"
      let policy =
        "\(details.mode.rawValue) \(details.discards.rawValue) \(details.noSpace.rawValue)"
      let check = details.needsCheck ? "needs_check" : "-"
      let mark = details.metadataLowWater.map { "\($0) " } ?? ""
      return "\(details.transactionID) \(details.metadata) \(details.data) \(root) \(policy) "
        + "\(check) \(mark)"
    }
  }
}

/// The status of a thin device.
public enum ThinStatus: Hashable, Sendable {
  /// The number of mapped sectors, and the highest one, which is nil if none is mapped.
  case working(mappedSectors: UInt64, highestSector: UInt64?)
  /// `-`: not open in the pool.
  case closed
  /// `Fail`: the pool serves no I/O any more.
  case failed
  /// `Error`: its mappings could not be read.
  case error

  /// Parses the parameters of a status line; nil if they are not a thin device's.
  public init?(_ parameters: String) {
    switch parameters {
    case "-": self = .closed
    case "Fail": self = .failed
    case "Error": self = .error
    default:
      let words = parameters.split(separator: " ", omittingEmptySubsequences: false)
      guard words.count == 2, let mapped = plain(words[0]) else { return nil }
      let highest = plain(words[1])
      guard highest != nil || words[1] == "-" else { return nil }
      self = .working(mappedSectors: mapped, highestSector: highest)
    }
  }

  /// As the kernel prints it.
  public var parameters: String {
    switch self {
    case .closed: "-"
    case .failed: "Fail"
    case .error: "Error"
    case .working(let mapped, let highest): "\(mapped) \(highest.map { "\($0)" } ?? "-")"
    }
  }
}
