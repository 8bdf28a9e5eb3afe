import BlockIO
import DataPath
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// Makes a new data block of a thin device ready, and then its mapping: zeros, a copy of a shared
/// block or of the external origin, with what is being written put in before it goes to disk.
///
/// Blocks larger than the pool's buffers go piece by piece. Writes that come for the block while its
/// first piece is not yet written are put in too; what comes later waits at the cell.
///
/// Invariants: the cell lives as long as this and owns it. `parts` are in the block when it is written;
/// `late` are issued to it once it is mapped.
final class Preparation: RequestOwner {
  /// What the block has before anything is written to it.
  enum Source {
    case zeros
    case dataBlock(UInt64)
    /// Bytes of the origin from a place on, as many as it has; zeros thereafter.
    case origin(OpenDevice, offset: UInt64, byteCount: UInt64)
    /// Nothing that matters.
    case nothing
  }

  private enum Phase {
    case gathering, reading, writing, done
  }

  private let pool: ThinPool
  private let thin: OpenThin
  private let cell: Cell
  private let block: UInt64
  private let newBlock: UInt64
  /// First byte of the block on the thin device.
  private let startByte: UInt64
  private let source: Source
  private var parts = RequestQueue()
  private var late = RequestQueue()
  private var phase = Phase.gathering
  private var buffer: AlignedBuffer?
  /// How much of the block is written, and how much is to be.
  private var position: UInt64 = 0
  private var total: UInt64
  private var error: Int32 = 0

  init(
    _ driver: ThinDriver, _ cell: Cell, block: UInt64, newBlock: UInt64, source: Source
  ) {
    pool = driver.pool
    thin = driver.thin
    self.cell = cell
    self.block = block
    self.newBlock = newBlock
    self.source = source
    startByte = driver.startByte &+ block &* pool.blockBytes
    total = pool.blockBytes
    super.init()
  }

  private var start: UInt64 { newBlock * pool.blockBytes }
  private var pieceBytes: Int { Int(min(total - position, pool.blockBytes, 1 << 20)) }

  /// Begins, with the write that is the reason for it.
  func begin(_ part: RequestPointer) {
    if unsafe UInt64(part.pointee.byteCount) == pool.blockBytes {
      unsafe parts.append(part)
      phase = .writing
      position = total
      unsafe submit(.write, pool.data, start, part.pointee.memory, part.pointee.byteCount)
      return
    }
    switch source {
    case .nothing:
      unsafe late.append(part)
      finish()
      return
    case .origin(_, _, let byteCount) where byteCount < pool.blockBytes && !pool.isZeroing:
      // What is beyond the origin stays as it was on the data device.
      total = byteCount
      unsafe late.append(part)
    default: unsafe parts.append(part)
    }
    pool.preparations.giveBuffer(to: self)
  }

  /// Takes a write into the block, if that is still possible.
  func merge(_ part: RequestPointer) -> Bool {
    guard unsafe part.pointee.operation == .write, !parts.isEmpty, position == 0,
      phase == .gathering || phase == .reading
    else { return false }
    unsafe parts.append(part)
    return true
  }

  /// A buffer is there.
  func goOn(with buffer: AlignedBuffer) {
    self.buffer = buffer
    piece()
  }

  /// The next piece: read, or sent at the end of the pass, when more may have come for it.
  private func piece() {
    let memory = unsafe RequestMemory(buffer?.bytes.baseAddress)
    switch source {
    case .dataBlock(let old):
      phase = .reading
      submit(.read, pool.data, old * pool.blockBytes + position, memory, pieceBytes)
    case .origin(let device, let offset, let byteCount) where position < byteCount:
      phase = .reading
      let count = min(UInt64(pieceBytes), byteCount - position)
      submit(.read, device.direct, offset + position, memory, Int(count))
    default:
      phase = .gathering
      pool.preparations.sendLater(self)
    }
  }

  /// Sends a piece that needed no reading.
  func send() {
    guard phase == .gathering, let buffer else { return }
    unsafe buffer.bytes.baseAddress.map { _ = unsafe memset($0, 0, pieceBytes) }
    write(buffer)
  }

  private func write(_ buffer: AlignedBuffer) {
    let piece = startByte + position..<startByte + position + UInt64(pieceBytes)
    if let memory = unsafe buffer.bytes.baseAddress {
      unsafe parts.putWrites(into: memory, piece)
    }
    phase = .writing
    unsafe submit(
      .write, pool.data, start + position, RequestMemory(buffer.bytes.baseAddress), pieceBytes)
    position += UInt64(piece.count)
  }

  private func submit(
    _ operation: BlockOperation, _ destination: BlockDestination, _ offset: UInt64,
    _ memory: RequestMemory, _ count: Int
  ) {
    unsafe destination.submit(
      pool.requests.take(operation, offset: offset, byteCount: count, memory: memory, owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    error = unsafe request.pointee.errorNumber
    let read = unsafe request.pointee.byteCount
    if unsafe request.pointee.operation == .write { pool.noteWrite(error) }
    unsafe pool.requests.give(request)
    if error == 0, phase == .reading, let buffer {
      if read < pieceBytes, let memory = unsafe buffer.bytes.baseAddress {
        unsafe memset(memory + read, 0, pieceBytes - read)
      }
      return write(buffer)
    }
    if error == 0 && position < total { return piece() }
    if let buffer { pool.preparations.takeBack(buffer) }
    buffer = nil
    if case .dataBlock = source, error == 0 {
      // The old block can be another device's soon: no read of it may be under way.
      pool.sharedReads.afterAll { self.finish() }
    } else {
      finish()
    }
  }

  /// The block has its contents, or cannot have them; the worker goes on.
  private func finish() {
    phase = .done
    pool.preparations.finish(self)
  }

  /// Makes the mapping. Called by the worker.
  func insert() {
    guard error == 0, pool.mode < .outOfMetadataSpace else {
      pool.restore(newBlock..<(newBlock + 1))
      return end(isNoRoom(error) ? error : EIO)
    }
    do throws(PoolError) {
      try pool.metadata.claimDataBlock(DataBlock(newBlock))
      try pool.metadata.insert(
        ThinID(thin.id), VirtualBlock(block), dataBlock: DataBlock(newBlock))
    } catch {
      pool.operationFailed("insert", error)
      pool.restore(newBlock..<(newBlock + 1))
      return end(EIO)
    }
    pool.changed()
    end(0)
  }

  private func end(_ code: Int32) {
    var written = parts.takeAll()
    while let part = unsafe written.takeFirst() {
      if unsafe code == 0 && part.pointee.flags.contains(.durable) {
        unsafe part.pointee.thin = ThinPartState(isWritten: true)
        unsafe pool.committer.wait(part)
      } else {
        unsafe pool.loop.finishLater(part, code)
      }
    }
    var issued = late.takeAll()
    pool.unlock(cell)
    if code == 0 { pool.noteMapping(thin, block, newBlock) }
    while let part = unsafe issued.takeFirst() {
      if code == 0 { unsafe pool.again(part) } else { unsafe pool.loop.finishLater(part, code) }
    }
  }
}

extension ThinPool {
  /// Keeps a mapping in mind, unless something is being done to its block again.
  func noteMapping(_ thin: OpenThin, _ block: UInt64, _ dataBlock: UInt64) {
    guard cells.find(thin.id, block) == nil, dataBlock < dataBlockLimit else { return }
    thin.cache.set(block, BlockState(dataBlock: dataBlock, isShared: false))
  }
}
