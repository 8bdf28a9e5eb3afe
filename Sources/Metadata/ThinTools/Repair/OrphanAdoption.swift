import PersistentData
import ThinFormat

/// Which of two orphans that fit into one place is taken.
public enum OrphanChoice: String, Sendable, CaseIterable {
  /// The one with the later mappings.
  case newest
  /// The one with the earlier mappings.
  case oldest
  /// Neither.
  case none
}

/// Puts orphans into the holes that lost nodes left.
///
/// An orphan is put into a hole whose range of keys has its own, which is deeper than it, whose devices lack
/// as many mappings as it has, and where nothing else stands. It must not fit elsewhere, unless it is missed
/// so often; and no other orphan may fit in the same place. Where several places or orphans fit, the one
/// counts to which an earlier tree of the device led; what is adopted by that is doubtful. Where everything
/// is doubtful, since something else may be lost as well, what has exactly the mappings lacking goes first.
struct OrphanAdoption {
  /// What stands in the place of a lost node.
  struct Child: Equatable {
    var block: UInt64
    var firstKey: UInt64
    var lastKey: UInt64
    /// Whether another one would have fitted.
    var isDoubtful: Bool
  }

  /// An orphan that fits, but not for certain.
  struct Unclear: Equatable {
    var orphan: Orphan
    /// Devices into whose tree it fits.
    var owners: [UInt64]
  }

  private struct Hole {
    var block: UInt64
    var range: Range<UInt64>
    var height: Int?
    var owners: [UInt64]

    func fits(_ extent: TreeForest.Extent) -> Bool {
      range.lowerBound <= extent.firstKey && extent.lastKey < range.upperBound
        && (height.map { extent.height < $0 } ?? true)
    }
  }

  private let kind: TreeKind
  private let forest: TreeForest
  private let roots: [(id: UInt64, root: UInt64)]
  /// Mappings that devices lack by their details.
  private var lacking: [UInt64: UInt64]
  /// Whether what is found may be something else's that is lost as well.
  var isDoubtful = false
  /// What trees of mappings led to earlier, where that is known.
  var earlier: EarlierNodes?
  /// What was put in the place of lost nodes, by their block, in ascending order of keys.
  private(set) var adopted: [UInt64: [Child]] = [:]
  /// Orphans that were not put anywhere though they fit.
  private(set) var unclear: [Unclear] = []

  /// - Parameters:
  ///   - roots: of trees of `kind`, verified, by device.
  ///   - lacking: how many mappings each device has less than its details say, where that is known.
  init(
    _ kind: TreeKind, _ forest: TreeForest, roots: [(id: UInt64, root: UInt64)],
    lacking: [UInt64: UInt64]
  ) {
    self.kind = kind
    self.forest = forest
    self.roots = roots
    self.lacking = lacking
  }

  /// Puts `orphans` where they belong.
  mutating func run(_ orphans: [Orphan], choice: OrphanChoice) {
    var left = orphans
    // A subtree before its own parts, which fit wherever it fits.
    let heights = Set(orphans.map(\.extent.height)).sorted(by: >)
    if isDoubtful && kind == .mappings { placeExact(&left) }
    for height in heights {
      while place(&left, height, isDoubtful: isDoubtful, where: { _, _ in true }) {}
    }
    if let earlier {
      for height in heights {
        while place(
          &left, height, isDoubtful: true,
          where: { hole, orphan in
            hole.owners.contains {
              earlier.led($0, to: orphan.block, orphan.extent.firstKey, orphan.extent.lastKey)
            }
          })
        {}
      }
    }
    if choice != .none {
      left.sort {
        choice == .newest
          ? ($0.latestTime, $0.block) > ($1.latestTime, $1.block)
          : ($0.latestTime, $0.block) < ($1.latestTime, $1.block)
      }
      for i in left.indices {
        for hole in holes() where left[i].missing > 0 && isFree(hole, left[i].extent) {
          put(&left[i], hole, isDoubtful: true)
        }
      }
    }
    let holes = self.holes()
    for orphan in left where orphan.missing > 0 {
      let owners = holes.filter { isFree($0, orphan.extent) }.flatMap(\.owners)
      if !owners.isEmpty {
        unclear.append(Unclear(orphan: orphan, owners: Set(owners).sorted()))
      }
    }
  }

  /// Puts into holes what has exactly the mappings that their devices lack, where there is one way to do so.
  /// What fits and is something else's rarely has.
  private mutating func placeExact(_ left: inout [Orphan]) {
    let holes = self.holes()
    var places: [UInt64: Int] = [:]
    for hole in holes { for owner in hole.owners { places[owner, default: 0] += 1 } }
    var found: [(hole: Hole, parts: [Int])] = []
    var claims: [Int: UInt32] = [:]
    for hole in holes {
      guard let lacks = hole.owners.first.flatMap({ lacking[$0] }), lacks > 0,
        hole.owners.allSatisfy({ lacking[$0] == lacks && places[$0] == 1 }),
        let parts = onlyParts(left, of: hole, lacks)
      else { continue }
      found.append((hole, parts))
      for i in parts { claims[i, default: 0] += 1 }
    }
    found.removeAll { $0.parts.contains { claims[$0] ?? 0 > left[$0].missing } }
    for (hole, parts) in found {
      for i in parts { put(&left[i], hole, isDoubtful: true) }
    }
  }

  /// The only orphans of one height that fit into a hole beside each other and have so many mappings; nil
  /// where there are none, or several ways.
  private func onlyParts(_ left: [Orphan], of hole: Hole, _ mapped: UInt64) -> [Int]? {
    var only: [Int]?
    for height in Set(left.map(\.extent.height)) {
      var fitting = left.indices.filter {
        left[$0].missing > 0 && left[$0].extent.height == height && isFree(hole, left[$0].extent)
      }
      fitting.sort { left[$0].extent.firstKey < left[$1].extent.firstKey }
      guard let parts = ExactParts.only(fitting.map { left[$0].extent }, mapped: mapped) else {
        continue
      }
      if only != nil { return nil }
      only = parts.map { fitting[$0] }
    }
    return only
  }

  /// Puts those of a height that belong into one place of those that `fits` allows; returns whether there
  /// were any.
  private mutating func place(
    _ left: inout [Orphan], _ height: Int, isDoubtful: Bool, where fits: (Hole, Orphan) -> Bool
  ) -> Bool {
    let holes = self.holes()
    guard !holes.isEmpty else { return false }
    let rivals = left.indices.filter { left[$0].missing > 0 && left[$0].extent.height == height }
    let places = rivals.map { i in
      holes.indices.filter { isFree(holes[$0], left[i].extent) && fits(holes[$0], left[i]) }
    }
    var byHole: [Int: [Int]] = [:]
    for (i, fitting) in zip(rivals, places) {
      for hole in fitting { byHole[hole, default: []].append(i) }
    }
    var contested: Set<Int> = []
    for (_, candidates) in byHole {
      let sorted = candidates.sorted { left[$0].extent.firstKey < left[$1].extent.firstKey }
      var last = sorted[0]
      for next in sorted.dropFirst() {
        if left[next].extent.firstKey <= left[last].extent.lastKey {
          contested.formUnion([last, next])
        }
        if left[next].extent.lastKey > left[last].extent.lastKey { last = next }
      }
    }
    var hasPlaced = false
    for (i, fitting) in zip(rivals, places)
    where !fitting.isEmpty && !contested.contains(i) && Int(left[i].missing) >= fitting.count {
      for hole in fitting where isFree(holes[hole], left[i].extent) {
        put(&left[i], holes[hole], isDoubtful: isDoubtful)
        hasPlaced = true
      }
    }
    return hasPlaced
  }

  private mutating func put(_ orphan: inout Orphan, _ hole: Hole, isDoubtful: Bool) {
    orphan.missing -= 1
    let child = Child(
      block: orphan.block, firstKey: orphan.extent.firstKey, lastKey: orphan.extent.lastKey,
      isDoubtful: isDoubtful)
    var children = adopted[hole.block] ?? []
    children.insert(
      child, at: children.firstIndex { $0.firstKey > child.lastKey } ?? children.count)
    adopted[hole.block] = children
    forest.adopt(children.map { ($0.firstKey, $0.block) }, inPlaceOf: hole.block)
    for owner in hole.owners {
      if let lacks = lacking[owner] {
        lacking[owner] = lacks - min(lacks, orphan.extent.leafEntries)
      }
    }
  }

  /// Whether an orphan fits into a hole, beside what was put there.
  private func isFree(_ hole: Hole, _ extent: TreeForest.Extent) -> Bool {
    guard hole.fits(extent) else { return false }
    if kind == .mappings {
      for owner in hole.owners where (lacking[owner] ?? .max) < extent.leafEntries { return false }
    }
    return (adopted[hole.block] ?? []).allSatisfy {
      extent.lastKey < $0.firstKey || extent.firstKey > $0.lastKey
    }
  }

  /// Places of lost nodes. One node may be in the trees of many devices; what is below it fits all.
  private func holes() -> [Hole] {
    var holes: [UInt64: Hole] = [:]
    for (id, root) in roots {
      forest.forEachHole(kind, root: root) { found in
        guard found.isUnusable || found.isAdopted else { return true }
        guard var known = holes[found.block] else {
          holes[found.block] = Hole(
            block: found.block, range: found.range, height: found.height, owners: [id])
          return true
        }
        known.range = known.range.clamped(to: found.range)
        known.height = known.height ?? found.height
        if known.owners.last != id { known.owners.append(id) }
        holes[found.block] = known
        return true
      }
    }
    return holes.values.sorted { $0.block < $1.block }
  }
}
