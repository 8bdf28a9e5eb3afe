import BlockIO
import DataPath
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

// What is not simply a mapped block of one's own. Parts have their offset on the thin device here.
extension ThinDriver {
  // MARK: - Reads and writes

  /// A read or write within one block, which is not mapped, or shared and to be written. Nothing is
  /// being done to it.
  func transferSlowly(_ part: RequestPointer, _ block: UInt64, _ state: BlockState) {
    if unsafe part.pointee.operation == .read { return unsafe readUnmapped(part) }
    switch pool.mode {
    case .write: unsafe prepare(part, block, state)
    case .outOfDataSpace: unsafe waitForSpace(part)
    default: unsafe finishLater(part, EIO)
    }
  }

  /// Zeros, or what the external origin has.
  private func readUnmapped(_ part: RequestPointer) {
    let begin = unsafe part.pointee.offset - startByte
    let count = unsafe UInt64(part.pointee.byteCount)
    guard let origin else {
      unsafe part.pointee.memory.zero(Int(count))
      return unsafe finishLater(part)
    }
    var there = begin < originBytes ? min(count, originBytes - begin) : 0
    // Where nothing can be provisioned the kernel does not look where the origin ends.
    if pool.mode != .write { there = count }
    unsafe part.pointee.memory.advanced(by: Int(there)).zero(Int(count - there))
    guard there > 0 else { return unsafe finishLater(part) }
    unsafe part.pointee.offset = begin
    unsafe part.pointee.byteCount = Int(there)
    unsafe origin.direct.submit(part)
  }

  /// A write for which a data block is needed.
  private func prepare(_ part: RequestPointer, _ block: UInt64, _ state: BlockState) {
    _ = pool.cells.lock(thin, block)
    unsafe part.pointee.thin = ThinPartState(found: state)
    unsafe pool.provision(part)
  }

  /// Takes a data block for a write whose block is locked. Called with the metadata's lock.
  func provision(_ part: RequestPointer) {
    let block = unsafe block(of: part)
    let state = unsafe part.pointee.thin.found
    unsafe part.pointee.thin = ThinPartState()
    guard let cell = pool.cells.find(thin.id, block) else { return unsafe finishLater(part, EIO) }
    switch pool.mode == .outOfDataSpace ? .noSpace : pool.allocate() {
    case .block(let newBlock) where newBlock < pool.dataBlockLimit:
      let preparation = Preparation(
        self, cell, block: block, newBlock: newBlock, source: source(block, state, newBlock))
      cell.keep(preparation)
      unsafe preparation.begin(part)
      return
    case .block(let newBlock):
      pool.restore(newBlock..<(newBlock + 1))
      unsafe finishLater(part, EIO)
    case .noSpace: unsafe waitForSpace(part)
    case .failed: unsafe finishLater(part, EIO)
    }
    pool.unlock(cell)
  }

  private func source(
    _ block: UInt64, _ state: BlockState, _ newBlock: UInt64
  ) -> Preparation.Source {
    if state.isMapped { return .dataBlock(state.dataBlock) }
    let offset = block &* pool.blockBytes
    if let origin, offset < originBytes {
      return .origin(
        origin, offset: offset, byteCount: min(pool.blockBytes, originBytes - offset))
    }
    guard pool.isZeroing else { return .nothing }
    // A hole has its zeros already. Where several blocks are made ready at once, writing them whole is
    // quicker in spite of that: they follow each other, and a file system gets one extent for all.
    let start = newBlock &* pool.blockBytes
    return pool.cells.hasOneBlock && pool.data.isHole(start..<start &+ pool.blockBytes)
      ? .nothing : .zeros
  }

  // MARK: - Flushes

  func flush(_ part: RequestPointer) {
    guard pool.filesAreThere(), !thin.isAborted else { return unsafe finishLater(part, EIO) }
    if pool.metadata.hasChanged(ThinID(thin.id)) {
      unsafe pool.committer.wait(part)
    } else {
      unsafe pool.data.submit(part)
    }
  }

  // MARK: - Discards and zeros

  func discard(_ part: RequestPointer) {
    guard pool.mode < .outOfMetadataSpace else { return unsafe finishLater(part) }
    let begin = unsafe part.pointee.offset - startByte
    let end = unsafe begin + UInt64(part.pointee.byteCount)
    let first = pool.block(of: begin + pool.blockBytes - 1)
    let last = pool.block(of: end)
    guard first < last else { return unsafe finishLater(part) }
    if let cell = pool.cells.find(thin.id, first..<last) {
      unsafe cell.wait(part)
      return
    }
    let cell = pool.cells.lock(thin, first..<last)
    let job = unsafe DiscardJob(self, part, cell)
    cell.keep(job)
    job.begin()
  }

  /// Whole blocks are unmapped where that reads as zeros and their space is not to be kept; the rest is
  /// written.
  func writeZeroes(_ part: RequestPointer) {
    guard pool.mode < .outOfMetadataSpace else { return unsafe finishLater(part, EIO) }
    let begin = unsafe part.pointee.offset - startByte
    let end = unsafe begin + UInt64(part.pointee.byteCount)
    // Without zeroing, the next write to what was unmapped would bring back something else.
    let unmaps =
      unsafe origin == nil && pool.isZeroing && !part.pointee.flags.contains(.keepAllocated)
    let first = pool.block(of: begin + pool.blockBytes - 1) * pool.blockBytes
    let last = pool.block(of: end) * pool.blockBytes
    let zeros = device.mapper.zeros
    var at = begin
    while at < end {
      var stop: UInt64
      let isUnmapping = unmaps && at >= first && at < last
      if isUnmapping {
        stop = min(last, at + discardBytesMax)
      } else {
        stop = unsafe min(end, at + UInt64(zeros.bytes.count))
        if unmaps && at < first && first < last { stop = min(stop, first) }
      }
      let piece = unsafe stop == end ? part : device.another(part, owner: self)
      unsafe piece.pointee.offset = startByte + at
      unsafe piece.pointee.byteCount = Int(stop - at)
      unsafe piece.pointee.operation = isUnmapping ? .discard : .write
      unsafe piece.pointee.thin = ThinPartState(isZeroing: isUnmapping)
      unsafe piece.pointee.memory = RequestMemory(zeros.bytes.baseAddress)
      unsafe map(piece)
      at = stop
    }
  }

  // MARK: - Extents

  /// Has in memory what `extents` needs to tell what a range begins with.
  func load(extent range: Range<UInt64>, _ ready: @escaping () -> Void) {
    let bytes = range.lowerBound - startByte..<range.upperBound - startByte
    let blocks = blocksOfOneLook(bytes.lowerBound, bytes.upperBound)
    var isMapped = false
    let look = { [self] () throws(PoolError) in
      let run = try pool.metadata.nextRun(ThinID(thin.id), Range(blocks))
      isMapped = run?.virtualBlocks.lowerBound.rawValue == blocks.lowerBound
    }
    pool.lookups.look(look) { [self] in
      guard !isMapped, let origin, bytes.lowerBound < originBytes else { return ready() }
      origin.direct.loadExtent(
        in: bytes.lowerBound..<min(bytes.upperBound, originBytes), ready)
    }
  }

  /// Blocks that are looked through for a run at a time: the caller may have had enough.
  private static let blocksPerLook: UInt64 = 4096

  private func blocksOfOneLook(_ at: UInt64, _ end: UInt64) -> Range<UInt64> {
    let block = pool.block(of: at)
    return block..<min(pool.block(of: end + pool.blockBytes - 1), block + Self.blocksPerLook)
  }

  /// `forEachExtent`, by runs of mappings.
  func extents(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    let blockBytes = pool.blockBytes
    let end = range.upperBound - startByte
    var at = range.lowerBound - startByte
    while at < end {
      let blocks = blocksOfOneLook(at, end)
      do throws(PoolError) {
        if pool.metadata.isChanging { throw .busy }
        let run = try pool.metadata.inMemory { () throws(PoolError) in
          try pool.metadata.nextRun(ThinID(thin.id), Range(blocks))
        }
        let mapped = run?.virtualBlocks.rawValues ?? blocks.upperBound..<blocks.upperBound
        let gap = at..<max(at, min(end, mapped.lowerBound * blockBytes))
        guard unmappedExtents(gap, body) else { return false }
        let data =
          max(at, gap.upperBound)..<max(gap.upperBound, min(end, mapped.upperBound * blockBytes))
        if !data.isEmpty {
          guard body(extent(data, isAllocated: true, isZero: false)) else { return false }
        }
        at = data.upperBound
      } catch {
        // It may hold anything.
        let isKnown = error != .busy && !isAbsent(error)
        return body(extent(at..<end, isAllocated: true, isZero: false, isKnown: isKnown))
      }
    }
    return true
  }

  private func isAbsent(_ error: PoolError) -> Bool {
    if case .absent = error { true } else { false }
  }

  private func extent(
    _ range: Range<UInt64>, isAllocated: Bool, isZero: Bool, isKnown: Bool = true
  ) -> BlockDestination.Extent {
    BlockDestination.Extent(
      offset: startByte + range.lowerBound, byteCount: range.upperBound - range.lowerBound,
      isAllocated: isAllocated, isZero: isZero, isKnown: isKnown)
  }

  private func unmappedExtents(
    _ range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    let split = max(range.lowerBound, min(range.upperBound, origin == nil ? 0 : originBytes))
    if let origin, range.lowerBound < split {
      var goesOn = true
      origin.direct.forEachExtent(in: range.lowerBound..<split) { below in
        var below = below
        below.offset += startByte
        goesOn = body(below)
        return goesOn
      }
      guard goesOn else { return false }
    }
    guard split < range.upperBound else { return true }
    return body(extent(split..<range.upperBound, isAllocated: false, isZero: true))
  }
}
