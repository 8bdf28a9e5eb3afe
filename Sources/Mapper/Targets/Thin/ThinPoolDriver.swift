import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

extension TargetType {
  /// What a table asks of a pool.
  static let thinPool = TargetType(
    ThinPoolTarget.type, version: (1, 22, 0), ThinPoolTarget.self,
    traits: [.singleton, .alwaysWritable, .immutable]
  ) { (context) throws(TargetError) in try ThinPoolDriver(context) }
}

/// The target `thin-pool`: what a table asks of the pool, which outlives the table.
final class ThinPoolDriver: TargetDriver {
  let pool: ThinPool
  private let request: ThinPoolTarget
  private let metadata: OpenDevice
  private let dataBelow: OpenDevice
  /// Not resumed yet: the first time it is, the pool takes on what this table says.
  private var isFresh = true

  /// - Throws: what the kernel has against a pool that others use.
  init(_ context: DriverContext<ThinPoolTarget>) throws(TargetError) {
    request = context.target
    metadata = try context.device(.metadata)
    dataBelow = try context.device(.data)
    try context.device.mapper.thinPools.requireOwn(metadata, dataBelow, of: context.device)
    pool = try Self.find(context.device, metadata, dataBelow, request)
    pool.use()
    metadata.destination.refreshSize()
    pool.metadataSpace.setLowWater(pool.metadataLowWater)
    super.init(context)
  }

  private static func find(
    _ device: MappedDevice, _ metadata: OpenDevice, _ data: OpenDevice, _ target: ThinPoolTarget
  ) throws(TargetError) -> ThinPool {
    if let pool = device.mapper.thinPools.byMetadata[metadata.number] {
      guard pool.device === device else {
        throw TargetError("metadata device already in use by a pool", code: EBUSY)
      }
      guard pool.dataOpened.number == data.number else {
        throw TargetError("data device already in use by a pool", code: EBUSY)
      }
      guard
        pool.features.contains(.ignoreDiscard) == target.features.contains(.ignoreDiscard)
      else {
        throw TargetError("Discard support cannot be disabled once enabled")
      }
      return pool
    }
    guard device.pool == nil else { throw TargetError("different pool cannot replace a pool") }
    return try ThinPool(device, metadata: metadata, data: data, target)
  }

  private var data: BlockDestination { dataBelow.direct }

  override var areas: [Area] { [Area(dataBelow, 0, length)] }
  /// What the pool holds is not reached past the pool.
  override func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] { [] }
  /// Volumes are what it is for.
  override var summary: String? { nil }
  override var takesDiscards: Bool { passesDiscardsDown }
  override var logicalBlockBytes: Int { data.logicalBlockBytes }
  override var optimalBytes: Int { Int(clamping: pool.blockBytes) }

  private var wantsPassdown: Bool {
    !request.features.contains(.ignoreDiscard) && !request.features.contains(.noDiscardPassdown)
  }

  private var passesDiscardsDown: Bool { wantsPassdown && whyNoPassdown == nil }

  private var whyNoPassdown: String? {
    if !data.takesDiscards { return "discard unsupported" }
    return data.discardMaxBytes < pool.blockBytes
      ? "max discard sectors smaller than a block" : nil
  }

  // MARK: - I/O

  override func map(_ part: RequestPointer) { unsafe data.submit(part) }

  override func place(_ offset: UInt64) -> Place? { Place(dataBelow, offset, endByte - offset) }

  // MARK: - Suspend and resume

  override func presuspend(noFlush: Bool, _ ready: @escaping () -> Void) {
    pool.thins.holdDevices(ready)
  }

  override func postsuspend() { pool.suspend() }

  /// Has the metadata judged where the pool is about to be written to for the first time.
  override func prepare(_ ready: @escaping (DeviceMapperError?) -> Void) {
    guard let judge = pool.pools.judgeMetadata, wantsWriting, pool.modes.needsVerdict
    else { return ready(nil) }
    judge(pool.access) { [self] verdict in
      switch verdict {
      case .sound: pool.modes.noteSound()
      case .unknown: pool.modes.noteUnchecked()
      case .refused(let lines):
        for line in lines { pool.mapper.log("\(device.name): \(line)") }
        return ready(pool.mapper.error(.resume, device, EUCLEAN, lines))
      }
      ready(nil)
    }
  }

  /// Whether the pool is going to be written to when this table comes in.
  private var wantsWriting: Bool {
    !request.features.contains(.readOnly) && !device.mapper.isReadOnly && !pool.modes.needsCheck
      && pool.mode != .fail
  }

  /// No write to the metadata may fail for lack of room where its file lies.
  private func reserveMetadataSpace() throws(TargetError) {
    do throws(BlockIOError) {
      try metadata.destination.reserveSpace(0..<metadata.direct.byteCount)
    } catch {
      throw TargetError(
        "Error reserving space for metadata", code: error.code == 0 ? EIO : error.code,
        explanation: [
          "\(error)",
          "the metadata needs all of its space before the pool is written to: make room there",
        ])
    }
  }

  override func preresume() throws(TargetError) {
    // What is only read is read as far as it is there.
    if device.mapper.isReadOnly { return bind() }
    metadata.destination.refreshSize()
    if wantsWriting { try reserveMetadataSpace() }
    bind()
    pool.metadataLock.take()
    defer { pool.metadataLock.give() }
    do throws(TargetError) {
      var hasGrown = try growData()
      if try growMetadata() { hasGrown = true }
      if hasGrown { _ = pool.commitNow() }
      pool.metadataSpace.setReserve(of: pool.metadata.metadataBlockCount)
    } catch {
      // A pool that has failed can be resumed in spite of that, so that it can be taken away.
      if pool.mode != .fail { throw error }
    }
  }

  private func bind() {
    if wantsPassdown, let reason = whyNoPassdown {
      device.mapper.log(
        "Data device (\(dataBelow.text)) \(reason): Disabling discard passdown.")
    }
    pool.bind(request, dataBelow, passesDiscardsDown: passesDiscardsDown)
    guard isFresh else { return }
    isFresh = false
    pool.setMode(
      request.features.contains(.readOnly) || device.mapper.isReadOnly ? .readOnly : .write)
    if pool.mode == .write { pool.thins.retryLater() }
  }

  /// Whether the pool has more data blocks now.
  private func growData() throws(TargetError) -> Bool {
    let blocks = endByte / pool.blockBytes
    let known = pool.metadata.dataBlockCount
    guard blocks >= known else {
      throw TargetError("pool target (\(blocks) blocks) too small: expected \(known)")
    }
    return try grow(from: known, to: blocks, "data") { () throws(PoolError) in
      try pool.metadata.resizeData(to: blocks)
    }
  }

  private func growMetadata() throws(TargetError) -> Bool {
    metadata.destination.refreshSize()
    let blocks = min(metadata.direct.byteCount / 4096, Limits.metadataBlocksMax)
    let known = pool.metadata.metadataBlockCount
    guard blocks >= known else {
      throw TargetError("metadata device (\(blocks) blocks) too small: expected \(known)")
    }
    return try grow(from: known, to: blocks, "metadata") { () throws(PoolError) in
      if pool.mode == .outOfMetadataSpace { pool.setMode(.write) }
      try pool.metadata.resizeMetadata()
    }
  }

  private func grow(
    from known: UInt64, to blocks: UInt64, _ what: String,
    _ body: () throws(PoolError) -> Void
  ) throws(TargetError) -> Bool {
    guard blocks > known, pool.mode < .readOnly else { return false }
    if pool.modes.needsCheck {
      device.mapper.log("\(device.name): unable to grow the \(what) device until repaired.")
      return false
    }
    do throws(PoolError) {
      try body()
      pool.changed()
      return true
    } catch {
      pool.operationFailed("resize", error)
      throw TargetError("failed to resize \(what) device")
    }
  }

  override func resume() { pool.resume() }

  override func close() {
    pool.release()
    super.close()
  }

  // MARK: - Queries and messages

  override func table() -> String {
    var printed = request
    printed.metadataDevice = "\(metadata.number)"
    printed.dataDevice = "\(dataBelow.number)"
    printed.blockSectors = pool.blockBytes / 512
    return printed.parameters
  }

  override func status(noFlush: Bool) -> String {
    guard pool.mode != .fail else { return ThinPoolStatus.failed.parameters }
    if !noFlush && !device.isSuspended { _ = pool.commitNow() }
    guard pool.mode != .fail else { return ThinPoolStatus.failed.parameters }
    // The last field is that of the device as it is now, before a resume has looked at it.
    metadata.destination.refreshSize()
    let (known, total) = (pool.metadata, pool.metadata.metadataBlockCount)
    var details = ThinPoolStatus.Details(
      transactionID: known.superblock.transactionID,
      metadata: BlockUsage(used: total - min(total, pool.freeMetadata), total: total),
      data: BlockUsage(
        used: known.dataBlockCount - min(known.dataBlockCount, known.freeDataBlocks),
        total: known.dataBlockCount),
      metadataLowWater: pool.metadataLowWater)
    let held = known.superblock.metadataSnapshot
    details.heldRoot = held == 0 ? nil : held
    switch pool.mode {
    case .write: details.mode = .readWrite
    case .outOfDataSpace: details.mode = .outOfDataSpace
    default: details.mode = .readOnly
    }
    let passesDown =
      isFresh ? !request.features.contains(.noDiscardPassdown) : passesDiscardsDown
    details.discards =
      request.features.contains(.ignoreDiscard)
      ? .ignored : passesDown ? .passedDown : .notPassedDown
    let fails = isFresh ? request.features.contains(.errorIfNoSpace) : pool.space.failsWrites
    details.noSpace = fails ? .error : .queue
    details.needsCheck = pool.modes.needsCheck
    return ThinPoolStatus.working(details).parameters
  }

  override func message(_ text: String) throws(MessageError) -> String? {
    guard pool.mode < .outOfMetadataSpace else {
      throw MessageError(
        "unable to service pool target messages in READ_ONLY or FAIL mode",
        code: EOPNOTSUPP, explanation: ["see why with: dmthin pool doctor \(device.name)"])
    }
    let message = try ThinPoolMessage(text)
    pool.metadataLock.take()
    defer { pool.metadataLock.give() }
    do throws(PoolError) {
      try perform(message)
    } catch {
      // A refusal changes nothing; a failure part way leaves only the way back.
      if pool.metadata.hasFailed { pool.operationFailed("message", error) }
      throw MessageError(message.words(for: error), code: error.systemCode)
    }
    pool.changed()
    // The kernel says nothing of this; but what was asked for is undone.
    guard pool.commitNow() else { throw MessageError("commit failed", code: EIO) }
    return nil
  }

  private func perform(_ message: ThinPoolMessage) throws(PoolError) {
    let metadata = pool.metadata
    switch message {
    case .createThin(let id): try metadata.createThin(ThinID(UInt64(id)))
    case .createSnapshot(let id, let origin):
      if try metadata.hasDevice(ThinID(UInt64(id))) { throw .exists }
      guard try metadata.hasDevice(ThinID(UInt64(origin))) else { throw .notFound }
      try metadata.createSnapshot(
        ThinID(UInt64(id)), origin: ThinID(UInt64(origin)))
      // What was its own is shared now.
      pool.thins.noteSnapshot(of: UInt64(origin))
    case .delete(let id):
      guard try metadata.hasDevice(ThinID(UInt64(id))) else { throw .notFound }
      try metadata.delete(ThinID(UInt64(id)))
    case .setTransactionID(let current, let new): try metadata.setTransactionID(current, new)
    case .reserveMetadataSnapshot:
      guard metadata.superblock.metadataSnapshot == 0 else { throw .busy }
      // It commits by itself: data first.
      guard pool.commitNow() else { throw .failed }
      try metadata.reserveMetadataSnapshot()
    case .releaseMetadataSnapshot: try metadata.releaseMetadataSnapshot()
    }
  }
}

extension ThinPoolMessage {
  /// What an error says of this message.
  fileprivate func words(for error: PoolError) -> String {
    switch (error, self) {
    case (.exists, .createThin(let id)), (.exists, .createSnapshot(let id, _)):
      "there is a thin device \(id) already"
    case (.notFound, .createSnapshot(_, let id)), (.notFound, .delete(let id)):
      "the pool has no thin device \(id)"
    case (.busy, .delete(let id)): "thin device \(id) is active"
    case (.busy, .reserveMetadataSnapshot): "the pool holds a metadata snapshot already"
    default: "\(error)"
    }
  }
}
