import BlockIO
import PersistentData
public import ThinFormat
import ThinMetadata

/// A whole generation of a pool that is newer than the superblock's, or may be.
public struct NewerGeneration: Equatable, Sendable {
  /// What is known of its age.
  public enum Age: String, Sendable {
    /// It is the newest.
    case newest
    /// It is newer than the superblock's; of several that are, it cannot be told which is the newest.
    case newer
    /// The places of blocks do not tell which is newer.
    case uncertain
    /// It is probably older, but the places of blocks would allow that it is newer.
    case unlikely
    /// It is one transaction newer: a crash before the superblock was written leaves that, too.
    case interrupted

    /// Whether the superblock is an old one.
    public var isNewer: Bool { self == .newest || self == .newer }
  }

  /// The metadata index block that names it; `thin_dump --repair --generation` takes it.
  public var block: MetadataBlock
  /// Thin devices.
  public var deviceCount: Int
  /// Mappings of all devices.
  public var mappedBlocks: UInt64
  /// What is known of its age.
  public var age: Age

  /// What was found, for people: one sentence or two.
  public var sentence: String {
    let what = "with \(deviceCount) devices and \(mappedBlocks) mappings (block \(block))"
    return switch age {
    case .newest:
      "The superblock is an old one that was written back: a newer generation is on the device, whole, "
        + "\(what)."
    case .newer:
      "The superblock is an old one that was written back: a newer generation is on the device, whole, "
        + "\(what). Which of the newer ones is the newest cannot be told for certain."
    case .uncertain:
      "The superblock may be an old one: which is newer, its generation or another whole one \(what), "
        + "cannot be told."
    case .unlikely:
      "The superblock's generation is probably the newest, but another whole one \(what), could be newer."
    case .interrupted:
      "One transaction after the superblock's is on the device, whole but for its superblock, as a "
        + "crash leaves it, \(what)."
    }
  }

  init(_ found: NewerGenerations.Found) {
    block = MetadataBlock(found.roots.generation ?? 0)
    deviceCount = found.roots.deviceCount
    mappedBlocks = found.roots.mapped
    age = found.age
  }
}

/// Whether a superblock is the one that was written last.
///
/// A superblock with a good checksum may be an old one that was written back: by a second host that
/// had the pool open, by a mirror's other half, by a copy of the first block. What was committed
/// after it is then still on the device.
///
/// The allocator takes the next free block behind the one that it took last, so what follows a
/// superblock's generation lies right behind its index block, or from block 0 on after an
/// activation (`GenerationChain`). That is where to look: a few blocks of a pool whose superblock is
/// right. Only where something is found there is the device scanned.
///
/// That the superblock is old is certain
///
/// - where another block of metadata was written over its generation's: blocks in use are never
///   written to;
/// - where the metadata has an index block behind the end that the superblock gives it;
/// - where what follows is of a later time or transaction than the superblock says;
/// - where two generations or more follow, one after the other, that have something in common with the
///   superblock's, and nothing follows them, unless the first differs from the superblock's by about as much
///   as all that follow it together. A single one proves nothing: a crash just before the superblock was
///   written leaves that.
struct NewerGenerations: ~Copyable {
  /// A generation, and what is known of its age.
  struct Found {
    var roots: RootScan.Roots
    var age: NewerGeneration.Age
  }

  private let reader: BlockReader
  private let superblock: Superblock
  private var order: GenerationOrder

  init(_ reader: BlockReader, _ superblock: Superblock) {
    self.reader = reader
    self.superblock = superblock
    order = GenerationOrder(reader)
  }

  /// The generation that is newer than the superblock's, or may be; nil where there is none.
  /// - Parameters:
  ///   - damage: what is wrong with the superblock's own.
  ///   - scan: scans the device only where needed.
  mutating func find(_ damage: GenerationDamage, _ scan: inout RootScan) -> Found? {
    guard var found = follower(damage, &scan) else { return nil }
    let own = RootScan.Roots(
      mappingRoot: superblock.mappingRoot, detailsRoot: superblock.detailsRoot,
      time: superblock.time, transactionID: superblock.transactionID, candidates: 0)
    let succession = Succession(reader)
    // Where its own blocks were used again it has what is later, and proves nothing.
    guard succession.latestTime(of: own) <= superblock.time else { return found }
    guard succession.canFollow(found.roots, own) else { return nil }
    // Media that failed explain what is lost just as well, if its own can be the later one.
    if found.age == .newer, damage.isDamaged, damage.overwritten == 0, !isLater(found.roots),
      succession.canFollow(own, found.roots)
    {
      found.age = .uncertain
    }
    return found
  }

  /// The same by the places of blocks alone.
  private mutating func follower(_ damage: GenerationDamage, _ scan: inout RootScan) -> Found? {
    order.readsLeft = damage.isDamaged ? 1 << 18 : 1024
    let own = order.own(superblock)
    if damage.overwritten > 1 || isIndexOverwritten() || hasIndexBeyond() {
      return newest(&scan, own)
    }
    guard let own else { return nil }
    let quick = order.chain(from: own)
    guard quick.generations.count > 1 else { return nil }
    order = GenerationOrder(reader, indexBlocks: scan.allIndexBlocks())
    let chain = order.chain(from: own)
    let found =
      switch chain.end {
      case .open: successor(in: chain.generations, &scan)
      case .circle(let newest, let isClear): inCircle(chain.generations, newest, isClear, &scan)
      case .unclear: inCircle(chain.generations, chain.generations.count - 1, false, &scan)
      }
    return found.flatMap { isOwn($0.roots) ? nil : $0 }
  }

  private func isOwn(_ roots: RootScan.Roots) -> Bool {
    roots.mappingRoot == superblock.mappingRoot && roots.detailsRoot == superblock.detailsRoot
  }

  /// Whether the details name a later time or transaction than the superblock.
  private func isLater(_ roots: RootScan.Roots) -> Bool {
    roots.time > superblock.time || roots.transactionID > superblock.transactionID &+ 1
  }

  // MARK: - The superblock's generation is lost

  /// Whether the superblock's index block, or one of its bitmaps, is sound as something else.
  private mutating func isIndexOverwritten() -> Bool {
    let root = superblock.metadataSpaceMap.bitmapRoot
    guard root < reader.blockCount, let kind = soundKind(of: root, reader) else { return false }
    guard kind == .index, let index = order.index(root) else { return kind != .index }
    return index.bitmaps.contains {
      let kind = soundKind(of: $0, reader)
      return kind != nil && kind != .bitmap
    }
  }

  /// Whether there is an index block where the superblock's metadata has not been yet.
  private mutating func hasIndexBeyond() -> Bool {
    var block = superblock.metadataSpaceMap.blockCount
    let end = min(reader.blockCount, block &+ 64)
    while block < end {
      if soundKind(of: block, reader) == .index { return true }
      block += 1
    }
    return false
  }

  private mutating func newest(_ scan: inout RootScan, _ own: GenerationOrder.Index?) -> Found? {
    let ends = scan.completeEnds()
    guard let latest = ends.first, !isOwn(latest) else { return nil }
    return Found(roots: latest, age: ends.count == 1 ? .newest : .newer)
  }

  // MARK: - What follows it

  /// The last whole one of those that follow the superblock's.
  private mutating func successor(
    in generations: [GenerationOrder.Index], _ scan: inout RootScan
  ) -> Found? {
    guard let last = scan.latestWhole(of: Array(generations.dropFirst().suffix(8).reversed())),
      let place = generations.firstIndex(where: { $0.block == last.generation })
    else { return nil }
    if place == 1 { return Found(roots: last, age: .interrupted) }
    guard last.isComplete, scan.haveCommonContent(superblock.mappingRoot, last.mappingRoot),
      isLater(last) || !order.mayBeginWithTurn(generations)
    else {
      return Found(roots: last, age: .uncertain)
    }
    let ends = scan.completeEnds()
    let rivals = ends.count { $0.generation != last.generation }
    return Found(roots: last, age: rivals == 0 ? .newest : .newer)
  }

  private mutating func inCircle(
    _ generations: [GenerationOrder.Index], _ newest: Int, _ isClear: Bool,
    _ scan: inout RootScan
  ) -> Found? {
    let isOwn = newest == 0 && isClear
    var candidates = Array(generations[...newest].dropFirst().suffix(4).reversed())
    candidates += generations[(newest + 1)...].suffix(4).reversed()
    guard let found = scan.latestWhole(of: candidates) else { return nil }
    if isLater(found) { return Found(roots: found, age: isClear ? .newest : .newer) }
    if isOwn { return Found(roots: found, age: .unlikely) }
    return Found(roots: found, age: generations.count == 2 ? .interrupted : .uncertain)
  }
}

extension GenerationOrder {
  /// The superblock's own generation; nil where its index block, or one of its bitmaps, has been
  /// lost or overwritten.
  mutating func own(_ superblock: Superblock) -> Index? {
    let map = superblock.metadataSpaceMap
    guard map.bitmapRoot < reader.blockCount, let own = index(map.bitmapRoot),
      UInt64(own.bitmaps.count) == map.bitmapCount
    else { return nil }
    var used: UInt64 = 0
    for block in own.bitmaps {
      guard let bitmap = bitmap(block) else { return nil }
      used += UInt64((0..<Limits.entriesPerBitmap).count { bitmap.isUsed($0) })
    }
    return used == map.allocated ? own : nil
  }
}

/// What is wrong with a generation.
struct GenerationDamage {
  /// Whether anything is.
  var isDamaged = false
  /// Nodes in whose place another sound block is: written later, where media that fail leave no right
  /// checksum.
  var overwritten = 0

  /// Of a generation of which nothing can be entered.
  static var rootsLost: Self { Self(isDamaged: true) }

  /// Takes in what is wrong with a tree.
  mutating func add(_ fault: TreeFault) {
    if fault.isFatal { isDamaged = true }
    guard case .unusable(.format(let error)) = fault.problem else { return }
    switch error {
    case .wrongKind, .field(.valueSize, _, _): overwritten += 1
    default: break
    }
  }
}
