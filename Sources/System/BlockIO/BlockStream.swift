import Glibc

/// Reads many 4 KiB blocks in the requested order, with a queue of requests in flight so that the
/// device works in parallel. Neighbours, also across small gaps, share a request, and also where the
/// blocks of two walks take turns, as when two trees are compared.
///
/// Memory: `depth * chunkBlocks` blocks, 2 MiB as set here.
@safe public final class BlockStream {
  private static let blockBytes = 4096
  private let depth = 32
  private let chunkBlocks = 16
  /// The largest gap of unwanted blocks that is read instead of starting another request.
  private let gapMax: UInt64 = 4
  /// How many of the requests that are being prepared can still grow: one for each of two walks.
  private let growingMax = 2

  private let device: any BlockDevice
  private let deviceBlocks: UInt64
  private let buffer: AlignedBuffer
  private let engine: (any IOEngine)?
  private let vectors: UnsafeMutablePointer<iovec>
  private let completions: UnsafeMutablePointer<IOCompletion>
  private var slots: [Slot]
  /// A ring of the blocks that were asked for and not delivered yet, in the requested order.
  private var wanted: [WantedBlock]

  /// The result for a block that the device does not have; its request is never submitted.
  private static let beyondEnd = Int.min

  private struct Slot {
    var start: UInt64 = 0
    var blockCount = 0
    /// Blocks that were asked for and not delivered yet.
    var undelivered = 0
    /// Bytes read, a negative error number, or `beyondEnd`; nil until the request completes.
    var result: Int?
  }

  private struct WantedBlock {
    var slot = 0
    /// Its place in the slot, in blocks.
    var place = 0
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
    // Each block of a slot is asked for once at most: a repeated one gets another slot.
    wanted = Array(repeating: WantedBlock(), count: depth * chunkBlocks)
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
    var firstWanted = 0
    var wantedCount = 0
    var pushedBack: UInt64?
    var ended = false
    defer { drain(from: head, count: filled) }

    while true {
      let first = (head + filled) % depth
      var prepared = 0
      while !ended {
        let asked = if let block = pushedBack { block } else { try next() }
        pushedBack = nil
        guard let block = asked else {
          ended = true
          break
        }
        var slot = growingSlot(for: block, first: first, count: prepared)
        if slot == nil, filled + prepared < depth {
          slot = (first + prepared) % depth
          slots[(first + prepared) % depth] = Slot(
            start: block, result: block < deviceBlocks ? nil : Self.beyondEnd)
          prepared += 1
        }
        guard let slot else {
          pushedBack = block
          break
        }
        let place = Int(block - slots[slot].start)
        slots[slot].blockCount = place + 1
        slots[slot].undelivered += 1
        wanted[(firstWanted + wantedCount) % wanted.count] = WantedBlock(slot: slot, place: place)
        wantedCount += 1
      }
      submit(first: first, count: prepared)
      filled += prepared
      guard filled > 0 else { return }

      // Delivers blocks of completed requests in order; waits only for the first.
      var freed = 0
      while wantedCount > 0 {
        let block = wanted[firstWanted]
        if slots[block.slot].result == nil {
          if freed > 0 && !ended { break }
          reap()
          continue
        }
        firstWanted = (firstWanted + 1) % wanted.count
        wantedCount -= 1
        slots[block.slot].undelivered -= 1
        while filled > 0, slots[head].undelivered == 0 {
          head = (head + 1) % depth
          filled -= 1
          freed += 1
        }
        try deliver(block, body)
      }
    }
  }

  /// The slot that `block` can share, of the last ones of the `count` that are being prepared.
  private func growingSlot(for block: UInt64, first: Int, count: Int) -> Int? {
    for back in 0..<min(count, growingMax) {
      let index = (first + count - 1 - back) % depth
      // One beyond the end, whose number can be anything, has its result.
      guard slots[index].result == nil, block < deviceBlocks else { continue }
      let end = slots[index].start + UInt64(slots[index].blockCount)
      if block >= end, block - end <= gapMax, block - slots[index].start < UInt64(chunkBlocks) {
        return index
      }
    }
    return nil
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
    _ wanted: WantedBlock, _ body: (UInt64, RawSpan, BlockIOError?) throws(E) -> Void
  ) throws(E) {
    let slot = slots[wanted.slot]
    let number = slot.start + UInt64(wanted.place)
    let first = wanted.place * Self.blockBytes
    let bytes = unsafe UnsafeMutableRawBufferPointer(
      rebasing: self.bytes(ofSlot: wanted.slot)[first..<(first + Self.blockBytes)])
    var failure: BlockIOError?
    if slot.result == Self.beyondEnd {
      failure = BlockIOError(.read, path: device.path, offset: device.byteCount, code: 0)
    } else if slot.result != slot.blockCount * Self.blockBytes {
      do throws(BlockIOError) {
        try unsafe device.read(into: bytes, at: number * UInt64(Self.blockBytes))
      } catch {
        failure = error
      }
    }
    try unsafe body(number, RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)), failure)
  }

  /// Waits for all requests in flight after `body` threw, because the kernel writes into the
  /// buffer.
  private func drain(from head: Int, count: Int) {
    for i in 0..<count {
      while slots[(head + i) % depth].result == nil { reap() }
    }
  }
}
