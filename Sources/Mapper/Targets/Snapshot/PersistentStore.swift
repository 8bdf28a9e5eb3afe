import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import ThinFormat

/// A store with its records on the COW device, in the kernel's format.
///
/// Records are appended in the order in which chunks were given out. What has its contents while a commit
/// is under way goes into the next one together. A commit makes the contents durable, then writes the
/// records, durably; an area that becomes full has the next one zeroed first.
///
/// Invariants: `area` is what the disk has, or will have when the commit is done. Runs are in `first` ...
/// `last` until they are on record.
final class PersistentStore: ExceptionStore {
  private enum Phase {
    case idle, zeroing, flushing, writing
  }

  private let requests: RequestPool
  /// A buffer of zeros.
  private let zeros: AlignedBuffer
  private let area: AlignedBuffer
  /// The number of the area in `area`, and of records in it.
  private var areaIndex: UInt64
  private var recordCount: UInt64
  /// The next chunk that is given out.
  private var nextFree: UInt64
  private(set) var isValid: Bool

  private var phase = Phase.idle
  /// The first record of `area` that is not on the disk yet.
  private var firstUnwritten: UInt64 = 0
  private var pendingRequests = 0
  private var hasFailed = false
  /// Runs in the order in which their chunks were given out, and those of the commit under way.
  private var first: PendingRun?
  private var last: PendingRun?
  @safe @exclusivity(unchecked) private var batch: [PendingRun] = []
  private var invalidated: (() -> Void)?

  /// A store that was read, or made.
  init(
    _ cow: OpenDevice, _ kind: SnapshotTarget.Store, _ found: FoundStore,
    mapper: UserspaceDeviceMapper
  ) {
    requests = mapper.snapshots.requests
    zeros = mapper.zeros
    area = found.area
    areaIndex = found.areaIndex
    recordCount = found.recordCount
    nextFree = found.nextFree
    isValid = found.isValid
    super.init(cow, found.layout, kind)
  }

  override var isIdle: Bool { phase == .idle && first == nil && pendingRequests == 0 }
  override var allocatedSectors: UInt64 { nextFree &* UInt64(layout.chunkSectors) }
  override var metadataSectors: UInt64 { (areaIndex &+ 2) &* UInt64(layout.chunkSectors) }

  // MARK: - Chunks

  override func allocate(_ most: UInt64) -> Range<UInt64>? {
    let total = cow.direct.byteCount / chunkBytes
    guard nextFree < total else { return nil }
    let end = min(layout.nextArea(after: nextFree), total)
    let range = nextFree..<nextFree + min(most, end - nextFree)
    nextFree = layout.dataChunk(from: range.upperBound)
    return range
  }

  override func begin(_ run: PendingRun) {
    if let last { last.next = run } else { first = run }
    last = run
  }

  override func copied(_ run: PendingRun) { commit() }

  // MARK: - Commits

  /// Begins a commit, if there is something to commit and none is under way.
  private func commit() {
    guard phase == .idle else { return }
    firstUnwritten = recordCount
    hasFailed = false
    while let run = first, run.isCopied, recordCount < layout.recordsPerArea {
      if run.failure != 0 { hasFailed = true }
      while run.recorded < run.count, recordCount < layout.recordsPerArea {
        let record = ExceptionRecord(
          oldChunk: run.oldFirst + run.recorded, newChunk: run.newFirst + run.recorded)
        unsafe record.encode(
          into: area.bytes, at: Int(recordCount) * ExceptionRecord.byteCount)
        recordCount += 1
        run.recorded += 1
      }
      guard run.recorded == run.count else { break }
      first = run.next
      if first == nil { last = nil }
      run.next = nil
      batch.append(run)
    }
    guard recordCount > firstUnwritten else { return }
    if hasFailed { isValid = false }
    guard isValid else { return committed() }
    if recordCount == layout.recordsPerArea {
      zeroNextArea()
    } else {
      flush()
    }
  }

  private func zeroNextArea() {
    phase = .zeroing
    pendingRequests += 1
    let start = layout.chunk(ofArea: areaIndex &+ 1) &* chunkBytes
    var at: UInt64 = 0
    while at < chunkBytes {
      let count = unsafe min(chunkBytes - at, UInt64(zeros.bytes.count))
      unsafe send(.write, at: start &+ at, zeros.bytes.baseAddress, Int(count))
      at += count
    }
    requestEnded(0)
  }

  private func flush() {
    phase = .flushing
    unsafe send(.flush, at: 0, nil, 0)
  }

  private func writeRecords() {
    phase = .writing
    let range = units(firstUnwritten..<recordCount)
    unsafe send(
      .write, at: layout.chunk(ofArea: areaIndex) &* chunkBytes &+ UInt64(range.lowerBound),
      area.bytes.baseAddress.map { unsafe $0 + range.lowerBound }, range.count, flags: .durable)
  }

  /// The bytes of the area that are written for `records`: whole blocks of 4 KiB, as far as a chunk has them.
  private func units(_ records: Range<UInt64>) -> Range<Int> {
    let unit = Int(min(chunkBytes, 4096))
    let lower = Int(records.lowerBound) * ExceptionRecord.byteCount
    let upper = Int(records.upperBound) * ExceptionRecord.byteCount
    return lower / unit * unit..<(upper + unit - 1) / unit * unit
  }

  private func send(
    _ operation: BlockOperation, at offset: UInt64, _ memory: UnsafeMutableRawPointer?,
    _ count: Int,
    flags: BlockFlags = []
  ) {
    pendingRequests += 1
    unsafe cow.direct.submit(
      requests.take(
        operation, offset: offset, byteCount: count, buffer: memory, flags: flags, owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    let (code, isHeader) = unsafe (request.pointee.errorNumber, request.pointee.tag == 1)
    unsafe requests.give(request)
    if isHeader {
      pendingRequests -= 1
      invalidated.take()?()
    } else {
      requestEnded(code)
    }
  }

  private func requestEnded(_ code: Int32) {
    pendingRequests -= 1
    if code != 0 { hasFailed = true }
    // The header's request is not one of a commit.
    guard pendingRequests == (invalidated == nil ? 0 : 1) else { return }
    if hasFailed { isValid = false }
    guard isValid else { return committed() }
    switch phase {
    case .idle: break
    case .zeroing: flush()
    case .flushing: writeRecords()
    case .writing: committed()
    }
  }

  private func committed() {
    let isGood = isValid
    if recordCount == layout.recordsPerArea {
      areaIndex &+= 1
      recordCount = 0
      area.zero()
    }
    phase = .idle
    let runs = batch
    batch = []
    for run in runs { run.committed(isGood) }
    commit()
  }

  // MARK: - Invalidation

  override func invalidate(_ done: @escaping () -> Void) {
    isValid = false
    guard invalidated == nil else { return done() }
    let header = AlignedBuffer(count: 4096)
    unsafe ExceptionStoreHeader(chunkSectors: layout.chunkSectors, isValid: false)
      .encode(into: header.bytes)
    let count = Int(min(chunkBytes, 4096))
    pendingRequests += 1
    // The buffer lives until the request is done.
    invalidated = { withExtendedLifetime(header) { done() } }
    let request = unsafe requests.take(
      .write, offset: 0, byteCount: count, buffer: header.bytes.baseAddress, flags: .durable,
      owner: self)
    unsafe request.pointee.tag = 1
    unsafe cow.direct.submit(request)
  }

  // MARK: - Merging

  override func lastRun() throws(BlockIOError) -> ExceptionRun? {
    if recordCount == 0 {
      guard areaIndex > 0 else { return nil }
      areaIndex -= 1
      try readArea()
      recordCount = layout.recordsPerArea
    }
    let last = record(recordCount - 1)
    var count: UInt64 = 1
    while count < recordCount {
      let record = record(recordCount - 1 - count)
      guard record.oldChunk == last.oldChunk &- count, record.newChunk == last.newChunk &- count
      else { break }
      count += 1
    }
    return ExceptionRun(
      oldFirst: last.oldChunk &- (count - 1), newFirst: last.newChunk &- (count - 1), count: count)
  }

  private func record(_ index: UInt64) -> ExceptionRecord {
    let area = area
    return ExceptionRecord(decoding: area.span, at: Int(index) * ExceptionRecord.byteCount)
  }

  private func readArea() throws(BlockIOError) {
    let io = AwaitedIO(cow.direct, path: cow.text, requests)
    let start = layout.chunk(ofArea: areaIndex) &* chunkBytes
    unsafe io.send(
      .read, UnsafeRawBufferPointer(rebasing: area.bytes[0..<Int(chunkBytes)]), at: start)
    try io.wait()
  }

  override func forgetLast(_ count: UInt64) throws(BlockIOError) {
    let left = recordCount - min(count, recordCount)
    for index in left..<recordCount {
      unsafe ExceptionRecord(oldChunk: 0, newChunk: 0).encode(
        into: area.bytes, at: Int(index) * ExceptionRecord.byteCount)
    }
    let range = units(left..<recordCount)
    let io = AwaitedIO(cow.direct, path: cow.text, requests)
    unsafe io.send(
      .write, UnsafeRawBufferPointer(rebasing: area.bytes[range]),
      at: layout.chunk(ofArea: areaIndex) &* chunkBytes &+ UInt64(range.lowerBound),
      flags: .durable)
    try io.wait()
    recordCount = left
    // As if all had been given out in the order of the records.
    nextFree = layout.chunk(ofArea: areaIndex) &+ left &+ 1
  }
}
