import BlockIO

/// Preparations of a pool that wait: for a buffer, for the end of the pass, or for their mapping.
///
/// Invariant: one waits for a buffer only while all buffers are in use.
final class Preparations {
  private let worker: PoolWorker
  private let buffers: BufferPool
  @safe @exclusivity(unchecked) private var waiting: [Preparation] = []
  @safe @exclusivity(unchecked) private var unsent: [Preparation] = []
  @safe @exclusivity(unchecked) private var finished: [Preparation] = []

  init(_ worker: PoolWorker, _ buffers: BufferPool) {
    self.worker = worker
    self.buffers = buffers
  }

  // MARK: - Buffers

  /// Has a preparation go on with a buffer: at once, or when one is free.
  func giveBuffer(to preparation: Preparation) {
    if let buffer = buffers.take() {
      preparation.goOn(with: buffer)
    } else {
      waiting.append(preparation)
    }
  }

  /// A preparation no longer needs its buffer.
  func takeBack(_ buffer: AlignedBuffer) {
    if waiting.isEmpty {
      buffers.give(buffer)
    } else {
      waiting.removeFirst().goOn(with: buffer)
    }
  }

  /// Frees buffers that are not in use, but a few.
  func trim() { buffers.trim() }

  // MARK: - Turns

  /// Has a preparation's piece sent at the end of the pass, when more writes may have come for it.
  func sendLater(_ preparation: Preparation) {
    unsent.append(preparation)
    worker.schedule()
  }

  /// Sends the pieces that were left for the end of the pass.
  func sendAll() {
    let sends = unsent
    unsent = []
    for preparation in sends { preparation.send() }
  }

  /// A preparation's block has its contents, or cannot have them.
  func finish(_ preparation: Preparation) {
    finished.append(preparation)
    worker.schedule()
  }

  /// Whether any is to become a mapping.
  var hasFinished: Bool { !finished.isEmpty }

  /// Those that are to become mappings, in the order in which they were finished.
  func takeFinished() -> [Preparation] {
    let all = finished
    finished = []
    return all
  }
}
