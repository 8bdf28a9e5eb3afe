import BlockIO
import DataPath
import EventLoop
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// Look-ups that need blocks of metadata which are not in memory: of clients' reads and writes, and of others
/// (`look`). Reads each block once for all that wait for it, and many at a time; then the look-ups are tried
/// again, and come as far as the next block that is missing. Those that come while the metadata is being
/// changed wait for the end of that change.
///
/// Memory: 4 KiB for each block that is being read; there are no more of them than requests under way.
final class LookupReads: RequestOwner {
  /// What looks something up for others than a read or write.
  private struct Look {
    var attempts: UInt32 = 0
    let body: () throws(PoolError) -> Void
    let ready: () -> Void
  }
  private struct Read {
    var kind: BlockKind
    var buffer: AlignedBuffer
    var waiting = RequestQueue()
    var looks: [Look] = []
  }

  /// After so many blocks that were gone when the request was mapped again, it is not left to chance.
  static let attemptsMax: UInt32 = 40
  private static let buffersKept = 64

  private unowned let pool: ThinPool
  private var reads: [UInt64: Read] = [:]
  private var buffers: [AlignedBuffer] = []
  private var behindChange = RequestQueue()
  @safe @exclusivity(unchecked) private var looksBehindChange: [Look] = []
  /// The pool is being closed.
  private var isClosed = false
  /// The metadata in memory is going to be brought under its limit.
  private var isTrimming = false
  private var lastRead: Pause?

  init(_ pool: ThinPool) { self.pool = pool }

  /// Has `part` mapped again when nothing is being changed any more.
  func waitForChange(_ part: RequestPointer) { unsafe behindChange.append(part) }

  /// Whether something waits for the end of a change.
  private var isAwaited: Bool { !behindChange.isEmpty || !looksBehindChange.isEmpty }

  /// The metadata can be looked at.
  func changeEnded() {
    guard isAwaited else { return }
    // Not from here: this is inside an operation.
    pool.worker.schedule()
  }

  /// Looks up what waited for the end of a change, if nothing is being changed now. Called between two
  /// changes of one who makes many, too: what is looked up does not wait for all of them.
  func retry() {
    guard isAwaited, !pool.metadata.isChanging else { return }
    var waiting = behindChange.takeAll()
    let looks = looksBehindChange
    looksBehindChange = []
    while let part = unsafe waiting.takeFirst() { unsafe pool.again(part) }
    for look in looks { perform(look) }
  }

  /// Has `body` look something up in memory, again each time that a block which it missed has been read,
  /// until it has all it needs or fails; then calls `ready`, at once or later.
  func look(_ body: @escaping () throws(PoolError) -> Void, _ ready: @escaping () -> Void) {
    perform(Look(body: body, ready: ready))
  }

  private func perform(_ look: Look) {
    if isClosed { return look.ready() }
    if pool.metadata.isChanging { return looksBehindChange.append(look) }
    do throws(PoolError) {
      try pool.metadata.inMemory(look.body)
    } catch .absent {
      var look = look
      look.attempts += 1
      if look.attempts > Self.attemptsMax { return performInTurn(look) }
      let block = read()
      reads[block]?.looks.append(look)
      return
    } catch {}
    look.ready()
  }

  /// Looks it up and keeps others from throwing out of memory what that takes.
  private func performInTurn(_ look: Look) {
    pool.loop.begin { [self, pool] in
      pool.metadataLock.with { if !isClosed { try? look.body() } }
      look.ready()
    }
  }

  /// Ends what waits, and returns when nothing is being read any more.
  func close() {
    isClosed = true
    let looks = looksBehindChange + reads.values.flatMap(\.looks)
    looksBehindChange = []
    for block in reads.keys { reads[block]?.looks = [] }
    for look in looks { look.ready() }
    guard !reads.isEmpty else { return }
    let pause = Pause(pool.loop)
    lastRead = pause
    pause.wait()
  }

  /// Has `part` mapped again when the block is there that its look-up has just missed.
  func waitForBlock(_ part: RequestPointer) {
    let block = read()
    unsafe reads[block]?.waiting.append(part)
  }

  /// Reads the block that has just been missed, unless it is being read already; says which one it is.
  private func read() -> UInt64 {
    let (absent, kind) = pool.metadata.absent
    let block = absent.rawValue
    if reads[block] != nil { return block }
    let buffer = buffers.popLast() ?? AlignedBuffer(count: Limits.blockBytes)
    reads[block] = Read(kind: kind, buffer: buffer)
    pool.metadata.beginReading(absent)
    unsafe pool.metadataOpened.direct.submit(
      pool.requests.take(
        .read, offset: block * UInt64(Limits.blockBytes), byteCount: Limits.blockBytes,
        buffer: buffer.bytes.baseAddress, owner: self))
    return block
  }

  override func requestDone(_ request: RequestPointer) {
    let (code, offset) = unsafe (request.pointee.errorNumber, request.pointee.offset)
    unsafe pool.requests.give(request)
    let block = offset / UInt64(Limits.blockBytes)
    guard var read = reads.removeValue(forKey: block) else { return }
    var failure: PoolError?
    do throws(PoolError) {
      try unsafe pool.metadata.endReading(
        MetadataBlock(block), read.kind, code == 0 ? read.buffer.bytes : nil)
    } catch {
      failure = error
    }
    if code != 0 {
      failure = .block(
        block, .io(BlockIOError(.read, path: pool.metadataOpened.text, offset: offset, code: code)))
    }
    if buffers.count < Self.buffersKept { buffers.append(read.buffer) }
    while let part = unsafe read.waiting.takeFirst() {
      if let failure {
        unsafe pool.lookupFailed(part, failure)
      } else {
        unsafe pool.again(part)
      }
    }
    for look in read.looks {
      if failure == nil { perform(look) } else { look.ready() }
    }
    if reads.isEmpty { lastRead.take()?.end() }
    if pool.metadata.isOverLimit { trim() }
  }

  /// Has the metadata in memory come back under its limit.
  private func trim() {
    guard !isTrimming else { return }
    isTrimming = true
    pool.change { [self, pool] in
      isTrimming = false
      guard !pool.metadata.hasFailed, pool.mode < .readOnly || pool.mapper.isReadOnly else {
        return
      }
      do throws(PoolError) { try pool.metadata.trim() } catch {
        pool.operationFailed("trim", error)
      }
    }
  }
}

extension ThinPool {
  /// Ends a request whose look-up has failed.
  func lookupFailed(_ part: RequestPointer, _ error: PoolError) {
    guard let driver = unsafe part.pointee.owner as? ThinDriver else { return }
    unsafe noteDamage(driver.thin.id, driver.block(of: part), error)
    unsafe loop.finishLater(part, EIO)
  }
}
