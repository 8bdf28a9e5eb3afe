import PersistentData

/// Finds subtrees that do not overlap and have a number of mappings together.
///
/// Memory: 24 bytes for each subtree, `partsMax` at most.
struct ExactParts {
  /// Subtrees among which is searched, and steps of the search.
  private static let partsMax = 1024
  private static let stepsMax = 1 << 16
  /// In ascending order of first keys.
  private let parts: [TreeForest.Extent]
  /// For each, the next one that begins behind it.
  private var following: [Int]
  /// The most mappings of each and those behind it, as far as they do not overlap; 0 at the end.
  private var most: [UInt64]
  private var stepsLeft = ExactParts.stepsMax
  private var chosen: [Int] = []
  private var ways: [[Int]] = []

  private init(_ parts: [TreeForest.Extent]) {
    self.parts = parts
    following = Array(repeating: parts.count, count: parts.count)
    most = Array(repeating: 0, count: parts.count + 1)
    for i in parts.indices.reversed() {
      var (low, high) = (i + 1, parts.count)
      while low < high {
        let middle = (low + high) / 2
        if parts[middle].firstKey > parts[i].lastKey { high = middle } else { low = middle + 1 }
      }
      following[i] = low
      most[i] = max(most[i + 1], TreeForest.sum(parts[i].leafEntries, most[following[i]]))
    }
  }

  /// The indices of the parts that have so many mappings together; nil where there is no way or several, or
  /// too many to look at.
  /// - Parameter parts: in ascending order of first keys.
  static func only(_ parts: [TreeForest.Extent], mapped: UInt64) -> [Int]? {
    guard parts.count <= partsMax else { return nil }
    var search = ExactParts(parts)
    search.find(from: 0, mapped)
    return search.ways.count == 1 && search.stepsLeft > 0 ? search.ways[0] : nil
  }

  private mutating func find(from first: Int, _ lacking: UInt64) {
    for i in first..<parts.count {
      guard most[i] >= lacking, ways.count < 2, stepsLeft > 0 else { return }
      stepsLeft -= 1
      guard parts[i].leafEntries <= lacking else { continue }
      chosen.append(i)
      if parts[i].leafEntries == lacking {
        ways.append(chosen)
      } else {
        find(from: following[i], lacking - parts[i].leafEntries)
      }
      chosen.removeLast()
    }
  }
}
