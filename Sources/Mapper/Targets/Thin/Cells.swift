import DataPath

/// Blocks of a thin device that are being worked on. Requests to them wait, in the order in which they came.
///
/// Invariant: it keeps the one job that works on its blocks alive until the blocks are unlocked.
final class Cell {
  let id: UInt64
  let blocks: Range<UInt64>
  private var waiters = RequestQueue()
  private var preparation: Preparation?
  private var discard: DiscardJob?

  fileprivate init(id: UInt64, blocks: Range<UInt64>) {
    self.id = id
    self.blocks = blocks
  }

  /// Keeps the job of these blocks.
  func keep(_ job: Preparation) { preparation = job }
  func keep(_ job: DiscardJob) { discard = job }

  /// Has a part wait until the blocks are unlocked.
  func wait(_ part: RequestPointer) { unsafe waiters.append(part) }

  /// Puts a read or write into the block that is being prepared, or has it wait.
  func add(_ part: RequestPointer) {
    if unsafe preparation?.merge(part) != true { unsafe wait(part) }
  }

  fileprivate func wait(_ parts: RequestQueue) { waiters.append(contentsOf: parts) }

  /// Ends the job, and returns what waited for it.
  fileprivate func end() -> RequestQueue {
    preparation = nil
    discard = nil
    return waiters.takeAll()
  }
}

/// The blocks of a pool's thin devices that are locked.
///
/// Invariants: a block is covered by one cell at most. The mapping cache knows nothing of a locked block.
final class Cells {
  private struct Key: Hashable {
    var id: UInt64
    var block: UInt64
  }

  /// Cells of one block, made by writes.
  @safe @exclusivity(unchecked) private var blocks: [Key: Cell] = [:]
  /// Cells of any number of blocks, made by discards.
  @safe @exclusivity(unchecked) private var ranges: [Cell] = []

  /// Whether one write alone has its block locked.
  var hasOneBlock: Bool { blocks.count == 1 }

  /// The cell that covers a block.
  func find(_ id: UInt64, _ block: UInt64) -> Cell? {
    if !blocks.isEmpty, let cell = blocks[Key(id: id, block: block)] { return cell }
    return ranges.first { $0.id == id && $0.blocks.contains(block) }
  }

  /// A cell that covers any of these blocks.
  func find(_ id: UInt64, _ range: Range<UInt64>) -> Cell? {
    if let cell = ranges.first(where: { $0.id == id && $0.blocks.overlaps(range) }) { return cell }
    return blocks.values.first { $0.id == id && range.contains($0.blocks.lowerBound) }
  }

  /// Locks a block.
  func lock(_ thin: OpenThin, _ block: UInt64) -> Cell {
    thin.cache.forget(block)
    let cell = Cell(id: thin.id, blocks: block..<(block + 1))
    blocks[Key(id: thin.id, block: block)] = cell
    return cell
  }

  /// Locks a range of blocks.
  func lock(_ thin: OpenThin, _ range: Range<UInt64>) -> Cell {
    thin.cache.forget(range)
    let cell = Cell(id: thin.id, blocks: range)
    ranges.append(cell)
    return cell
  }

  /// Unlocks a cell's blocks, and calls `again` for each part that waited. Returns how often that was.
  func unlock(_ cell: Cell, _ again: (RequestPointer) -> Void) -> Int {
    if ranges.contains(where: { $0 === cell }) {
      ranges.removeAll { $0 === cell }
    } else {
      blocks[Key(id: cell.id, block: cell.blocks.lowerBound)] = nil
    }
    var waiters = cell.end()
    var count = 0
    while let part = unsafe waiters.takeFirst() {
      unsafe again(part)
      count += 1
      // Where many discard the same blocks, each of the others would have to wait for the next one by itself.
      if let next = ranges.last, next.id == cell.id, next.blocks.contains(cell.blocks) {
        next.wait(waiters)
        break
      }
    }
    return count
  }
}
