/// What a pool can still do; each is worse than the one before.
enum PoolMode: Int, Comparable {
  case write, outOfDataSpace, outOfMetadataSpace, readOnly, fail
  static func < (left: PoolMode, right: PoolMode) -> Bool { left.rawValue < right.rawValue }

  /// As the log has it.
  var text: String {
    switch self {
    case .write: "write"
    case .outOfDataSpace: "out-of-data-space"
    case .outOfMetadataSpace: "read-only"
    case .readOnly: "read-only"
    case .fail: "failure"
    }
  }
}

/// The mode of a pool, and the state of its metadata and files from which its modes follow.
///
/// Invariants: a pool that has failed stays so. One that needs a check, or is only read, does not come to be
/// written to. Metadata is vetted only as long as no look-up has failed.
struct PoolModes {
  private(set) var current = PoolMode.write
  private(set) var needsCheck: Bool
  /// The metadata on the disk says the same as `needsCheck`.
  private var isNeedsCheckWritten = true
  /// A file of the pool was deleted or cut: what is written is lost.
  private(set) var hasLostFile = false
  /// Its metadata was found sound before it was written to, and since.
  private(set) var isVetted: Bool
  /// Its metadata was not checked, as was asked for.
  private(set) var isDoubtful = false
  private var failedLookups = 0

  init(needsCheck: Bool, isVetted: Bool) {
    self.needsCheck = needsCheck
    self.isVetted = isVetted
  }

  /// Goes to a mode, as far as that is allowed; returns the one before.
  mutating func enter(_ wanted: PoolMode, isReadOnly: Bool) -> PoolMode {
    let old = current
    var new = wanted
    if new == .write && needsCheck { new = old == .write ? .readOnly : old }
    if new == .write && isReadOnly { new = .readOnly }
    if old == .fail { new = .fail }
    current = new
    return old
  }

  // MARK: - Check

  /// Changes were lost: the metadata needs a check.
  mutating func requireCheck() {
    needsCheck = true
    isNeedsCheckWritten = false
  }

  /// Whether the metadata has to say yet that it needs a check, and can.
  var owesNeedsCheck: Bool {
    needsCheck && !isNeedsCheckWritten && current != .fail && !hasLostFile
  }

  /// The metadata on the disk says that it needs a check.
  mutating func needsCheckWritten() { isNeedsCheckWritten = true }

  // MARK: - Files and damage

  mutating func noteLostFile() { hasLostFile = true }

  /// Whether the metadata must be checked before it is written to for the first time.
  var needsVerdict: Bool { !isVetted && !isDoubtful }

  mutating func noteSound() { isVetted = true }
  mutating func noteUnchecked() { isDoubtful = true }

  /// A look-up has failed; returns how many have.
  mutating func noteDamage() -> Int {
    isVetted = false
    failedLookups += 1
    return failedLookups
  }

  /// Whether the metadata was found sound and nothing has failed since.
  var isSound: Bool {
    isVetted && !needsCheck && !hasLostFile && current != .fail && current != .readOnly
  }
}
