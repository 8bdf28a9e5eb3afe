import Glibc

/// Reads many 4 KiB blocks in the requested order, with a queue of requests in flight so that the
/// device works in parallel. Neighbours, also across small gaps, share a request.
///
/// Memory: `depth * chunkBlocks` blocks, 1 MiB as set here.
@safe public final class BlockStream {
  private static let blockBytes = 4096
  private let depth = 32
  private let chunkBlocks = 8
  /// The largest gap of unwanted blocks that is read instead of starting another request.
  private let gapMax: UInt64 = 4

  private let device: any BlockDevice
  private let deviceBlocks: UInt64
  private let buffer: AlignedBuffer
  private let engine: (any IOEngine)?
  private let vectors: UnsafeMutablePointer<iovec>
  private let completions: UnsafeMutablePointer<IOCompletion>
  private var slots: [Slot]

  /// The result for a block that the device does not have; its request is never submitted.
  private static let beyondEnd = Int.min

  private struct Slot {
    var start: UInt64 = 0
    var blockCount = 0
    /// Bit i: block `start + i` is wanted.
    var wanted: UInt32 = 0
    /// Bytes read, a negative error number, or `beyondEnd`; nil while in flight.
    var result: Int?
  }

  /// A stream over `device`, for one `read` at a time.
  public init(_ device: any BlockDevice) {
    self.device = device
    deviceBlocks = device.byteCount / UInt64(Self.blockBytes)
    buffer = AlignedBuffer(count: depth * chunkBlocks * Self.blockBytes)
    unsafe vectors = .allocate(capacity: depth)
    unsafe vectors.initialize(repeating: iovec(), count: depth)
    unsafe completions = .allocate(capacity: depth)
    unsafe completions.initialize(repeating: IOCompletion(slot: 0, result: 0), count: depth)
    slots = Array(repeating: Slot(), count: depth)
    // Without an engine, for example because the system's limit is reached, reads are synchronous.
    engine = device.descriptor == nil ? nil : try? AIOEngine(depth: depth)
  }

  deinit {
    unsafe vectors.deallocate()
    unsafe completions.deallocate()
  }

  /// Reads every block that `next` returns, and passes it to `body` in that order.
  ///
  /// A failed request is repeated block by block, so that one bad sector affects only one block.
  /// - Parameter next: the next block number, nil at the end.
  /// - Parameter body: receives each block's number and either its bytes or the error.
  public func read<E: Error>(
    next: () throws(E) -> UInt64?,
    body: (UInt64, RawSpan, BlockIOError?) throws(E) -> Void
  ) throws(E) {
    var head = 0
    var filled = 0
    var pushedBack: UInt64?
    var ended = false
    defer { drain(from: head, count: filled) }

    while true {
      var prepared = 0
      while !ended && filled + prepared < depth {
        let index = (head + filled + prepared) % depth
        guard let slot = try fill(&pushedBack, next) else {
          ended = true
          break
        }
        slots[index] = slot
        prepared += 1
      }
      submit(first: (head + filled) % depth, count: prepared)
      filled += prepared
      guard filled > 0 else { return }

      // Delivers completed requests from the head on; waits only for the head.
      var delivered = 0
      while filled > 0 {
        if slots[head].result == nil {
          if delivered > 0 && !ended { break }
          reap()
          continue
        }
        let slot = slots[head]
        let index = head
        head = (head + 1) % depth
        filled -= 1
        delivered += 1
        try deliver(slot, index, body)
      }
    }
  }

  private func fill<E: Error>(
    _ pushedBack: inout UInt64?, _ next: () throws(E) -> UInt64?
  ) throws(E) -> Slot? {
    var first = pushedBack
    pushedBack = nil
    if first == nil { first = try next() }
    guard let start = first else { return nil }
    var slot = Slot(start: start, blockCount: 1, wanted: 1)
    guard start < deviceBlocks else {
      slot.result = Self.beyondEnd
      return slot
    }
    while let block = try next() {
      guard block >= start + UInt64(slot.blockCount), block < deviceBlocks,
        block - start < UInt64(chunkBlocks),
        block - start - UInt64(slot.blockCount) <= gapMax
      else {
        pushedBack = block
        break
      }
      slot.blockCount = Int(block - start) + 1
      slot.wanted |= 1 << UInt32(block - start)
    }
    return slot
  }

  private func bytes(ofSlot index: Int) -> UnsafeMutableRawBufferPointer {
    let size = chunkBlocks * Self.blockBytes
    return unsafe UnsafeMutableRawBufferPointer(
      rebasing: buffer.bytes[(index * size)..<((index + 1) * size)])
  }

  private func submit(first: Int, count: Int) {
    guard count > 0 else { return }
    guard let engine, let descriptor = device.descriptor else {
      for i in 0..<count where slots[(first + i) % depth].result == nil {
        slots[(first + i) % depth].result = -Int(EIO)
      }
      return
    }
    var queued = 0
    for i in 0..<count {
      let index = (first + i) % depth
      guard slots[index].result == nil else { continue }
      unsafe vectors[index] = iovec(
        iov_base: bytes(ofSlot: index).baseAddress,
        iov_len: slots[index].blockCount * Self.blockBytes)
      unsafe engine.prepare(
        index, .read, descriptor: descriptor, vectors + index, count: 1,
        offset: device.descriptorOffset + slots[index].start * UInt64(Self.blockBytes))
      queued += 1
    }
    while queued > 0 {
      let sent = engine.send()
      guard sent > 0 else { break }
      queued -= sent
    }
    // The requests that were not sent are read one by one by deliver(), which reports errors.
    while let index = engine.takeUnsent() { slots[index].result = -Int(EIO) }
  }

  private func reap() {
    guard let engine else { return }
    let count = unsafe engine.take(completions, max: depth, waits: true)
    for i in 0..<count { unsafe slots[completions[i].slot].result = completions[i].result }
  }

  private func deliver<E: Error>(
    _ slot: Slot, _ index: Int, _ body: (UInt64, RawSpan, BlockIOError?) throws(E) -> Void
  ) throws(E) {
    let bytes = unsafe self.bytes(ofSlot: index)
    guard slot.result != Self.beyondEnd else {
      let end = BlockIOError(.read, path: device.path, offset: device.byteCount, code: 0)
      try unsafe body(slot.start, RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)), end)
      return
    }
    let whole = slot.result == slot.blockCount * Self.blockBytes
    for i in 0..<slot.blockCount where slot.wanted >> UInt32(i) & 1 == 1 {
      let block = unsafe UnsafeMutableRawBufferPointer(
        rebasing: bytes[(i * Self.blockBytes)..<((i + 1) * Self.blockBytes)])
      var failure: BlockIOError?
      if !whole {
        do throws(BlockIOError) {
          try unsafe device.read(
            into: block, at: (slot.start + UInt64(i)) * UInt64(Self.blockBytes))
        } catch {
          failure = error
        }
      }
      try unsafe body(
        slot.start + UInt64(i), RawSpan(_unsafeBytes: UnsafeRawBufferPointer(block)), failure)
    }
  }

  /// Waits for all requests in flight after `body` threw, because the kernel writes into the
  /// buffer.
  private func drain(from head: Int, count: Int) {
    for i in 0..<count {
      while slots[(head + i) % depth].result == nil { reap() }
    }
  }
}
