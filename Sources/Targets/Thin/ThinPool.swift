import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

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

/// A thin device that is open, however many targets have it.
final class OpenThin {
  let id: UInt64
  var users = 0
  var cache: MappingCache
  /// Changes of it were lost in an aborted transaction: flushes fail until it is opened anew.
  var isAborted = false

  init(id: UInt64, blockCount: UInt64, _ budget: MemoryBudget) {
    self.id = id
    cache = MappingCache(blockCount: blockCount, budget)
  }
}

/// Blocks of a thin device that something is being done to; requests to them wait.
final class Cell {
  let id: UInt64
  let blocks: Range<UInt64>
  var waiters = RequestQueue()
  var preparation: Preparation?
  /// Keeps it while it is under way.
  var discard: DiscardJob?

  init(id: UInt64, blocks: Range<UInt64>) {
    self.id = id
    self.blocks = blocks
  }
}

/// A pool at work: its metadata, and what thin targets do through it. It outlives tables: those that
/// are loaded one after the other for its device share it, and so do its thin targets.
///
/// One worker, begun at the end of a pass of the loop when there is something to do, makes all
/// changes in this order: finished preparations become mappings, discards go on, preparations are
/// sent, and then metadata is committed if someone waits for that or a second has passed.
///
/// Nothing of this stops the loop. What changes the metadata, or reads of it what need not be in memory,
/// waits for the disk within `change` or `metadataLock`, one at a time and in the order in which it came. Look-ups
/// of clients take what is in memory, between changes and while a commit is written (`LookupReads`).
///
/// Invariants: a mapping is inserted when its block has its contents. `isCommitting` from the flush of
/// the data device for a commit to its end: meanwhile no mapping is inserted, so that the commit contains
/// only mappings to blocks that were flushed. Cached mappings are of blocks that no cell covers.
final class ThinPool: RequestOwner, DeviceKept {
  private final class Hook: PassHook {
    unowned(unsafe) let pool: ThinPool
    init(_ pool: ThinPool) { self.pool = pool }
    override func endOfPass() { pool.work() }
  }
  struct CellKey: Hashable {
    var id: UInt64
    var block: UInt64
  }

  unowned let mapper: UserspaceDeviceMapper
  /// All pools of the device-mapper.
  let pools: ThinPools
  /// The device that has the pool's table.
  unowned let device: MappedDevice
  let loop: EventLoop
  let metadataOpened: OpenDevice
  let metadata: PoolMetadata
  var dataOpened: OpenDevice
  /// Where data goes.
  var data: BlockDestination
  let blockBytes: UInt64
  /// log2 of `blockBytes`, or -1.
  private let blockShift: Int
  /// Data blocks that the data device has room for: a mapping beyond is damage.
  var dataBlockLimit: UInt64 = 0
  /// Targets that have it, its own and thin ones.
  var users = 0
  private var hook: Hook?

  // What the table in use asks for.
  var features: Set<ThinPoolTarget.Feature> = []
  var lowWaterBlocks: UInt64 = 0
  var passesDiscardsDown = false
  var failsWithoutSpace = false
  var isZeroing: Bool { !features.contains(.skipBlockZeroing) }

  // State.
  var mode = PoolMode.write
  var isOutOfDataSpace = false
  var needsCheck = false
  var isNeedsCheckWritten = true
  var isSuspended = true
  /// A file of its own was deleted or cut: nothing that is written stays.
  var hasLostFile = false
  /// A write failed for lack of room where the data file lies.
  var isHostFull = false
  /// Its metadata was found sound before it was written to, and since.
  var isVetted = false
  /// Nobody has looked at its metadata, as was asked for.
  var isDoubtful = false
  /// Look-ups that have failed.
  var damageNoted = 0
  /// Its device has a table without it, and thin devices have nowhere to go.
  var isDetached = false
  var isLowWaterSignalled = false
  var lastFreeMetadata: UInt64?
  var metadataReserve: UInt64 = 0
  /// Something changed since the last commit.
  var isDirty = false
  var commitTimer: LoopTimer?
  var noSpaceTimer: LoopTimer?

  // Thin devices.
  var thins: [UInt64: OpenThin] = [:]
  var drivers: [ThinDriver] = []
  /// Thin devices held back while the pool is suspended.
  var heldDevices: [MappedDevice] = []

  // Work.
  let allIO = DeferredSet()
  let sharedReads = DeferredSet()
  var cells: [CellKey: Cell] = [:]
  var rangeCells: [Cell] = []
  var prepared: [Preparation] = []
  var unsent: [Preparation] = []
  var discards: [DiscardJob] = []
  /// What discards have done in the pass `discardPass` of the loop, and what has the rest done later.
  var discardUnits = 0
  private var discardPass = UInt64.max
  private var discardTimer: LoopTimer?
  var discardsAfterCommit: [DiscardJob] = []
  var waitingForBuffer: [Preparation] = []
  var flushWaiters = RequestQueue()
  var committing = RequestQueue()
  var isCommitting = false
  /// Itself, while the data device has a request of its own.
  var keptForFlush: ThinPool?
  var isCommitDue = false
  var isRetryDue = false
  var isScheduled = false
  /// The worker is at it; and has waited for the disk meanwhile.
  private var isWorking = false
  private var hasWorkWaited = false
  var isTrimming = false
  /// Whose the metadata is.
  let metadataLock: FiberLock
  private(set) lazy var lookups = LookupReads(self)
  /// Writes that need a data block; their blocks are locked.
  private var unprovisioned = RequestQueue()
  private var isProvisioning = false
  let requests = RequestPool()
  lazy var buffers = BufferPool(
    bufferBytes: Int(min(blockBytes, 1 << 20)), mapper.thinPools.blockMemory)

  /// Opens metadata, or formats it if its first block is zero.
  /// - Throws: with the kernel's numbers.
  init(
    _ device: MappedDevice, metadata opened: OpenDevice, data: OpenDevice, _ target: ThinPoolTarget
  ) throws(TargetError) {
    (metadata, isVetted) = try Self.open(opened, target, device.mapper)
    self.device = device
    mapper = device.mapper
    pools = device.mapper.thinPools
    loop = device.loop
    metadataLock = FiberLock(loop)
    metadataOpened = opened
    dataOpened = data
    self.data = data.direct
    blockBytes = target.blockSectors * 512
    blockShift = blockBytes & (blockBytes - 1) == 0 ? blockBytes.trailingZeroBitCount : -1
    needsCheck = metadata.superblock.needsCheck
    super.init()
    opened.keep()
    data.keep()
    let hook = Hook(self)
    self.hook = hook
    loop.add(hook)
    commitTimer = LoopTimer { [unowned self] in
      isCommitDue = true
      schedule()
    }
    discardTimer = LoopTimer { [unowned self] in schedule() }
    noSpaceTimer = LoopTimer { [unowned self] in noSpaceTimeout() }
    metadata.hasChangedAll = { [unowned self] in lookups.changeEnded() }
    device.pool = self
    pools.byMetadata[opened.number] = self
  }

  // MARK: - Users

  /// Gives back what nobody uses now.
  func returnMemory() {
    requests.trim()
    buffers.trim()
  }

  /// A target has it no longer. After the last one what changed is committed.
  func release() {
    users -= 1
    guard users == 0 else { return }
    metadataLock.take()
    if mode < .outOfMetadataSpace { _ = commitNow() }
    writeNeedsCheck()
    metadataLock.give()
    lookups.close()
    if let commitTimer { loop.cancel(commitTimer) }
    if let noSpaceTimer { loop.cancel(noSpaceTimer) }
    if let discardTimer { loop.cancel(discardTimer) }
    if let hook { loop.remove(hook) }
    hook = nil
    if isClosedCleanly { pools.poolClosed?(access) }
    if pools.byMetadata[metadataOpened.number] === self {
      pools.byMetadata[metadataOpened.number] = nil
    }
    if device.pool === self { device.pool = nil }
    dataOpened.giveUp()
    metadataOpened.giveUp()
  }

  /// Opens a thin device for a target of `blockCount` blocks.
  func openThin(_ id: UInt64, blockCount: UInt64) throws(PoolError) -> OpenThin {
    try metadataLock.with { () throws(PoolError) in
      guard try metadata.hasDevice(ThinID(id)) else { throw .notFound }
      try metadata.openDevice(ThinID(id))
    }
    let thin = thins[id] ?? OpenThin(id: id, blockCount: blockCount, mapper.thinPools.mappingMemory)
    thin.users += 1
    thins[id] = thin
    return thin
  }

  func closeThin(_ thin: OpenThin) {
    // A device that went with an aborted transaction is not open any more: nothing to close.
    do throws(PoolError) { try metadata.closeDevice(ThinID(thin.id)) } catch {}
    thin.users -= 1
    if thin.users == 0 { thins[thin.id] = nil }
  }

  /// The thin devices that it held back go on.
  func releaseDevices() {
    let devices = heldDevices
    heldDevices = []
    for device in devices { device.release() }
  }

  /// Where another table has taken the place of the pool's, requests of thin devices fail, rather than
  /// wait for a pool that may not come back.
  func resumed(with table: LiveTable) {
    if table.single is ThinPoolDriver { return }
    isDetached = true
    releaseDevices()
  }

  // MARK: - Blocks

  /// The block of a byte.
  @inline(__always) func block(of byte: UInt64) -> UInt64 {
    blockShift >= 0 ? byte >> UInt64(truncatingIfNeeded: blockShift) : byte / blockBytes
  }

  /// The cell that covers a block.
  func cell(_ id: UInt64, _ block: UInt64) -> Cell? {
    if !cells.isEmpty, let cell = cells[CellKey(id: id, block: block)] { return cell }
    return rangeCells.first { $0.id == id && $0.blocks.contains(block) }
  }

  /// A cell that covers any of these blocks.
  func cell(_ id: UInt64, _ blocks: Range<UInt64>) -> Cell? {
    if let cell = rangeCells.first(where: { $0.id == id && $0.blocks.overlaps(blocks) }) {
      return cell
    }
    return cells.values.first { $0.id == id && blocks.contains($0.blocks.lowerBound) }
  }

  /// Makes a cell; `forget` what is known of the blocks first.
  func lock(_ thin: OpenThin, _ block: UInt64) -> Cell {
    thin.cache.forget(block)
    let cell = Cell(id: thin.id, blocks: block..<(block + 1))
    cells[CellKey(id: thin.id, block: block)] = cell
    return cell
  }

  func lock(_ thin: OpenThin, _ blocks: Range<UInt64>) -> Cell {
    thin.cache.forget(blocks)
    let cell = Cell(id: thin.id, blocks: blocks)
    rangeCells.append(cell)
    return cell
  }

  /// Ends a cell; what waited is mapped anew. Returns for how many requests that was done.
  @discardableResult
  func unlock(_ cell: Cell) -> Int {
    if rangeCells.contains(where: { $0 === cell }) {
      rangeCells.removeAll { $0 === cell }
    } else {
      cells[CellKey(id: cell.id, block: cell.blocks.lowerBound)] = nil
    }
    cell.preparation = nil
    cell.discard = nil
    var waiters = cell.waiters.takeAll()
    var count = 0
    while let part = waiters.takeFirst() {
      again(part)
      count += 1
      // Where many discard the same blocks, the rest would come to wait for the next one, each by itself.
      if let next = rangeCells.last, next.id == cell.id, next.blocks.contains(cell.blocks) {
        next.waiters.append(contentsOf: waiters)
        break
      }
    }
    return count
  }

  /// Maps a part anew that waited.
  func again(_ part: RequestPointer) {
    guard let driver = part.pointee.owner as? ThinDriver else { return }
    driver.map(part)
  }

  /// Has `work` called at the end of this pass.
  func schedule() {
    isScheduled = true
    loop.passAgain()
  }

  // MARK: - Work

  /// Calls `body`, which may change the metadata and wait for the disk, in its turn: at once, if the
  /// metadata's lock is free. Does not call it once the pool is closed.
  func change(_ body: @escaping () -> Void) {
    loop.begin {
      self.metadataLock.take()
      if self.users > 0 { body() }
      self.lookups.retry()
      self.metadataLock.give()
    }
  }

  func work() {
    guard isScheduled else { return }
    isScheduled = false
    lookups.retry()
    if isRetryDue {
      isRetryDue = false
      for driver in drivers { driver.retryHeld() }
    }
    // After work that has waited flushes come first, or discards could keep them waiting for ever.
    if hasWorkWaited, isCommitNext { beginCommit() }
    if !isWorking, !discards.isEmpty || !prepared.isEmpty && !isCommitting {
      (isWorking, hasWorkWaited) = (true, false)
      change {
        if !self.isCommitting {
          let ready = self.prepared
          self.prepared = []
          for preparation in ready {
            preparation.insert()
            self.lookups.retry()
          }
        }
        self.stepDiscards()
        self.isWorking = false
        if self.hasWorkWaited { self.schedule() }
      }
      hasWorkWaited = isWorking
    }
    let sends = unsent
    unsent = []
    for preparation in sends { preparation.send() }
    if isCommitNext { beginCommit() }
    // What was sent goes out with this pass's batch.
    loop.passAgain()
  }

  private var isCommitNext: Bool {
    !isWorking && !isCommitting && (!flushWaiters.isEmpty || isCommitDue)
  }

  /// Goes on with discards as far as a pass has time for them, in turn.
  private func stepDiscards() {
    if discardPass != loop.passes { (discardPass, discardUnits) = (loop.passes, 0) }
    let jobs = discards
    discards = []
    for (index, job) in jobs.enumerated() {
      guard discardUnits < DiscardJob.unitsPerPass, index == 0 || !metadataLock.isWanted else {
        discards = jobs[index...] + discards
        if let discardTimer, !discardTimer.isSet { loop.set(discardTimer, after: 0) }
        return
      }
      job.step()
      lookups.retry()
    }
  }

  /// Whether discards have done less than they may in a pass, and no other work waits for the metadata.
  var canDiscardMore: Bool {
    discardUnits < DiscardJob.unitsPerPass && !metadataLock.isWanted
  }

  /// The data device was flushed.
  override func requestDone(_ request: RequestPointer) {
    let code = request.pointee.errorNumber
    requests.give(request)
    loop.begin { [self] in
      defer { keptForFlush = nil }
      metadataLock.take()
      defer { metadataLock.give() }
      // Preparations have waited for this.
      defer { isCommitting = false }
      // It was closed meanwhile, and has committed.
      guard users > 0 else { return }
      if code != 0, isDirty {
        operationFailed(
          "commit", .io(BlockIOError(.flush, path: dataOpened.text, code: code)))
      }
      answerFlushes(code == 0 && commitFlushed() ? 0 : EIO)
      schedule()
    }
  }

  // MARK: - Data blocks for writes

  /// Writes that get a data block before others have their turn.
  private static let provisionedAtOnce = 64

  /// Gives a data block to a write that needs one, in its turn: at once, if the metadata's lock is free.
  func provision(_ part: RequestPointer) {
    unprovisioned.append(part)
    guard !isProvisioning else { return }
    isProvisioning = true
    loop.begin { [self] in
      while !unprovisioned.isEmpty {
        metadataLock.take()
        var left = Self.provisionedAtOnce
        while left > 0, let part = unprovisioned.takeFirst(),
          let driver = part.pointee.owner as? ThinDriver
        {
          driver.provision(part)
          lookups.retry()
          left -= 1
        }
        metadataLock.give()
      }
      isProvisioning = false
    }
  }
}

extension MappedDevice {
  /// The pool that this device is, since a thin-pool table was loaded.
  var pool: ThinPool? {
    get { kept as? ThinPool }
    set { kept = newValue }
  }
}
