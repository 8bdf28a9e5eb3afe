import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

extension TargetType {
  /// A volume of a pool.
  static let thin = TargetType(ThinTarget.type, version: (1, 22, 0), ThinTarget.self) {
    (context) throws(TargetError) in try ThinDriver(context)
  }
}

/// What a part of a thin device carries along.
struct ThinPartState: RequestState {
  /// Where its block was when a data block was asked for.
  var found = BlockState.unmapped
  /// How often what a look at its block takes was read and thrown out of memory again.
  var attempts: UInt32 = 0
  /// Its epoch in `allIO` plus one; 0 for none.
  var epoch: UInt8 = 0
  /// The same in `sharedReads`.
  var sharedEpoch: UInt8 = 0
  /// Its data is on the data device already.
  var isWritten = false
  /// A discard that is for zeros.
  var isZeroing = false
}

extension BlockRequest {
  /// Of parts whose owner is a `ThinDriver` only.
  var thin: ThinPartState {
    get { state[ThinPartState.self] }
    set { state[ThinPartState.self] = newValue }
  }
}

/// The target `thin`.
///
/// A read or write of blocks that are mapped, and for a write not shared, goes on to the data device
/// as it came, as far as the data blocks follow each other, at the price of one look into the cache
/// for each block. Everything else is `ThinDriver+Slow.swift`.
final class ThinDriver: TargetDriver {
  let pool: ThinPool
  let thin: OpenThin
  let origin: OpenDevice?
  /// Bytes of the origin, as of the last resume.
  var originBytes: UInt64
  /// Writes that wait for space.
  private var held = RequestQueue()
  private let below: OpenDevice
  private let id: UInt32

  init(_ context: DriverContext<ThinTarget>) throws(TargetError) {
    let target = context.target
    origin = context.devices[.origin]
    if let origin { try context.device.mapper.thinPools.requireForeign(origin) }
    below = try context.device(.pool)
    guard let mapped = below.mapped else {
      throw TargetError("Couldn't get pool mapped device")
    }
    guard let pool = mapped.pool else { throw TargetError("Couldn't find pool object") }
    guard pool.mode != .fail else {
      throw TargetError("Couldn't open thin device, Pool is in fail mode")
    }
    self.pool = pool
    id = target.id
    originBytes = origin?.direct.byteCount ?? 0
    // It stays while the metadata is looked at.
    pool.use()
    do throws(PoolError) {
      thin = try pool.openThin(
        UInt64(target.id), blockCount: context.line.length / (pool.blockBytes / 512) + 1)
    } catch {
      pool.release()
      throw TargetError(
        "Couldn't open thin internal device", code: error.systemCode,
        explanation: error.explanation(pool.metadataOpened.text, thin: UInt64(target.id)))
    }
    guard !pool.isSuspended else {
      pool.closeThin(thin)
      pool.release()
      throw TargetError("Unable to activate thin device while pool is suspended")
    }
    super.init(context)
    pool.thins.add(self)
  }

  override func close() {
    pool.thins.remove(self)
    pool.closeThin(thin)
    pool.release()
    super.close()
  }

  // MARK: - What it is like

  override var takesDiscards: Bool { !pool.features.contains(.ignoreDiscard) }
  /// 16 GiB.
  override var discardBytesMax: UInt64 { 1 << 34 }
  override var holesStayZero: Bool { pool.isZeroing }
  override var discardBytes: Int { Int(clamping: pool.blockBytes) }
  override var optimalBytes: Int { Int(clamping: pool.blockBytes) }
  override var logicalBlockBytes: Int { pool.data.logicalBlockBytes }

  // MARK: - I/O

  override func map(_ part: RequestPointer) {
    guard pool.mode != .fail, !pool.isDetached else { return unsafe finishLater(part, EIO) }
    switch unsafe part.pointee.operation {
    case .read, .write: unsafe transfer(part)
    case .flush: unsafe flush(part)
    case .discard: unsafe discard(part)
    case .writeZeroes: unsafe writeZeroes(part)
    }
  }

  /// A read or write: one part for each run of data blocks, or for each block that needs more.
  private func transfer(_ part: RequestPointer) {
    let isWrite = unsafe part.pointee.operation == .write
    let begin = unsafe part.pointee.offset &- startByte
    let end = unsafe begin &+ UInt64(truncatingIfNeeded: part.pointee.byteCount)
    let blockBytes = pool.blockBytes
    var at = begin
    while true {
      let block = pool.block(of: at)
      let blockStart = block &* blockBytes
      var stop = min(end, blockStart &+ blockBytes)
      guard let state = thin.cache.find(block) else {
        stop = unsafe transferUnknown(part, block, at: at, begin, stop, end)
        if stop == end { return }
        at = stop
        continue
      }
      let isDirect = state.isMapped && !(isWrite && state.isShared)
      if isDirect {
        var next = block &+ 1
        // What differs by one data block, and not in being shared, goes along.
        while stop < end, let following = thin.cache.find(next),
          following.rawValue == state.rawValue &+ 2 &* (next &- block)
        {
          stop = min(end, stop &+ blockBytes)
          next &+= 1
        }
      }
      let piece = unsafe piece(of: part, from: at, to: stop, begin, end)
      if isDirect {
        unsafe issue(
          piece, state.dataBlock &* blockBytes &+ (at &- blockStart), isShared: state.isShared)
      } else {
        unsafe transferSlowly(piece, block, state)
      }
      if stop == end { return }
      at = stop
    }
  }

  /// The bytes from `from` to `to` of a part from `begin` to `end`, all counted from the start of the target.
  private func piece(
    of part: RequestPointer, from: UInt64, to: UInt64, _ begin: UInt64, _ end: UInt64
  ) -> RequestPointer {
    unsafe piece(
      of: part, startByte &+ from..<startByte &+ to, startByte &+ begin..<startByte &+ end)
  }

  /// A block that the cache does not have: something may be under way, or the metadata knows.
  /// Returns where to go on.
  private func transferUnknown(
    _ part: RequestPointer, _ block: UInt64, at: UInt64, _ begin: UInt64, _ stop: UInt64,
    _ end: UInt64
  ) -> UInt64 {
    if let cell = pool.cells.find(thin.id, block) {
      unsafe cell.add(piece(of: part, from: at, to: stop, begin, end))
      return stop
    }
    if pool.metadata.isChanging {
      unsafe pool.lookups.waitForChange(piece(of: part, from: at, to: stop, begin, end))
      return stop
    }
    do throws(PoolError) {
      thin.cache.set(
        block, try pool.metadata.inMemory { () throws(PoolError) in try look(block) })
    } catch .absent {
      let piece = unsafe piece(of: part, from: at, to: stop, begin, end)
      unsafe piece.pointee.thin.attempts &+= 1
      if unsafe piece.pointee.thin.attempts > LookupReads.attemptsMax {
        unsafe lookInTurn(piece, block)
      } else {
        unsafe pool.lookups.waitForBlock(piece)
      }
      return stop
    } catch {
      unsafe pool.lookupFailed(piece(of: part, from: at, to: stop, begin, end), error)
      return stop
    }
    // Found in the cache when it is looked at again, unless there is none.
    guard thin.cache.find(block) == nil else { return at }
    unsafe finishLater(piece(of: part, from: at, to: stop, begin, end), ENOMEM)
    return stop
  }

  /// Looks a block up and keeps others from throwing out of memory what that takes.
  private func lookInTurn(_ part: RequestPointer, _ block: UInt64) {
    unsafe part.pointee.thin.attempts = 0
    pool.change { [self] in
      do throws(PoolError) {
        thin.cache.set(block, try look(block))
        unsafe map(part)
      } catch {
        unsafe pool.lookupFailed(part, error)
      }
    }
  }

  /// The block in which a part begins that has its offset on the thin device.
  func block(of part: RequestPointer) -> UInt64 {
    unsafe pool.block(of: part.pointee.offset &- startByte)
  }

  /// What the metadata says of a block.
  func look(_ block: UInt64) throws(PoolError) -> BlockState {
    guard let found = try pool.metadata.lookup(ThinID(thin.id), VirtualBlock(block)) else {
      return .unmapped
    }
    let dataBlock = found.dataBlock.rawValue
    guard dataBlock < pool.dataBlockLimit else {
      throw .inconsistent("data block \(dataBlock) is beyond the data device")
    }
    try pool.requireCounted(dataBlock)
    return BlockState(dataBlock: dataBlock, isShared: found.isShared)
  }

  /// Sends a part to the data device.
  private func issue(_ part: RequestPointer, _ offset: UInt64, isShared: Bool) {
    var state = ThinPartState()
    state.epoch = UInt8(truncatingIfNeeded: pool.allIO.enter() + 1)
    // A write is here only if the block is not shared.
    if isShared { state.sharedEpoch = UInt8(truncatingIfNeeded: pool.sharedReads.enter() + 1) }
    unsafe part.pointee.thin = state
    unsafe part.pointee.offset = offset
    if unsafe part.pointee.flags.contains(.durable), unsafe part.pointee.operation == .write,
      unsafe !commitsFirst(part)
    {
      return
    }
    unsafe pool.data.submit(part)
  }

  /// For a durable write: false if it is not to be sent now, because its thin device has changes that
  /// are to be committed before it.
  private func commitsFirst(_ part: RequestPointer) -> Bool {
    if thin.isAborted {
      unsafe finishLater(part, EIO)
      return false
    }
    guard pool.metadata.hasChanged(ThinID(thin.id)) else { return true }
    unsafe pool.committer.wait(part)
    return false
  }

  override func requestDone(_ part: RequestPointer) {
    let state = unsafe part.pointee.thin
    if state.epoch != 0 {
      pool.allIO.leave(Int(state.epoch) - 1)
      if state.sharedEpoch != 0 { pool.sharedReads.leave(Int(state.sharedEpoch) - 1) }
    }
    if unsafe part.pointee.errorNumber != 0 && part.pointee.operation == .write {
      unsafe pool.noteWrite(part.pointee.errorNumber)
    }
    unsafe done(part)
  }

  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    load(extent: range, ready)
  }

  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    extents(in: range, body)
  }

  // MARK: - Writes that wait for space

  /// A write needs a block, and the pool has none.
  func waitForSpace(_ part: RequestPointer) {
    if pool.space.failsWrites {
      unsafe finishLater(part, ENOSPC)
    } else {
      unsafe held.append(part)
    }
  }

  /// Tries writes again that waited for space.
  func retryHeld() {
    var all = held.takeAll()
    while let part = unsafe all.takeFirst() { unsafe map(part) }
  }

  /// Ends writes that waited for space.
  func failHeld(_ code: Int32) {
    var all = held.takeAll()
    while let part = unsafe all.takeFirst() { unsafe finishLater(part, code) }
  }

  // MARK: - Suspend and resume

  override func pushBack() {
    var all = held.takeAll()
    while let part = unsafe all.takeFirst() { unsafe device.park(part) }
  }

  override func preresume() throws(TargetError) {
    origin?.destination.refreshSize()
    originBytes = origin?.direct.byteCount ?? 0
  }

  // MARK: - Queries

  override var summary: String? { "thin device \(id)" }

  override func table() -> String {
    if pool.mode == .fail { return ThinStatus.failed.parameters }
    let external = origin.map { "\($0.number)" }
    return ThinTarget(pool: "\(below.number)", id: id, externalOrigin: external).parameters
  }

  override func status(noFlush: Bool) -> String {
    if pool.mode == .fail { return ThinStatus.failed.parameters }
    do throws(PoolError) {
      let (mapped, highest) = try pool.metadataLock.with { () throws(PoolError) in
        (
          try pool.metadata.details(of: ThinID(thin.id)).mappedBlocks,
          try pool.metadata.highestMapped(ThinID(thin.id))?.rawValue
        )
      }
      let sectors = pool.blockBytes / 512
      return ThinStatus.working(
        mappedSectors: mapped &* sectors, highestSector: highest.map { ($0 &+ 1) &* sectors &- 1 }
      ).parameters
    } catch {
      return ThinStatus.error.parameters
    }
  }
}
