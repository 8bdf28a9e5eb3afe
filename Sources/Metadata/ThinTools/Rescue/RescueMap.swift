/// Which parts of an image are there, in the form of GNU ddrescue's mapfile, which its viewers read.
///
/// Memory: 16 bytes for each change of status.
public struct RescueMap: Equatable, Sendable {
  /// The status of a part, by ddrescue's signs.
  public enum Status: Character, CaseIterable, Sendable {
    /// Not tried.
    case untried = "?"
    /// A long piece that failed as a whole.
    case untrimmed = "*"
    /// A piece that is still to be read sector by sector.
    case unscraped = "/"
    /// Lost, or cannot be read.
    case bad = "-"
    /// In the image.
    case finished = "+"
  }

  private struct Entry: Equatable, Sendable {
    var begin: UInt64
    var status: Status
  }

  /// Size of the image in bytes.
  public let byteCount: UInt64
  /// What is being done, as the first sign of the status line.
  public var phase = Status.untried
  /// Where it is being done.
  public var position: UInt64 = 0
  /// Each reaches to the next one; neighbours differ.
  private var entries: [Entry]

  /// A map of an image of which nothing was tried.
  public init(byteCount: UInt64) {
    self.byteCount = byteCount
    entries = byteCount == 0 ? [] : [Entry(begin: 0, status: .untried)]
  }

  /// The number of parts.
  public var count: Int { entries.count }
  /// Whether nothing is left to be tried.
  public var isComplete: Bool { entries.allSatisfy { $0.status == .finished } }

  /// The number of the part that has a byte.
  private func number(of byte: UInt64) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].begin <= byte { low = middle + 1 } else { high = middle }
    }
    return low - 1
  }

  private func end(of number: Int) -> UInt64 {
    number + 1 < entries.count ? entries[number + 1].begin : byteCount
  }

  /// Gives a range a status.
  /// - Precondition: it is within the image.
  public mutating func set(_ range: Range<UInt64>, _ status: Status) {
    guard !range.isEmpty else { return }
    precondition(range.upperBound <= byteCount)
    let first = number(of: range.lowerBound)
    let last = number(of: range.upperBound - 1)
    var parts: [Entry] = []
    if entries[first].begin < range.lowerBound { parts.append(entries[first]) }
    parts.append(Entry(begin: range.lowerBound, status: status))
    if end(of: last) > range.upperBound {
      parts.append(Entry(begin: range.upperBound, status: entries[last].status))
    }
    // Parts beside it of the same status become one with it.
    let from = max(0, first - 1)
    let to = min(entries.count, last + 2)
    var merged: [Entry] = []
    for part in entries[from..<first] + parts + entries[(last + 1)..<to]
    where merged.last?.status != part.status { merged.append(part) }
    entries.replaceSubrange(from..<to, with: merged)
  }

  /// The first part at or after `byte` that has one of these statuses.
  public func next(from byte: UInt64, _ statuses: Set<Status>) -> Range<UInt64>? {
    guard byte < byteCount else { return nil }
    for number in number(of: byte)..<entries.count
    where statuses.contains(entries[number].status) {
      return max(byte, entries[number].begin)..<end(of: number)
    }
    return nil
  }

  /// All parts in order.
  public func forEach<E: Error>(_ body: (Range<UInt64>, Status) throws(E) -> Void) throws(E) {
    for number in entries.indices {
      try body(entries[number].begin..<end(of: number), entries[number].status)
    }
  }

  /// Bytes of a status.
  public func bytes(_ status: Status) -> UInt64 {
    var sum: UInt64 = 0
    forEach { if $1 == status { sum += $0.upperBound - $0.lowerBound } }
    return sum
  }

  // MARK: - Text

  /// The most bytes of a file with a map.
  public static var fileBytesMax: Int { 256 << 20 }

  /// The text of the map.
  /// - Parameter comments: lines without a mark.
  public func text(comments: [String]) -> String {
    var text = ""
    for line in comments {
      // Names of files may have any characters.
      text += "# " + String(line.unicodeScalars.map { $0.value < 32 ? "?" : Character($0) }) + "\n"
    }
    text += "# current_pos  current_status  current_pass\n"
    text += "\(Self.hex(position))     \(isComplete ? "+" : phase.rawValue)               1\n"
    text += "#      pos        size  status\n"
    forEach { range, status in
      text +=
        "\(Self.hex(range.lowerBound))  \(Self.hex(range.upperBound - range.lowerBound))  "
        + "\(status.rawValue)\n"
    }
    return text
  }

  private static func hex(_ number: UInt64) -> String {
    let digits = String(number, radix: 16, uppercase: true)
    return "0x" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits
  }

  /// Reads a map, of which nothing is trusted.
  /// - Returns: the map, and its comments without their marks.
  /// - Throws: `unsuitable` with the line at which it is malformed.
  public static func parse(_ bytes: [UInt8], path: String) throws(ToolError) -> (
    map: RescueMap, comments: [String]
  ) {
    var comments: [String] = []
    var entries: [Entry] = []
    var head: (position: UInt64, phase: Status)?
    var end: UInt64 = 0
    for (number, line) in bytes.split(
      separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false
    ).enumerated() {
      func malformed(_ expected: String) -> ToolError {
        ToolError(
          .unsuitable(.output),
          "\(path), line \(number + 1): expected \(expected): it is not a map of an image")
      }
      let words = line.split(whereSeparator: { $0 == 0x20 || $0 == 0x09 || $0 == 0x0d })
      guard let first = words.first else { continue }
      if first.first == UInt8(ascii: "#") {
        if comments.count < 1000 {
          comments.append(String(decoding: line.dropFirst().drop { $0 == 0x20 }, as: UTF8.self))
        }
        continue
      }
      guard head != nil else {
        guard words.count == 2 || words.count == 3, let position = Self.number(first),
          words[1].count == 1, let sign = words[1].first
        else { throw malformed("a position and a status") }
        let phase = Status(rawValue: Character(UnicodeScalar(sign)))
        guard phase != nil || sign == UInt8(ascii: "F") || sign == UInt8(ascii: "G") else {
          throw malformed("a status")
        }
        head = (position, phase ?? .untried)
        continue
      }
      guard words.count == 3, let begin = Self.number(first), let size = Self.number(words[1]),
        words[2].count == 1, let sign = words[2].first,
        let status = Status(rawValue: Character(UnicodeScalar(sign)))
      else { throw malformed("a position, a size and a status") }
      guard begin == end, size > 0, size <= UInt64(Int64.max) - end else {
        throw malformed("a part that begins at \(hex(end)), where the one before ends")
      }
      if entries.last?.status != status { entries.append(Entry(begin: begin, status: status)) }
      end = begin + size
    }
    guard let head else {
      throw ToolError(.unsuitable(.output), "\(path): it is empty, not a map of an image")
    }
    var map = RescueMap(byteCount: end)
    map.entries = entries
    (map.position, map.phase) = head
    return (map, comments)
  }

  private static func number(_ word: ArraySlice<UInt8>) -> UInt64? {
    let text = String(decoding: word, as: UTF8.self)
    return text.hasPrefix("0x") || text.hasPrefix("0X")
      ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
  }
}
