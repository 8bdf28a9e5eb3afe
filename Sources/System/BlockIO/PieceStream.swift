import Glibc

/// Reads long pieces of a device in the requested order, several at a time, so that neither the device nor
/// its user waits for the other. `BlockStream` is for many scattered blocks.
///
/// Memory: `depth` pieces, 8 MiB as set here.
@safe public final class PieceStream {
  /// A piece to read.
  public struct Piece: Equatable, Sendable {
    /// First byte, a multiple of the device's sector.
    public var offset: UInt64
    /// Bytes, a multiple of the device's sector and at most `bytesMax`.
    public var byteCount: Int
    /// The user's own, for example the place to write it to.
    public var tag: UInt64

    /// A piece.
    public init(offset: UInt64, byteCount: Int, tag: UInt64) {
      self.offset = offset
      self.byteCount = byteCount
      self.tag = tag
    }
  }

  /// The most bytes of a piece.
  public static let bytesMax = 1 << 20
  private static let depth = 8

  private let device: any BlockDevice
  private let buffer = AlignedBuffer(count: depth * bytesMax)
  private let engine: AIOEngine?
  private let vectors: UnsafeMutablePointer<iovec>
  private let completions: UnsafeMutablePointer<IOCompletion>
  private var pieces = [Piece](
    repeating: Piece(offset: 0, byteCount: 0, tag: 0), count: PieceStream.depth)
  /// Bytes read or a negative error number; nil while in flight.
  private var results = [Int?](repeating: 0, count: PieceStream.depth)

  /// A stream over `device`, for one `read` at a time.
  public init(_ device: any BlockDevice) {
    self.device = device
    unsafe vectors = .allocate(capacity: Self.depth)
    unsafe vectors.initialize(repeating: iovec(), count: Self.depth)
    unsafe completions = .allocate(capacity: Self.depth)
    unsafe completions.initialize(repeating: IOCompletion(slot: 0, result: 0), count: Self.depth)
    // Without an engine, for example because the system's limit is reached, pieces are read one by one.
    engine = device.descriptor == nil ? nil : try? AIOEngine(depth: Self.depth)
  }

  deinit {
    unsafe vectors.deallocate()
    unsafe completions.deallocate()
  }

  /// Reads every piece that `next` returns, and passes it to `body` in that order.
  /// - Parameters:
  ///   - next: the next piece, nil at the end.
  ///   - body: receives each piece with its bytes, or with the error.
  public func read<E: Error>(
    next: () throws(E) -> Piece?,
    body: (Piece, UnsafeRawBufferPointer, BlockIOError?) throws(E) -> Void
  ) throws(E) {
    var (head, filled, ended) = (0, 0, false)
    // The kernel writes into the buffer until then.
    defer { for i in 0..<filled { wait(for: (head + i) % Self.depth) } }
    while true {
      while !ended && filled < Self.depth {
        guard let piece = try next() else {
          ended = true
          break
        }
        begin(piece, (head + filled) % Self.depth)
        filled += 1
      }
      guard filled > 0 else { return }
      let slot = head
      wait(for: slot)
      head = (head + 1) % Self.depth
      filled -= 1
      let bytes = unsafe self.bytes(slot)
      let failure = unsafe self.failure(slot, bytes)
      try unsafe body(pieces[slot], UnsafeRawBufferPointer(bytes), failure)
    }
  }

  private func bytes(_ slot: Int) -> UnsafeMutableRawBufferPointer {
    let start = slot * Self.bytesMax
    return unsafe UnsafeMutableRawBufferPointer(
      rebasing: buffer.bytes[start..<(start + pieces[slot].byteCount)])
  }

  private func begin(_ piece: Piece, _ slot: Int) {
    precondition(piece.byteCount <= Self.bytesMax)
    pieces[slot] = piece
    // Read when it is its turn, unless it can be queued.
    results[slot] = 0
    guard let engine, let descriptor = device.descriptor else { return }
    unsafe vectors[slot] = iovec(iov_base: bytes(slot).baseAddress, iov_len: piece.byteCount)
    unsafe engine.prepare(
      slot, .read, descriptor: descriptor, vectors + slot, count: 1,
      offset: device.descriptorOffset + piece.offset)
    if engine.send() == 1 { results[slot] = nil } else { _ = engine.takeUnsent() }
  }

  private func wait(for slot: Int) {
    guard let engine else { return }
    while results[slot] == nil {
      let count = unsafe engine.take(completions, max: Self.depth, waits: true)
      for i in 0..<count { unsafe results[completions[i].slot] = completions[i].result }
    }
  }

  /// The error of a piece that cannot be read as a whole; reads it if it was not queued, or was cut short.
  private func failure(_ slot: Int, _ bytes: UnsafeMutableRawBufferPointer) -> BlockIOError? {
    let (piece, result) = (pieces[slot], results[slot] ?? 0)
    if result == piece.byteCount { return nil }
    if result < 0 {
      return BlockIOError(
        .read, path: device.path, offset: piece.offset, code: Int32(clamping: -result))
    }
    do throws(BlockIOError) {
      try unsafe device.read(into: bytes, at: piece.offset)
      return nil
    } catch {
      return error
    }
  }
}
