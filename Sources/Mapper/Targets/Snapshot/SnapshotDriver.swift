import DataPath
import DeviceMapper
import EventLoop
import Glibc
import ThinFormat

extension TargetType {
  /// A snapshot of a device, with the chunks that differ on another device.
  static let snapshot = TargetType(
    SnapshotTarget.type, version: (1, 16, 0), SnapshotTarget.self
  ) { (context) throws(TargetError) in try SnapshotDriver(context) }
}

/// What a part of a snapshot carries along.
struct SnapshotPartState: RequestState {
  /// The pending run that it writes as a whole.
  var slot: UInt64 = 0
  var isWhole = false
  /// Its epoch among the reads of the origin, or the writes to a merging snapshot, plus one; 0 for none.
  var epoch: UInt8 = 0
}

extension BlockRequest {
  /// Of parts whose owner is a `SnapshotDriver` only.
  var snapshot: SnapshotPartState {
    get { state[SnapshotPartState.self] }
    set { state[SnapshotPartState.self] = newValue }
  }
}

/// The target `snapshot`. Chunks with an exception are on the COW device; the others are read from the
/// origin, and get an exception when they are written.
///
/// What goes to neighbouring chunks on one device goes there as it came. Chunks that a write covers are
/// written to their new place at once; others are copied first, with what is written put in.
class SnapshotDriver: TargetDriver {
  let origin: OpenDevice
  let cow: OpenDevice
  let group: OriginGroup
  private let target: SnapshotTarget
  /// Replaced when a table takes over from another.
  @safe @exclusivity(unchecked) final private(set) var exceptions: SnapshotExceptions
  /// Whether it was resumed: writes to the origin make exceptions from then on.
  @safe @exclusivity(unchecked) final private(set) var isActive = false

  init(_ context: DriverContext<SnapshotTarget>) throws(TargetError) {
    target = context.target
    origin = try context.device(.origin)
    cow = try context.device(.cow)
    guard origin.number != cow.number else {
      throw TargetError("COW device cannot be the same as origin device")
    }
    guard target.chunkSectors == 0 || Self.isUsable(target.chunkSectors, origin, cow) else {
      throw TargetError("Couldn't create exception store")
    }
    let snapshots = context.device.mapper.snapshots
    group = snapshots.use(origin)
    do throws(TargetError) {
      try group.requireRoom(cow, isMerge: context.line.type == SnapshotTarget.mergeType)
      let isAwaited = group.sharing(cow).source != nil
      exceptions = try Self.exceptions(target, origin, cow, isAwaited: isAwaited, context.device)
    } catch {
      snapshots.release(origin)
      throw error
    }
    super.init(context)
    exceptions.driver = self
    if !exceptions.isValid { log("Snapshot is marked invalid.") }
    group.add(self)
  }

  /// Whether chunks can have so many sectors.
  private static func isUsable(_ chunkSectors: UInt32, _ origin: OpenDevice, _ cow: OpenDevice)
    -> Bool
  {
    let bytes = Int(chunkSectors) * 512
    return chunkSectors > 0 && SnapshotTarget.isChunkSize(UInt64(chunkSectors))
      && bytes % origin.direct.logicalBlockBytes == 0 && bytes % cow.direct.logicalBlockBytes == 0
  }

  /// What a snapshot has at first.
  /// - Parameter isAwaited: whether another table will hand it over.
  private static func exceptions(
    _ target: SnapshotTarget, _ origin: OpenDevice, _ cow: OpenDevice, isAwaited: Bool,
    _ device: MappedDevice
  ) throws(TargetError) -> SnapshotExceptions {
    let mapper = device.mapper
    if isAwaited { return SnapshotExceptions(origin, AwaitedStore(cow, target.store), mapper) }
    if target.store == .transient {
      guard target.chunkSectors > 0 else { throw TargetError("Chunk size not set") }
      let layout = ExceptionStoreLayout(chunkSectors: target.chunkSectors)
      return SnapshotExceptions(origin, TransientStore(cow, layout), mapper)
    }
    let records = ExceptionTable()
    do throws(FoundStore.Refusal) {
      let found = try FoundStore(
        on: MetadataDevice(cow), chunkSectors: target.chunkSectors,
        logicalBlockBytes: cow.direct.logicalBlockBytes,
        isUsable: { isUsable($0, origin, cow) },
        warn: { mapper.log("\(device.name): snapshots: \($0)") }
      ) { (record, chunkCount) in
        let isThere = record.newChunk < chunkCount
        records.set(record.oldChunk, isThere ? record.newChunk : ExceptionTable.nowhere)
      }
      let store = PersistentStore(cow, target.store, found, mapper: mapper)
      return SnapshotExceptions(origin, store, mapper, records, isValid: found.isValid)
    } catch {
      throw TargetError(
        "Failed to read snapshot metadata", code: error.code, explanation: error.explanation)
    }
  }

  func log(_ text: String) { device.mapper.log("\(device.name): snapshots: \(text)") }

  /// 0 until a store is handed over.
  final var chunkBytes: UInt64 { exceptions.chunkBytes }
  final var chunkShift: UInt64 { exceptions.chunkShift }
  /// Whether a full store is reported, rather than making the snapshot invalid.
  var reportsOverflow: Bool { target.store == .persistentWithOverflow }
  /// Whether writes to the origin make exceptions in it.
  var takesExceptions: Bool { isActive && exceptions.isValid && chunkBytes > 0 }

  // MARK: - Properties

  override var areas: [Area] { [Area(origin, 0, length)] }
  override var takesDiscards: Bool {
    target.features.contains(.discardZeroesCOW) && super.takesDiscards
  }
  override var discardBytesMax: UInt64 { chunkBytes }
  override var discardBytes: Int { takesDiscards ? Int(clamping: chunkBytes) : 0 }
  override var optimalBytes: Int { Int(clamping: chunkBytes) }
  // What is written to a chunk may take the place of a hole.
  override var holesStayZero: Bool { false }

  override func rangesBelow(_ range: Range<UInt64>) -> [(OpenDevice, Range<UInt64>)] {
    [(origin, range), (cow, 0..<cow.direct.byteCount)]
  }

  override func loadExtent(in range: Range<UInt64>, _ ready: @escaping () -> Void) {
    guard chunkBytes > 0, exceptions.find(range.lowerBound >> chunkShift) == nil else {
      return ready()
    }
    loadExtent(of: origin.direct, shift: 0, in: range, ready)
  }

  /// The most chunks of an extent.
  private static let extentChunksMax: UInt64 = 4096

  /// What the origin says of chunks without an exception; the others hold something.
  override func forEachExtent(
    in range: Range<UInt64>, _ body: (BlockDestination.Extent) -> Bool
  ) -> Bool {
    guard chunkBytes > 0, exceptions.isValid else { return super.forEachExtent(in: range, body) }
    var at = range.lowerBound
    while at < range.upperBound {
      let isOwn = exceptions.find(at >> chunkShift) != nil
      var end = (at >> chunkShift + 1) << chunkShift
      // Not more than takes next to no time; the caller asks on.
      let most = min(range.upperBound, end + Self.extentChunksMax * chunkBytes)
      while end < most, (exceptions.find(end >> chunkShift) != nil) == isOwn {
        end += chunkBytes
      }
      let part = at..<min(end, range.upperBound)
      let goesOn =
        isOwn
        ? super.forEachExtent(in: part, body)
        : forEachExtent(of: origin.direct, shift: 0, in: part, body)
      guard goesOn else { return false }
      at = part.upperBound
    }
    return true
  }

  // MARK: - I/O

  override func map(_ part: RequestPointer) {
    unsafe part.pointee.snapshot = SnapshotPartState()
    let operation = unsafe part.pointee.operation
    if operation == .flush { return unsafe cow.direct.submit(part) }
    guard exceptions.isValid, chunkBytes > 0, operation == .read || !exceptions.isOverflowed else {
      return unsafe finishLater(part, EIO)
    }
    if operation == .discard { unsafe discard(part) } else { unsafe transfer(part) }
  }

  /// A read or write: one part for each run of chunks that are together below, or get their place together.
  private func transfer(_ part: RequestPointer) {
    let isRead = unsafe part.pointee.operation == .read
    let whole = unsafe part.pointee.offset..<part.pointee.end
    let (exceptions, shift, bytes) = (exceptions, chunkShift, chunkBytes)
    var at = whole.lowerBound
    while at < whole.upperBound {
      let chunk = at >> shift
      var next = chunk + 1
      var stop = min(whole.upperBound, next << shift)
      // An earlier piece of a write can have come to the end of the space.
      if !exceptions.isValid || !isRead && exceptions.isOverflowed {
        stop = whole.upperBound
        unsafe finishLater(piece(of: part, at..<stop, whole), EIO)
      } else if let new = exceptions.find(chunk) {
        while stop < whole.upperBound, new != ExceptionTable.nowhere,
          exceptions.find(next) == new + (next - chunk)
        {
          next += 1
          stop = min(whole.upperBound, stop + bytes)
        }
        let piece = unsafe piece(of: part, at..<stop, whole)
        unsafe submitToCow(piece, new, chunk)
      } else if isRead {
        while stop < whole.upperBound, exceptions.find(next) == nil {
          next += 1
          stop = min(whole.upperBound, stop + bytes)
        }
        let piece = unsafe piece(of: part, at..<stop, whole)
        unsafe piece.pointee.snapshot.epoch = UInt8(exceptions.reads.enter() + 1)
        unsafe origin.direct.submit(piece)
      } else {
        stop = unsafe writeNew(part, chunk, at: at, whole)
      }
      at = stop
    }
  }

  /// Sends a piece on that begins in `chunk`, which is `new` on the COW device.
  final func submitToCow(_ piece: RequestPointer, _ new: UInt64, _ chunk: UInt64) {
    guard new != ExceptionTable.nowhere else { return unsafe finishLater(piece, EIO) }
    unsafe piece.pointee.offset = piece.pointee.offset &- chunk << chunkShift &+ new << chunkShift
    unsafe cow.direct.submit(piece)
  }

  /// A write to a chunk without an exception. Returns where to go on.
  private func writeNew(
    _ part: RequestPointer, _ chunk: UInt64, at: UInt64, _ whole: Range<UInt64>
  ) -> UInt64 {
    let shift = chunkShift
    let chunkEnd = min(whole.upperBound, (chunk + 1) << shift)
    if let run = exceptions.pending(chunk) {
      unsafe run.add(piece(of: part, at..<chunkEnd, whole))
      return chunkEnd
    }
    let isWhole = at == chunk << shift && whole.upperBound - at >= chunkBytes
    var count: UInt64 = 1
    if isWhole {
      let most = (whole.upperBound - at) >> shift
      while count < most, exceptions.find(chunk + count) == nil,
        exceptions.pending(chunk + count) == nil
      {
        count += 1
      }
    }
    guard let run = exceptions.begin(chunk, count, isWhole: isWhole) else {
      exceptions.noSpace(forOwnWrite: true)
      unsafe finishLater(piece(of: part, at..<chunkEnd, whole), EIO)
      return chunkEnd
    }
    guard isWhole else {
      unsafe run.add(piece(of: part, at..<chunkEnd, whole))
      exceptions.copy(run)
      return chunkEnd
    }
    let stop = at + run.count * chunkBytes
    let piece = unsafe piece(of: part, at..<stop, whole)
    unsafe piece.pointee.snapshot = SnapshotPartState(slot: run.slot, isWhole: true)
    unsafe submitToCow(piece, run.newFirst, chunk)
    return stop
  }

  /// A discard, chunk by chunk: a whole chunk with an exception becomes zeros, the discard of a part of one
  /// goes on, and the rest has no effect on the snapshot.
  private func discard(_ part: RequestPointer) {
    if target.features.contains(.discardPassdownOrigin) {
      let other = unsafe device.another(part, owner: self)
      unsafe other.pointee.snapshot = SnapshotPartState(
        epoch: UInt8(exceptions.reads.enter() + 1))
      unsafe origin.direct.submit(other)
    }
    let whole = unsafe part.pointee.offset..<part.pointee.end
    var at = whole.lowerBound
    while at < whole.upperBound {
      let chunk = at >> chunkShift
      let stop = min(whole.upperBound, (chunk + 1) << chunkShift)
      let piece = unsafe piece(of: part, at..<stop, whole)
      if let new = exceptions.find(chunk) {
        if stop - at == chunkBytes { unsafe piece.pointee.operation = .writeZeroes }
        unsafe submitToCow(piece, new, chunk)
      } else {
        unsafe finishLater(piece)
      }
      at = stop
    }
  }

  override func requestDone(_ part: RequestPointer) {
    let state = unsafe part.pointee.snapshot
    if state.epoch > 0 { exceptions.reads.leave(Int(state.epoch) - 1) }
    if state.isWhole, let run = exceptions.run(state.slot) {
      unsafe part.pointee.snapshot = SnapshotPartState()
      unsafe run.wholeDone(part)
    } else {
      unsafe done(part)
    }
  }

  // MARK: - Suspend and resume

  override func preresume() throws(TargetError) {
    let (source, destination, _) = group.sharing(cow)
    if let source, destination != nil {
      guard self !== source else {
        throw TargetError("Unable to resume snapshot source until handover completes.")
      }
      guard source.device.isSuspended else {
        throw TargetError("Unable to perform snapshot handover until source is suspended.")
      }
    }
    let merging = group.merging
    let isInterrupted = merging !== self && merging?.stopAndWait() == true
    // Writes to the origin that began before this became active end before it does.
    let devices = group.devices(except: device)
    for device in devices { loop.pause { device.hold($0) } }
    if let source, let destination { destination.takeOver(from: source) }
    isActive = true
    for device in devices { device.release() }
    if isInterrupted { merging?.start() }
  }

  /// Gets what `source` has; that has nothing any more, and is invalid.
  private func takeOver(from source: SnapshotDriver) {
    source.exceptions.waitUntilIdle()
    let awaited = exceptions
    exceptions = source.exceptions
    source.exceptions = awaited
    exceptions.driver = self
    source.exceptions.driver = source
    source.exceptions.giveUp()
    group.moveToItsPlace(source)
    group.moveToItsPlace(self)
  }

  override func close() {
    let (source, destination, _) = group.sharing(cow)
    if let destination, source === self {
      log("Cancelling snapshot handover.")
      destination.exceptions.giveUp()
    }
    exceptions.waitUntilIdle()
    group.remove(self)
    device.mapper.snapshots.release(origin)
    super.close()
  }

  // MARK: - Queries

  override func table() -> String {
    var printed = target
    (printed.origin, printed.cow) = ("\(origin.number)", "\(cow.number)")
    printed.chunkSectors = exceptions.store.layout.chunkSectors
    // A table keeps its letter, but for one that was handed over to another: it has that one's.
    let kind = exceptions.store.kind
    if kind == .transient || target.store == .transient || chunkBytes == 0 { printed.store = kind }
    return printed.parameters
  }

  override func status(noFlush: Bool) -> String { exceptions.status.parameters }
}
