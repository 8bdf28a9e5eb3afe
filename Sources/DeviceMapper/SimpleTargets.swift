/// `linear DEVICE OFFSET`: sectors of another device, in order.
public struct LinearTarget: Hashable, Sendable {
  /// Path or `major:minor`.
  public var device: String
  /// First sector.
  public var offset: UInt64

  /// A range that begins at sector `offset`.
  public init(device: String, offset: UInt64) {
    self.device = device
    self.offset = offset
  }

  /// Understands the words of a table line.
  public init(_ words: [String], opener: DeviceOpener? = nil) throws(TargetError) {
    guard words.count == 2 else { throw TargetError("Invalid argument count") }
    guard let offset = KernelText.scanned(words[1]) else {
      throw TargetError("Invalid device sector")
    }
    try DeviceRequest(words[0]).open(by: opener, orSay: "Device lookup failed")
    self.init(device: words[0], offset: offset)
  }

  /// As a table line has it.
  public var parameters: String { "\(device) \(offset)" }
}

/// `striped COUNT CHUNK (DEVICE OFFSET)...`: chunks from several devices in turn.
public struct StripedTarget: Hashable, Sendable {
  /// Sectors in a chunk; not 0.
  public var chunkSectors: UInt32
  /// Where each stripe begins.
  public var stripes: [LinearTarget]

  /// Chunks of `chunkSectors` from `stripes` in turn.
  public init(chunkSectors: UInt32, stripes: [LinearTarget]) {
    self.chunkSectors = chunkSectors
    self.stripes = stripes
  }

  /// Understands the words of a table line of `length` sectors; nil leaves out what depends on it.
  public init(_ words: [String], length: UInt64? = nil, opener: DeviceOpener? = nil)
    throws(TargetError)
  {
    guard words.count >= 2 else { throw TargetError("Not enough arguments") }
    guard let count = KernelText.strict(words[0], max: UInt64(UInt32.max)), count > 0 else {
      throw TargetError("Invalid stripe count")
    }
    guard let chunk = KernelText.strict(words[1], max: UInt64(UInt32.max)), chunk > 0 else {
      throw TargetError("Invalid chunk_size")
    }
    if let length {
      guard length.isMultiple(of: count) else {
        throw TargetError("Target length not divisible by number of stripes")
      }
      guard (length / count).isMultiple(of: chunk) else {
        throw TargetError("Target length not divisible by chunk size")
      }
    }
    guard UInt64(words.count) == 2 + 2 * count else {
      throw TargetError("Not enough destinations specified")
    }
    self.init(chunkSectors: UInt32(truncatingIfNeeded: chunk), stripes: [])
    for at in stride(from: 2, to: words.count, by: 2) {
      let fault = "Couldn't parse stripe destination"
      guard let offset = KernelText.scanned(words[at + 1]) else { throw TargetError(fault) }
      try DeviceRequest(words[at]).open(by: opener, orSay: fault)
      stripes.append(LinearTarget(device: words[at], offset: offset))
    }
  }

  /// As a table line has it.
  public var parameters: String {
    (["\(stripes.count) \(chunkSectors)"] + stripes.map(\.parameters)).joined(separator: " ")
  }
}

/// `zero`: reads are zeros, writes vanish.
public struct ZeroTarget: Hashable, Sendable {
  /// The target.
  public init() {}

  /// Understands the words of a table line.
  public init(_ words: [String]) throws(TargetError) {
    guard words.isEmpty else { throw TargetError("No arguments required") }
  }

  /// As a table line has it.
  public var parameters: String { "" }
}

/// `error`: all I/O fails. Whatever stands behind it is ignored.
public struct ErrorTarget: Hashable, Sendable {
  /// The target.
  public init() {}

  /// As a table line has it.
  public var parameters: String { "" }
}

/// `delay (DEVICE OFFSET MILLISECONDS)...`, one to three times: reads and writes take longer.
public struct DelayTarget: Hashable, Sendable {
  /// Where one kind of I/O goes, and how late.
  public struct Class: Hashable, Sendable {
    /// Device and first sector.
    public var destination: LinearTarget
    /// Milliseconds.
    public var delay: UInt32

    /// I/O to `destination` that waits `delay` milliseconds.
    public init(destination: LinearTarget, delay: UInt32) {
      self.destination = destination
      self.delay = delay
    }
  }
  /// One for everything; or one for reads and one for the rest; or for reads, writes and flushes.
  public var classes: [Class]

  /// One to three classes.
  public init(classes: [Class]) { self.classes = classes }

  /// Understands the words of a table line.
  public init(_ words: [String], opener: DeviceOpener? = nil) throws(TargetError) {
    guard [3, 6, 9].contains(words.count) else {
      throw TargetError("Requires exactly 3, 6 or 9 arguments")
    }
    classes = []
    for at in stride(from: 0, to: words.count, by: 3) {
      guard let offset = KernelText.scanned(words[at + 1]) else {
        throw TargetError("Invalid device sector")
      }
      guard let delay = KernelText.scanned32(words[at + 2]) else {
        throw TargetError("Invalid delay")
      }
      try DeviceRequest(words[at]).open(by: opener, orSay: "Device lookup failed")
      let destination = LinearTarget(device: words[at], offset: offset)
      classes.append(Class(destination: destination, delay: delay))
    }
  }

  /// As a table line has it.
  public var parameters: String {
    classes.map { "\($0.destination.parameters) \($0.delay)" }.joined(separator: " ")
  }
}
