/// A target of a table: its type with what the type's parameters say.
public enum Target: Hashable, Sendable {
  case linear(LinearTarget)
  case striped(StripedTarget)
  case zero(ZeroTarget)
  case error(ErrorTarget)
  case delay(DelayTarget)
  case flakey(FlakeyTarget)
  case thinPool(ThinPoolTarget)
  case thin(ThinTarget)
  case snapshot(SnapshotTarget)
  case snapshotMerge(SnapshotTarget)
  case snapshotOrigin(SnapshotOriginTarget)
  case crypt(CryptTarget)
  /// A thin device whose pool has failed prints `Fail` or `Error` for a table, or `-` when it is
  /// closed.
  case brokenThin(ThinStatus)
  /// A type that is not known here, with its parameters as they are.
  case other(type: String, parameters: String)

  /// Understands a table line, with the constructor's checks in the kernel's order. A type that is
  /// not known is no error.
  /// - Parameter opener: opens devices when the constructor would; nil opens nothing.
  public init(_ line: TableLine, opener: DeviceOpener? = nil) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    switch line.type {
    case "linear": self = .linear(try LinearTarget(words, opener: opener))
    case "striped":
      self = .striped(try StripedTarget(words, length: line.length, opener: opener))
    case "zero": self = .zero(try ZeroTarget(words))
    case "error": self = .error(ErrorTarget())
    case "delay": self = .delay(try DelayTarget(words, opener: opener))
    case "flakey": self = .flakey(try FlakeyTarget(words, opener: opener))
    case "thin-pool": self = .thinPool(try ThinPoolTarget(words, opener: opener))
    case "thin": self = .thin(try ThinTarget(words, opener: opener))
    case "snapshot": self = .snapshot(try SnapshotTarget(words, opener: opener))
    case "snapshot-merge":
      self = .snapshotMerge(try SnapshotTarget(words, merging: true, opener: opener))
    case "snapshot-origin":
      self = .snapshotOrigin(try SnapshotOriginTarget(words, opener: opener))
    case "crypt":
      self = .crypt(try CryptTarget(words, length: line.length, opener: opener))
    default: self = .other(type: line.type, parameters: line.parameters)
    }
  }

  /// Understands a line of a table query, where a thin device may have lost its pool.
  public init(printed line: TableLine) throws(TargetError) {
    if line.type == "thin", let status = ThinStatus(line.parameters),
      !line.parameters.contains(" ")
    {
      self = .brokenThin(status)
    } else {
      try self.init(line)
    }
  }

  /// The name of the type.
  public var type: String {
    switch self {
    case .linear: "linear"
    case .striped: "striped"
    case .zero: "zero"
    case .error: "error"
    case .delay: "delay"
    case .flakey: "flakey"
    case .thinPool: "thin-pool"
    case .thin, .brokenThin: "thin"
    case .snapshot: "snapshot"
    case .snapshotMerge: "snapshot-merge"
    case .snapshotOrigin: "snapshot-origin"
    case .crypt: "crypt"
    case .other(let type, _): type
    }
  }

  /// The parameters as the kernel prints them, blanks at the end included.
  public var parameters: String {
    switch self {
    case .linear(let target): target.parameters
    case .striped(let target): target.parameters
    case .zero(let target): target.parameters
    case .error(let target): target.parameters
    case .delay(let target): target.parameters
    case .flakey(let target): target.parameters
    case .thinPool(let target): target.parameters
    case .thin(let target): target.parameters
    case .brokenThin(let status): status.parameters
    case .snapshot(let target), .snapshotMerge(let target): target.parameters
    case .snapshotOrigin(let target): target.parameters
    case .crypt(let target): target.parameters
    case .other(_, let parameters): parameters
    }
  }

  /// A table line with this target.
  public func line(start: UInt64, length: UInt64) -> TableLine {
    TableLine(start: start, length: length, type: type, parameters: parameters)
  }
}

/// What a target says of itself.
public enum TargetStatus: Hashable, Sendable {
  case thinPool(ThinPoolStatus)
  case thin(ThinStatus)
  case snapshot(SnapshotStatus)
  case striped(StripedStatus)
  case delay(DelayStatus)
  /// Types that say nothing.
  case none
  /// A type that is not known here, or a status that makes no sense for its type.
  case other(String)

  /// Understands a line of a status query. There is always an answer: kernels to come may say more.
  public init(_ line: TableLine) {
    let text = line.parameters
    let known: TargetStatus? =
      switch line.type {
      case "thin-pool": ThinPoolStatus(text).map { .thinPool($0) }
      case "thin": ThinStatus(text).map { .thin($0) }
      case "snapshot", "snapshot-merge": SnapshotStatus(text).map { .snapshot($0) }
      case "striped": StripedStatus(text).map { .striped($0) }
      case "delay": DelayStatus(text).map { .delay($0) }
      default: text.isEmpty ? TargetStatus.none : nil
      }
    self = known ?? .other(text)
  }

  /// The parameters as the kernel prints them, blanks at the end included.
  public var parameters: String {
    switch self {
    case .thinPool(let status): status.parameters
    case .thin(let status): status.parameters
    case .snapshot(let status): status.parameters
    case .striped(let status): status.parameters
    case .delay(let status): status.parameters
    case .none: ""
    case .other(let text): text
    }
  }
}

/// What a striped target says of itself: `COUNT DEVICE... 1 LETTERS`.
public struct StripedStatus: Hashable, Sendable {
  /// `major:minor` of each stripe, and whether it has had errors.
  public var stripes: [(device: String, hasFailed: Bool)] {
    zip(devices, failures).map { ($0, $1) }
  }
  private var devices: [String]
  private var failures: [Bool]

  /// The state of each stripe.
  public init(_ stripes: [(device: String, hasFailed: Bool)]) {
    devices = stripes.map(\.device)
    failures = stripes.map(\.hasFailed)
  }

  /// Understands the parameters of a status line; nil where they are none of a striped target's.
  public init?(_ parameters: String) {
    let words = parameters.split(separator: " ", omittingEmptySubsequences: false)
    guard let count = words.first.flatMap(plain), count > 0, words.count >= 4,
      count == words.count - 3, words[words.count - 2] == "1",
      let letters = words.last?.utf8, letters.count == count,
      letters.allSatisfy({ $0 == UInt8(ascii: "A") || $0 == UInt8(ascii: "D") })
    else { return nil }
    devices = words[1..<words.count - 2].map { String($0) }
    failures = letters.map { $0 == UInt8(ascii: "D") }
  }

  /// As the kernel prints it.
  public var parameters: String {
    let letters = failures.map { $0 ? "D" : "A" }.joined()
    return (["\(devices.count)"] + devices + ["1", letters]).joined(separator: " ")
  }
}

/// What a delay target says of itself: how many requests wait.
public struct DelayStatus: Hashable, Sendable {
  /// Reads that wait.
  public var reads: UInt64
  /// Writes that wait.
  public var writes: UInt64
  /// Flushes that wait.
  public var flushes: UInt64

  /// So many of each kind.
  public init(reads: UInt64, writes: UInt64, flushes: UInt64) {
    self.reads = reads
    self.writes = writes
    self.flushes = flushes
  }

  /// Understands the parameters of a status line; nil where they are none of a delay target's.
  public init?(_ parameters: String) {
    let words = parameters.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 3, let reads = plain(words[0]), let writes = plain(words[1]),
      let flushes = plain(words[2])
    else { return nil }
    self.init(reads: reads, writes: writes, flushes: flushes)
  }

  /// As the kernel prints it.
  public var parameters: String { "\(reads) \(writes) \(flushes)" }
}
