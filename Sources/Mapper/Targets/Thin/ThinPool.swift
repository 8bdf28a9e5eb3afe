import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// A pool at work: its metadata, and what thin targets do through it. It outlives tables: those that
/// are loaded one after the other for its device share it, and so do its thin targets.
///
/// Its state is in parts, each of which keeps its own: `Cells`, `Preparations`, `Discards`, `Committer`,
/// `DataSpace`, `MetadataSpace`, `PoolModes`, `OpenThins`. The pool has them work in the right order.
///
/// One worker, begun at the end of a pass of the loop when there is something to do, makes all
/// changes in this order: finished preparations become mappings, discards go on, preparations are
/// sent, and then metadata is committed if a client waits for that or a second has passed.
///
/// Nothing of this stops the loop. What changes the metadata, or reads of it what need not be in memory,
/// waits for the disk within `change` or `metadataLock`, one at a time and in the order in which it came.
/// Look-ups of clients take what is in memory, between changes and while a commit is written (`LookupReads`).
///
/// Invariants: a mapping is inserted when its block has its contents, and not while `committer.isCommitting`.
/// Cached mappings are of blocks that no cell covers.
final class ThinPool: DeviceKept {
  unowned let mapper: UserspaceDeviceMapper
  /// All pools of the device-mapper.
  let pools: ThinPools
  /// The device that has the pool's table.
  unowned let device: MappedDevice
  let loop: EventLoop
  let metadataOpened: OpenDevice
  let metadata: PoolMetadata
  let blockBytes: UInt64
  /// log2 of `blockBytes`, or -1.
  private let blockShift: Int
  let requests = RequestPool()

  // What the table in use asks for.
  private(set) var features: Set<ThinPoolTarget.Feature>
  private(set) var passesDiscardsDown = false
  private(set) var dataOpened: OpenDevice
  /// Where data goes.
  private(set) var data: BlockDestination
  /// Data blocks that the data device has room for: a mapping beyond is damage.
  private(set) var dataBlockLimit: UInt64 = 0
  var isZeroing: Bool { !features.contains(.skipBlockZeroing) }

  // Its parts.
  let worker: PoolWorker
  let cells = Cells()
  let preparations: Preparations
  let discards: Discards
  let committer: Committer
  let space: DataSpace
  let thins: OpenThins
  var metadataSpace = MetadataSpace()
  @safe @exclusivity(unchecked) var modes: PoolModes
  /// Reads and writes of data that are under way; and of them the reads of shared blocks.
  let allIO = DeferredSet()
  let sharedReads = DeferredSet()
  /// Taken by code that changes the metadata.
  let metadataLock: FiberLock
  private(set) lazy var lookups = LookupReads(self)

  /// Targets that have it, its own and thin ones.
  private var users = 0
  private(set) var isSuspended = true
  /// Its device has a table without it, and requests of thin devices fail.
  private(set) var isDetached = false
  /// The worker makes changes; and has waited for the disk meanwhile.
  private var isWorking = false
  private var hasWorkWaited = false
  /// Writes that need a data block; their blocks are locked.
  private var unprovisioned = RequestQueue()
  /// Memory for the next turn of them.
  private var spareTurn: [Unprovisioned] = []
  private var isProvisioning = false

  /// Opens metadata, or formats it if its first block is zero.
  /// - Throws: with the kernel's numbers.
  init(
    _ device: MappedDevice, metadata opened: OpenDevice, data: OpenDevice, _ target: ThinPoolTarget
  ) throws(TargetError) {
    let (metadata, isVetted) = try Self.open(opened, target, device.mapper)
    self.metadata = metadata
    modes = PoolModes(needsCheck: metadata.superblock.needsCheck, isVetted: isVetted)
    self.device = device
    mapper = device.mapper
    pools = device.mapper.thinPools
    loop = device.loop
    metadataOpened = opened
    dataOpened = data
    self.data = data.direct
    // Until a resume, what is asked for is all that is known.
    features = target.features
    blockBytes = target.blockSectors * 512
    blockShift = blockBytes & (blockBytes - 1) == 0 ? blockBytes.trailingZeroBitCount : -1
    metadataLock = FiberLock(loop)
    worker = PoolWorker(loop)
    let buffers = BufferPool(bufferBytes: Int(min(blockBytes, 1 << 20)), pools.blockMemory)
    preparations = Preparations(worker, buffers)
    discards = Discards(worker, loop, metadataLock)
    committer = Committer(worker, loop)
    space = DataSpace(worker, loop)
    thins = OpenThins(worker)
    opened.keep()
    data.keep()
    worker.start(self)
    metadata.hasChangedAll = { [unowned self] in lookups.changeEnded() }
    device.pool = self
    pools.byMetadata[opened.number] = self
  }

  // MARK: - Users

  /// Frees memory that is not in use.
  func returnMemory() {
    requests.trim()
    preparations.trim()
  }

  /// One more target has it.
  func use() { users += 1 }

  /// Whether any target has it. After the last one it is closed.
  var isInUse: Bool { users > 0 }

  /// A target has it no longer. After the last one what changed is committed.
  func release() {
    users -= 1
    guard users == 0 else { return }
    metadataLock.take()
    if mode < .outOfMetadataSpace { _ = commitNow() }
    writeNeedsCheck()
    metadataLock.give()
    lookups.close()
    committer.close()
    space.stopTimer()
    discards.close()
    worker.stop()
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
    return thins.open(id, blockCount: blockCount, pools.mappingMemory)
  }

  func closeThin(_ thin: OpenThin) {
    // A device that went with an aborted transaction is not open any more: nothing to close.
    do throws(PoolError) { try metadata.closeDevice(ThinID(thin.id)) } catch {}
    thins.close(thin)
  }

  // MARK: - Tables

  /// Takes on what a table asks for that is about to come in.
  func bind(_ target: ThinPoolTarget, _ data: OpenDevice, passesDiscardsDown: Bool) {
    features = target.features
    self.passesDiscardsDown = passesDiscardsDown
    dataOpened = data
    self.data = data.direct
    dataBlockLimit = min(data.direct.byteCount / blockBytes, Limits.dataBlocksMax)
    space.bind(
      lowWaterBlocks: target.lowWaterBlocks, failsWrites: features.contains(.errorIfNoSpace))
  }

  /// Its device is suspended: what changed is committed.
  func suspend() {
    space.stopTimer()
    _ = commitNow()
    isSuspended = true
  }

  /// Its device goes on, and so do the thin devices that it held.
  func resume() {
    isSuspended = false
    isDetached = false
    space.resume()
    if mode == .outOfDataSpace { space.startTimer(pools.noSpaceTimeoutSeconds) }
    thins.releaseDevices()
    worker.schedule()
  }

  /// Where another table has taken the place of the pool's, requests of thin devices fail, rather than
  /// wait for a pool that may not come back.
  func resumed(with table: LiveTable) {
    if table.single is ThinPoolDriver { return }
    isDetached = true
    thins.releaseDevices()
  }

  // MARK: - Blocks

  /// The block of a byte.
  @inline(__always) func block(of byte: UInt64) -> UInt64 {
    blockShift >= 0 ? byte >> UInt64(truncatingIfNeeded: blockShift) : byte / blockBytes
  }

  /// Ends a cell; what waited is mapped again. Returns for how many requests that was done.
  @discardableResult
  func unlock(_ cell: Cell) -> Int { unsafe cells.unlock(cell) { unsafe again($0) } }

  /// Maps a part again that waited.
  func again(_ part: RequestPointer) {
    guard let driver = unsafe part.pointee.owner as? ThinDriver else { return }
    unsafe driver.map(part)
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

  /// Called by the worker.
  func work() {
    lookups.retry()
    thins.retry()
    // After work that has waited flushes come first, or discards could keep them waiting for ever.
    if hasWorkWaited, isCommitNext { beginCommit() }
    if !isWorking, discards.haveWork || preparations.hasFinished && !committer.isCommitting {
      (isWorking, hasWorkWaited) = (true, false)
      change {
        if !self.committer.isCommitting {
          for preparation in self.preparations.takeFinished() {
            preparation.insert()
            self.lookups.retry()
          }
        }
        self.discards.step { self.lookups.retry() }
        self.isWorking = false
        if self.hasWorkWaited { self.worker.schedule() }
      }
      hasWorkWaited = isWorking
    }
    preparations.sendAll()
    if isCommitNext { beginCommit() }
  }

  private var isCommitNext: Bool { !isWorking && committer.isWanted }

  // MARK: - Data blocks for writes

  /// Writes that get a data block before others have their turn.
  private static let provisionedAtOnce = 64

  /// A write that needs a data block, with its owner and its place.
  @safe private struct Unprovisioned {
    unowned(unsafe) var driver: ThinDriver
    var id: UInt64
    var offset: UInt64
    var part: RequestPointer
  }

  /// Gives a data block to a write that needs one, in its turn: at once, if the metadata's lock is free.
  func provision(_ part: RequestPointer) {
    unsafe unprovisioned.append(part)
    guard !isProvisioning else { return }
    isProvisioning = true
    loop.begin { [self] in
      while !unprovisioned.isEmpty {
        metadataLock.take()
        var turn = nextTurn()
        for write in turn {
          unsafe write.driver.provision(write.part)
          lookups.retry()
        }
        turn.removeAll(keepingCapacity: true)
        spareTurn = turn
        metadataLock.give()
      }
      isProvisioning = false
    }
  }

  /// The writes that get their data blocks next, by device and place, as the kernel's worker has them: those
  /// whose look-ups had to wait come to the queue after others of the same request.
  private func nextTurn() -> [Unprovisioned] {
    var turn = spareTurn
    spareTurn = []
    while turn.count < Self.provisionedAtOnce, let part = unsafe unprovisioned.takeFirst(),
      let driver = unsafe part.pointee.owner as? ThinDriver
    {
      unsafe turn.append(
        Unprovisioned(
          driver: driver, id: driver.thin.id, offset: part.pointee.offset, part: part))
    }
    if turn.count > 1 { turn.sort { ($0.id, $0.offset) < ($1.id, $1.offset) } }
    return turn
  }
}

extension MappedDevice {
  /// The pool that this device is, since a thin-pool table was loaded.
  var pool: ThinPool? {
    get { kept as? ThinPool }
    set { kept = newValue }
  }
}
