/// A set of block numbers below a fixed limit, one bit each.
@safe public struct Bitset: ~Copyable {
  private let words: UnsafeMutablePointer<UInt64>
  private let wordCount: Int

  /// An empty set of numbers below `limit`.
  public init(limit: UInt64) {
    wordCount = Int(limit / 64) + 1
    unsafe words = .allocate(capacity: wordCount)
    unsafe words.initialize(repeating: 0, count: wordCount)
  }

  deinit { unsafe words.deallocate() }

  /// Whether `block` is a member. A number beyond the limit, as a damaged node may hold, is none.
  public func contains(_ block: UInt64) -> Bool {
    let word = Int(block >> 6)
    return unsafe word < wordCount && words[word] >> (block & 63) & 1 == 1
  }

  /// Adds `block`. Returns whether it was new.
  /// - Precondition: it is below the limit.
  @discardableResult
  public mutating func insert(_ block: UInt64) -> Bool {
    let word = Int(block >> 6)
    precondition(word < wordCount)
    let bit: UInt64 = 1 << (block & 63)
    let old = unsafe words[word]
    unsafe words[word] = old | bit
    return old & bit == 0
  }

  /// Removes `block`.
  /// - Precondition: it is below the limit.
  public mutating func remove(_ block: UInt64) {
    let word = Int(block >> 6)
    precondition(word < wordCount)
    unsafe words[word] &= ~(1 << (block & 63))
  }

  /// Empties the set.
  public mutating func removeAll() { unsafe words.update(repeating: 0, count: wordCount) }

  /// The smallest member that is at least `start`.
  public func first(from start: UInt64) -> UInt64? {
    var word = Int(start >> 6)
    guard word < wordCount else { return nil }
    var bits = unsafe words[word] & (UInt64.max << (start & 63))
    while bits == 0 {
      word += 1
      if word == wordCount { return nil }
      bits = unsafe words[word]
    }
    return UInt64(word) << 6 | UInt64(bits.trailingZeroBitCount)
  }

  /// The number of members.
  public var count: Int {
    var n = 0
    for i in 0..<wordCount { unsafe n += words[i].nonzeroBitCount }
    return n
  }
}
