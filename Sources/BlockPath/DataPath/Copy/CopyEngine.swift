import BlockIO
public import EventLoop

/// Makes the copies of a device-mapper's targets, with memory of which it limits the amount.
///
/// Jobs for which clients wait get memory before those with a pace. Each kind of piece has one buffer at
/// least, so that some job always goes on.
public final class CopyEngine {
  /// What was done since the start.
  public struct Statistics: Equatable, Sendable {
    /// Jobs that ended.
    public internal(set) var jobs: UInt64 = 0
    /// How many of them had an error.
    public internal(set) var failedJobs: UInt64 = 0
    /// Bytes that were read.
    public internal(set) var bytesRead: UInt64 = 0
    /// Bytes that were written, to all places together.
    public internal(set) var bytesWritten: UInt64 = 0
  }

  /// The most pieces of a job that are under way at the same time.
  private static let piecesMax = 8

  /// What was done since the start.
  public internal(set) var statistics = Statistics()
  let loop: EventLoop
  let requests = RequestPool()
  private let budget: MemoryBudget
  private let short = PieceSupply(64 << 10)
  private let long = PieceSupply(512 << 10)
  /// Jobs that are done but for telling.
  @safe @exclusivity(unchecked) private var endedJobs: [CopyJob] = []
  @safe @exclusivity(unchecked) private var restTimers: [ObjectIdentifier: RestTimer] = [:]
  private let teller: Teller

  /// An engine that uses so much memory for buffers.
  public init(_ loop: EventLoop, _ budget: MemoryBudget) {
    self.loop = loop
    self.budget = budget
    teller = Teller()
    unsafe teller.engine = self
    loop.add(teller)
  }

  deinit {
    loop.remove(teller)
    budget.give(short.bytes + long.bytes)
  }

  /// Bytes of memory for requests and buffers.
  public var bytes: Int { requests.bytes + short.bytes + long.bytes }

  /// Frees buffers that are not in use, but a few.
  public func trim() {
    for supply in [short, long] {
      for _ in 0..<supply.excess { budget.give(supply.drop()) }
    }
    requests.trim()
  }

  // MARK: - Jobs

  /// Begins a job. Its `ended` is called later.
  public func begin(_ job: CopyJob) {
    precondition(job.begun == 0 && job.pieceCount == 0, "a job is begun once")
    switch job.content {
    case .flush: sendToAll(CopyPiece(self), .flush, job)
    case .zeros where !job.fills && job.byteCount <= UInt64(Int.max):
      let piece = CopyPiece(self)
      piece.byteCount = Int(job.byteCount)
      job.begun = job.byteCount
      sendToAll(piece, .writeZeroes, job)
    default: advance(job)
    }
    endIfDone(job)
  }

  /// Begins as many pieces as there may be.
  private func advance(_ job: CopyJob) {
    while !job.isAllBegun, !job.isWaiting {
      let isGentle = job.pace?.isGentle ?? false
      guard job.pieceCount < (isGentle ? 1 : Self.piecesMax) else { return }
      if let pace = job.pace, pace.restsUntil > loop.time { return rest(job, pace) }
      let supply = isGentle || job.byteCount <= UInt64(short.pieceBytes) ? short : long
      guard let piece = take(from: supply) else {
        job.isWaiting = true
        return supply.wait(job)
      }
      piece.offset = job.begun
      piece.byteCount = Int(min(job.byteCount - job.begun, UInt64(supply.pieceBytes)))
      job.begun += UInt64(piece.byteCount)
      job.pieceCount += 1
      piece.job = job
      piece.started = job.pace == nil ? 0 : loop.time
      read(piece, job)
    }
  }

  private func take(from supply: PieceSupply) -> CopyPiece? {
    if let piece = supply.take() { return piece }
    // Buffers of the other kind that are not in use are in the way.
    let other = supply === short ? long : short
    while budget.left < supply.pieceBytes, other.hasFree { budget.give(other.drop()) }
    guard budget.take(supply.pieceBytes, always: supply.bytes == 0) else { return nil }
    supply.made()
    return CopyPiece(self, supply)
  }

  /// Goes on with `job` when its pace lets it.
  private func rest(_ job: CopyJob, _ pace: CopyPace) {
    let id = ObjectIdentifier(pace)
    let timer = restTimers[id] ?? RestTimer()
    restTimers[id] = timer
    job.isWaiting = true
    timer.jobs.append(job)
    guard timer.timer == nil else { return }
    let body = LoopTimer { [unowned self] in
      restTimers[id] = nil
      // The timer has this closure, which has the timer.
      let jobs = timer.jobs
      (timer.timer, timer.jobs) = (nil, [])
      for job in jobs { goOn(job) }
    }
    timer.timer = body
    loop.set(body, after: pace.restsUntil - loop.time)
  }

  private func endIfDone(_ job: CopyJob) {
    guard job.pieceCount == 0, !job.isWaiting, job.isAllBegun, !job.isOver else { return }
    job.isOver = true
    statistics.jobs += 1
    if job.error != 0 { statistics.failedJobs += 1 }
    endedJobs.append(job)
    loop.passAgain()
  }

  // MARK: - Pieces

  private func read(_ piece: CopyPiece, _ job: CopyJob) {
    guard case .bytes(let place, let count) = job.content, piece.offset < count else {
      piece.zero(from: 0)
      return write(piece, job)
    }
    piece.pending = 1
    let length = Int(min(UInt64(piece.byteCount), count - piece.offset))
    unsafe place.destination.submit(
      requests.take(
        .read, offset: place.offset &+ piece.offset, byteCount: length, buffer: piece.memory,
        owner: piece))
  }

  private func write(_ piece: CopyPiece, _ job: CopyJob) {
    if job.fills, let memory = unsafe piece.memory {
      unsafe job.fill(memory, piece.offset..<piece.offset + UInt64(piece.byteCount))
    }
    send(piece, .write, job)
  }

  private func sendToAll(_ piece: CopyPiece, _ operation: BlockOperation, _ job: CopyJob) {
    piece.job = job
    job.pieceCount += 1
    send(piece, operation, job)
  }

  private func send(_ piece: CopyPiece, _ operation: BlockOperation, _ job: CopyJob) {
    // One more, so that it is not over before all were sent.
    piece.pending = 1
    for (index, place) in job.places.enumerated() where !job.hasFailed(index) {
      piece.pending += 1
      let request = unsafe requests.take(
        operation, offset: place.offset &+ piece.offset, byteCount: piece.byteCount,
        buffer: piece.memory, owner: piece)
      unsafe request.pointee.tag = UInt32(truncatingIfNeeded: index)
      unsafe place.destination.submit(request)
    }
    piece.pending -= 1
    if piece.pending == 0 { done(piece, job) }
  }

  /// A request of a piece is done.
  fileprivate func requestDone(_ request: RequestPointer, _ piece: CopyPiece) {
    let (code, index) = unsafe (request.pointee.errorNumber, Int(request.pointee.tag))
    let (count, isRead) = unsafe (
      request.pointee.byteCount, request.pointee.operation == .read
    )
    unsafe requests.give(request)
    guard let job = piece.job else { return }
    piece.pending -= 1
    if isRead {
      statistics.bytesRead &+= UInt64(count)
      guard code == 0 else {
        job.readFailed(code)
        return done(piece, job)
      }
      if count < piece.byteCount { piece.zero(from: count) }
      return write(piece, job)
    }
    if code == 0 {
      statistics.bytesWritten &+= UInt64(count)
    } else {
      job.writeFailed(index, code)
    }
    if piece.pending == 0 { done(piece, job) }
  }

  private func done(_ piece: CopyPiece, _ job: CopyJob) {
    if let pace = job.pace, piece.buffer != nil {
      pace.ended(piece.byteCount, from: piece.started, to: loop.time)
    }
    job.pieceCount -= 1
    piece.job = nil
    // Before this job's next piece, so that others have their turn.
    if let supply = piece.supply {
      supply.give(piece)
      if let next = supply.nextWaiting() { goOn(next) }
    }
    advance(job)
    endIfDone(job)
  }

  /// A job need not wait any more.
  private func goOn(_ job: CopyJob) {
    job.isWaiting = false
    advance(job)
    endIfDone(job)
  }

  fileprivate func tell() {
    if endedJobs.isEmpty { return }
    // What these begin in turn is told in a later round.
    let jobs = endedJobs
    endedJobs = []
    for job in jobs { job.ended() }
  }
}

/// The jobs that rest until the same time.
private final class RestTimer {
  var timer: LoopTimer?
  var jobs: [CopyJob] = []
}

/// Tells jobs that they have ended, at the end of a pass.
private final class Teller: PassHook {
  /// It removes this when it goes.
  unowned(unsafe) var engine: CopyEngine?
  override func endOfPass() { unsafe engine?.tell() }
}

/// A part of a copy that is under way, with its memory.
private final class CopyPiece: RequestOwner {
  private unowned(unsafe) let engine: CopyEngine
  /// Where its buffer belongs; nil for a piece without one.
  unowned let supply: PieceSupply?
  let buffer: AlignedBuffer?
  /// The job that it is a part of. Requests do not keep their owner: the piece keeps itself as long as it
  /// has a job.
  var job: CopyJob? { didSet { itself = job == nil ? nil : self } }
  private var itself: CopyPiece?
  /// Counted from the start of the copy.
  var offset: UInt64 = 0
  var byteCount = 0
  /// Requests that are not done.
  var pending = 0
  var started: UInt64 = 0

  init(_ engine: CopyEngine, _ supply: PieceSupply? = nil) {
    unsafe self.engine = engine
    self.supply = supply
    buffer = supply.map { AlignedBuffer(count: $0.pieceBytes) }
    super.init()
  }

  var memory: UnsafeMutableRawPointer? { unsafe buffer?.bytes.baseAddress }

  /// Makes the rest of its bytes zeros.
  func zero(from first: Int) {
    if let buffer {
      unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[first..<byteCount])
        .initializeMemory(as: UInt8.self, repeating: 0)
    }
  }

  override func requestDone(_ request: RequestPointer) { unsafe engine.requestDone(request, self) }
}

/// Pieces with buffers of one size that are not in use, and the jobs that wait for one.
private final class PieceSupply {
  /// Pieces that are kept where nothing is to do.
  private static let keptMax = 4
  let pieceBytes: Int
  private var count = 0
  @safe @exclusivity(unchecked) private var free: [CopyPiece] = []
  @safe @exclusivity(unchecked) private var urgent: [CopyJob] = []
  @safe @exclusivity(unchecked) private var paced: [CopyJob] = []

  init(_ pieceBytes: Int) { self.pieceBytes = pieceBytes }

  /// Bytes of all buffers, in use or not.
  var bytes: Int { count * pieceBytes }
  var hasFree: Bool { !free.isEmpty }
  var excess: Int { max(0, free.count - Self.keptMax) }

  func made() { count += 1 }
  func take() -> CopyPiece? { free.popLast() }
  func give(_ piece: CopyPiece) { free.append(piece) }

  /// Frees a buffer that is not in use; returns its size.
  func drop() -> Int {
    free.removeLast()
    count -= 1
    return pieceBytes
  }

  func wait(_ job: CopyJob) {
    if job.pace == nil { urgent.append(job) } else { paced.append(job) }
  }

  func nextWaiting() -> CopyJob? {
    if !urgent.isEmpty { return urgent.removeFirst() }
    return paced.isEmpty ? nil : paced.removeFirst()
  }
}
