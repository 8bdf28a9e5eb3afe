import EventLoop
import Glibc

/// What happens to writes of a pool whose data blocks run out.
///
/// Invariant: the timer runs only while writes wait for space rather than fail.
final class DataSpace {
  /// What a write says about the room where the data file lies.
  enum HostChange {
    case ranOut, hasRoom
  }

  private let loop: EventLoop
  private let timer: LoopTimer
  private var lowWaterBlocks: UInt64 = 0
  private var isLowWaterSignalled = false
  private var isOut = false
  /// Writes that need space fail, rather than wait.
  private(set) var failsWrites = false
  private var isHostFull = false

  init(_ worker: PoolWorker, _ loop: EventLoop) {
    self.loop = loop
    timer = LoopTimer { [unowned worker] in unsafe worker.pool?.noSpaceTimeout() }
  }

  func stopTimer() { loop.cancel(timer) }

  /// Takes on what a table asks for.
  func bind(lowWaterBlocks: UInt64, failsWrites: Bool) {
    self.lowWaterBlocks = lowWaterBlocks
    self.failsWrites = failsWrites
  }

  // MARK: - Data blocks

  /// Whether so few blocks are left that an event is due; once until `resume`.
  func reachesLowWater(_ free: UInt64) -> Bool {
    guard free <= lowWaterBlocks, !isLowWaterSignalled else { return false }
    isLowWaterSignalled = true
    return true
  }

  /// The pool goes on; the low water mark is signalled again.
  func resume() { isLowWaterSignalled = false }

  /// The pool has no data block left: writes wait for `timeout` seconds, 0: for ever.
  func runOut(timeout: UInt64) {
    isOut = true
    startTimer(timeout)
  }

  /// The pool is written to. With `wasOut`, it had no data blocks.
  func refill(wasOut: Bool, failsWrites: Bool) {
    if wasOut { loop.cancel(timer) }
    isOut = false
    self.failsWrites = failsWrites
  }

  func startTimer(_ timeout: UInt64) {
    guard !failsWrites, timeout > 0 else { return }
    // More than a century is for ever.
    loop.set(timer, after: min(timeout, 1 << 32) * 1_000_000_000)
  }

  /// Writes have waited long enough: they fail from now on. False if they do already.
  func stopWaiting() -> Bool {
    if failsWrites { return false }
    failsWrites = true
    return true
  }

  /// With what a write fails that has waited for space.
  var failureCode: Int32 { isOut ? ENOSPC : EIO }

  // MARK: - Where the data file lies

  /// A write to the data device has ended; says whether that is news of the room there.
  func noteWrite(_ code: Int32) -> HostChange? {
    if isNoRoom(code), !isHostFull {
      isHostFull = true
      return .ranOut
    }
    guard code == 0, isHostFull else { return nil }
    isHostFull = false
    return .hasRoom
  }
}

/// The free blocks of a pool's metadata.
///
/// Invariant: the reserve is kept for what comes after the pool has run out: it is not counted as free.
struct MetadataSpace {
  private var reserve: UInt64 = 0
  private var lowWaterBlocks: UInt64 = 0
  /// Free blocks when that was last looked at.
  private var lastFree: UInt64?

  /// Reserves a part of so many blocks.
  mutating func setReserve(of blocks: UInt64) { reserve = min(4096, blocks / 10) }

  /// Sets the low water mark. A table does it when it is loaded; until the next one the mark stays, as the
  /// kernel's does, however large the device becomes.
  mutating func setLowWater(_ blocks: UInt64) { lowWaterBlocks = blocks }

  /// Of so many free blocks, those that are not reserved.
  func usable(of free: UInt64) -> UInt64 { free - min(free, reserve) }

  /// A change has left so many free blocks; says whether it came to the low water mark.
  mutating func reachesLowWater(_ free: UInt64) -> Bool {
    let wasAbove = lastFree.map { $0 > lowWaterBlocks } ?? true
    lastFree = free
    return free <= lowWaterBlocks && wasAbove
  }

  /// A commit has left so many free blocks.
  mutating func noteCommit(_ free: UInt64) { lastFree = free }
}
