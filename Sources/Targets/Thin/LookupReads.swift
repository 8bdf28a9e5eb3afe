import BlockIO
import DataPath
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// Reads and writes of clients whose look-ups need blocks of metadata that are not in memory. Each block is
/// read once for all that wait for it, and many at a time; then the requests are mapped anew, and come as far
/// as the next block that is missing. Those that come while the metadata is being changed wait for the end
/// of that.
///
/// Memory: 4 KiB for each block that is being read, of which there are no more than requests on their way.
final class LookupReads: RequestOwner {
  private struct Read {
    var kind: BlockKind
    var buffer: AlignedBuffer
    var waiting = RequestQueue()
  }

  /// After so many blocks that were gone when the request was mapped anew, it is not left to chance.
  static let attemptsMax: UInt64 = 40
  private static let buffersKept = 64

  private unowned let pool: ThinPool
  private var reads: [UInt64: Read] = [:]
  private var buffers: [AlignedBuffer] = []
  private var behindChange = RequestQueue()

  init(_ pool: ThinPool) { self.pool = pool }

  /// Has `part` mapped anew when nothing is being changed any more.
  func waitForChange(_ part: RequestPointer) { behindChange.append(part) }

  /// The metadata can be looked at.
  func changeEnded() {
    guard !behindChange.isEmpty else { return }
    // Not from here: this is in the midst of an operation.
    pool.schedule()
  }

  /// Maps anew what waited for the end of a change.
  func retry() {
    guard !behindChange.isEmpty, !pool.metadata.isChanging else { return }
    var waiting = behindChange.takeAll()
    while let part = waiting.takeFirst() { pool.again(part) }
  }

  /// Has `part` mapped anew when the block is there that its look-up has just missed.
  func waitForBlock(_ part: RequestPointer) {
    let (block, kind) = pool.metadata.absent
    if reads[block]?.waiting.append(part) != nil { return }
    let buffer = buffers.popLast() ?? AlignedBuffer(count: Limits.blockBytes)
    var read = Read(kind: kind, buffer: buffer)
    read.waiting.append(part)
    reads[block] = read
    pool.metadata.beginReading(block)
    pool.metadataOpened.direct.submit(
      pool.requests.take(
        .read, offset: block * UInt64(Limits.blockBytes), byteCount: Limits.blockBytes,
        buffer: buffer.bytes.baseAddress, owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    let (code, offset) = (request.pointee.errorNumber, request.pointee.offset)
    pool.requests.give(request)
    let block = offset / UInt64(Limits.blockBytes)
    guard var read = reads.removeValue(forKey: block) else { return }
    var failure: PoolError?
    do throws(PoolError) {
      try pool.metadata.endReading(
        block, read.kind, code == 0 ? read.buffer.bytes : nil)
    } catch {
      failure = error
    }
    if code != 0 {
      failure = .block(
        block, .io(BlockIOError(.read, path: pool.metadataOpened.text, offset: offset, code: code)))
    }
    if buffers.count < Self.buffersKept { buffers.append(read.buffer) }
    while let part = read.waiting.takeFirst() {
      if let failure {
        pool.lookupFailed(part, failure)
      } else {
        pool.again(part)
      }
    }
    if pool.metadata.isOverLimit { pool.trimMetadata() }
  }
}

extension ThinPool {
  /// Ends a request whose look-up has failed.
  func lookupFailed(_ part: RequestPointer, _ error: PoolError) {
    guard let driver = part.pointee.owner as? ThinDriver else { return }
    noteDamage(driver.thin.id, driver.block(of: part), error)
    loop.finishLater(part, EIO)
  }

  /// Has the metadata in memory come back under its limit.
  func trimMetadata() {
    guard !isTrimming else { return }
    isTrimming = true
    change {
      self.isTrimming = false
      guard !self.metadata.hasFailed, self.mode < .readOnly || self.mapper.isReadOnly else {
        return
      }
      do throws(PoolError) { try self.metadata.trim() } catch {
        self.operationFailed("trim", error)
      }
    }
  }
}
