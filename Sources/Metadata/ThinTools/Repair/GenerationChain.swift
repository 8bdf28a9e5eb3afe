import PersistentData
import ThinFormat

/// Generations that follow each other, oldest first, as far as their blocks tell.
struct GenerationChain {
  /// How a chain ends.
  enum End: Equatable {
    /// Nothing can have followed the last one.
    case open
    /// The first one can have followed the last: where transactions replace everything and are all
    /// of a size, the oldest generation left looks like the successor of the newest. What comes
    /// between two generations that did follow each other is little; between the newest and the
    /// oldest it is about all of that together. `newest` is the one that is followed by most. It
    /// `isClear` where that is so.
    case circle(newest: Int, isClear: Bool)
    /// The last one leads back into the middle of the chain, or there is too much to read.
    case unclear
  }

  var generations: [GenerationOrder.Index]
  var end: End
}

extension GenerationOrder {
  /// Blocks read in a row that hold nothing of a pool, after which nothing follows.
  private static let emptyMax = 64

  /// What followed `start`, generation by generation.
  mutating func chain(from start: Index) -> GenerationChain {
    var chain = GenerationChain(generations: [start], end: .open)
    var places = [start.block: 0]
    while let last = chain.generations.last {
      guard readsLeft > 0 else {
        chain.end = .unclear
        break
      }
      guard let next = next(after: last) else { break }
      if let place = places[next.block] {
        chain.end = place == 0 ? circle(chain.generations) : .unclear
        break
      }
      places[next.block] = chain.generations.count
      chain.generations.append(next)
    }
    return chain
  }

  /// Generations that nothing followed, as far as the device's index blocks tell, those that
  /// perhaps something followed, and by index block what followed all others.
  mutating func ends() -> (
    certain: [Index], doubtful: [Index], followers: [(last: UInt64, next: UInt64)]
  ) {
    guard let known = indexBlocks else { return ([], [], []) }
    var seen: [UInt64: Int] = [:]
    var ends: (certain: [Index], doubtful: [Index]) = ([], [])
    var followers: [(last: UInt64, next: UInt64)] = []
    for (walk, block) in known.enumerated() where seen[block] == nil {
      guard let start = index(block) else { continue }
      var path = [start]
      while let last = path.last {
        seen[last.block] = walk
        guard let (next, wentOn) = follower(of: last) else {
          ends.certain.append(last)
          break
        }
        if wentOn { followers.append((last.block, next.block)) } else { ends.doubtful.append(last) }
        if let before = seen[next.block] {
          guard before == walk, let place = path.firstIndex(where: { $0.block == next.block })
          else {
            break
          }
          let around = Array(path[place...])
          if case .circle(let newest, let isClear) = circle(around) {
            ends.certain.append(around[newest])
            if !isClear { ends.doubtful += around.suffix(8) }
          }
          break
        }
        path.append(next)
      }
    }
    let bitmaps = ends.certain.reduce(0) { max($0, $1.bitmaps.count) }
    func left(_ generations: [Index]) -> [Index] {
      generations.reversed().filter { $0.bitmaps.count == bitmaps && !isOverwritten($0, known) }
    }
    return (left(ends.certain), left(ends.doubtful), followers)
  }

  /// Whether both generations use one of `blocks`; nil where that cannot be told.
  mutating func bothUse(_ a: UInt64, _ b: UInt64, oneOf blocks: borrowing Bitset) -> Bool? {
    guard let a = index(a), let b = index(b) else { return nil }
    for i in 0..<min(a.bitmaps.count, b.bitmaps.count) {
      guard let inA = bitmap(a.bitmaps[i]), let inB = bitmap(b.bitmaps[i]) else { return nil }
      let first = UInt64(i * Limits.entriesPerBitmap)
      var block = first
      while let found = blocks.first(from: block), found < first + UInt64(Limits.entriesPerBitmap) {
        let entry = Int(found - first)
        if inA.isUsed(entry), inB.isUsed(entry) { return true }
        block = found + 1
      }
    }
    return false
  }

  /// Whether an index block of another generation is in a block that this one uses.
  private mutating func isOverwritten(_ generation: Index, _ known: [UInt64]) -> Bool {
    let per = UInt64(Limits.entriesPerBitmap)
    var region: (number: UInt64, bitmap: BitmapCopy)?
    for block in known where block != generation.block {
      let number = block / per
      guard number < UInt64(generation.bitmaps.count) else { continue }
      if region?.number != number {
        guard let map = bitmap(generation.bitmaps[Int(number)]) else { return true }
        region = (number, map)
      }
      if region?.bitmap.isUsed(Int(block % per)) == true { return true }
    }
    return false
  }

  private mutating func circle(_ generations: [Index]) -> GenerationChain.End {
    var links = links(generations)
    links.append(changes(generations[generations.count - 1], generations[0]))
    var newest = 0
    for i in links.indices where links[i] > links[newest] { newest = i }
    let isClear = generations.count > 2 && isTurn(links[newest], of: links)
    return .circle(newest: newest, isClear: isClear)
  }

  /// Whether what follows the first generation is perhaps what is left of the oldest ones: an activation can
  /// have overwritten what followed the last of them, so that they end like the newest. The first link then
  /// has about all changes that the others have together, which a single transaction seldom has.
  mutating func mayBeginWithTurn(_ generations: [Index]) -> Bool {
    let links = links(generations)
    guard let first = links.first, first == links.max() else { return false }
    let others = links.reduce(0, +) - first
    // Of a few transactions, one is often as large as the others together.
    return links.count > 3 ? isTurn(first, of: links) : first >= 5 * others
  }

  /// Whether the largest of all links leads from the newest generation to the oldest.
  private func isTurn(_ largest: Int, of links: [Int]) -> Bool {
    10 * largest >= 6 * (links.reduce(0, +) - largest)
  }

  /// What changed from each generation to the next.
  private mutating func links(_ generations: [Index]) -> [Int] {
    var links: [Int] = []
    for (last, next) in zip(generations, generations.dropFirst()) {
      links.append(changes(last, next))
    }
    return links
  }

  /// How much changed from one generation to the next; 0 where that cannot be told.
  private mutating func changes(_ last: Index, _ next: Index) -> Int {
    guard
      let change = change(last, next, .between) ?? change(last, next, .fromStart)
        ?? change(last, next, .aroundEnd)
    else { return 0 }
    return difference(change)
  }

  /// The generation that follows, if there is one.
  mutating func next(after last: Index) -> Index? { follower(of: last)?.index }

  /// The generation that follows, if there is one, and whether the allocator simply went on: after an
  /// activation more can look as if it followed.
  private mutating func follower(of last: Index) -> (index: Index, wentOn: Bool)? {
    if let next = firstIndex(from: last.block + 1, freeIn: last),
      change(last, next, .between) != nil
    {
      return (next, true)
    }
    guard let next = firstIndex(from: 1, freeIn: last) else { return nil }
    if next.block < last.block, change(last, next, .aroundEnd) != nil { return (next, true) }
    // A first transaction after an activation can be so large that its index block comes behind the last.
    return change(last, next, .fromStart) != nil ? (next, false) : nil
  }

  /// The first index block that lies in a block free in `generation`, from `start` on.
  private mutating func firstIndex(from start: UInt64, freeIn generation: Index) -> Index? {
    let per = UInt64(Limits.entriesPerBitmap)
    var region: (number: UInt64, bitmap: BitmapCopy)?
    /// Whether the block is free; nil where that cannot be read.
    func isFree(_ block: UInt64, _ order: inout GenerationOrder) -> Bool? {
      let number = block / per
      if region?.number != number {
        let isKnown = number < UInt64(generation.bitmaps.count)
        guard let map = isKnown ? order.bitmap(generation.bitmaps[Int(number)]) : .empty else {
          return nil
        }
        region = (number, map)
      }
      return region.map { !$0.bitmap.isUsed(Int(block % per)) }
    }
    if let known = indexBlocks {
      for block in known[known.partitioningIndex(start)...] {
        guard readsLeft > 0, let isFree = isFree(block, &self) else { return nil }
        if isFree { return index(block) }
      }
      return nil
    }
    var empty = 0
    var block = start
    while block < reader.blockCount, empty < Self.emptyMax, readsLeft > 0 {
      defer { block += 1 }
      guard let isFree = isFree(block, &self) else { return nil }
      guard isFree else { continue }
      readsLeft -= 1
      switch soundKind(of: block, reader) {
      case .index: return index(block)
      case nil: empty += 1
      default: empty = 0
      }
    }
    return nil
  }
}

extension [UInt64] {
  /// Where the first element that is not below `value` is, in ascending order.
  fileprivate func partitioningIndex(_ value: UInt64) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if self[middle] < value { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

/// What a block holds by its own account; nil where it is not sound.
func soundKind(of block: UInt64, _ reader: BlockReader) -> BlockKind? {
  let kind = try? reader.withBlock(block) { bytes throws(BlockProblem) -> BlockKind? in
    guard let kind = BlockHeader.kind(of: bytes) else { return nil }
    try requireSound(bytes, number: block, kind: kind)
    return kind
  }
  return kind ?? nil
}
