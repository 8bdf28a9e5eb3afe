import Claio
import Glibc

/// Reads many 4 KiB blocks in the requested order, with a queue of requests in flight so that the
/// device works in parallel. Neighbours, also across small gaps, share a request.
///
/// Memory: `depth * chunkBlocks` blocks, 1 MiB as set here.
public final class BlockStream {
  private static let blockBytes = 4096
  private let depth = 32
  private let chunkBlocks = 8
  /// The largest gap of unwanted blocks that is read instead of starting another request.
  private let gapMax: UInt64 = 4

  private let device: any BlockDevice
  private let deviceBlocks: UInt64
  private let buffer: AlignedBuffer
  private var context: io_context_t?
  private let control: UnsafeMutablePointer<iocb>
  private let submission: UnsafeMutablePointer<UnsafeMutablePointer<iocb>?>
  private let events: UnsafeMutablePointer<io_event>
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
    control = .allocate(capacity: depth)
    control.initialize(repeating: iocb(), count: depth)
    submission = .allocate(capacity: depth)
    submission.initialize(repeating: nil, count: depth)
    events = .allocate(capacity: depth)
    events.initialize(repeating: io_event(), count: depth)
    slots = Array(repeating: Slot(), count: depth)
    // Without a context, for example because the system's limit is reached, reads are synchronous.
    if device.descriptor == nil || io_setup(Int32(depth), &context) != 0 { context = nil }
  }

  deinit {
    if let context { io_destroy(context) }
    control.deallocate()
    submission.deallocate()
    events.deallocate()
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
          reap(minimum: 1)
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
    return UnsafeMutableRawBufferPointer(
      rebasing: buffer.bytes[(index * size)..<((index + 1) * size)])
  }

  private func submit(first: Int, count: Int) {
    guard count > 0 else { return }
    guard let context, let descriptor = device.descriptor else {
      for i in 0..<count where slots[(first + i) % depth].result == nil {
        slots[(first + i) % depth].result = -Int(EIO)
      }
      return
    }
    var queued = 0
    for i in 0..<count {
      let index = (first + i) % depth
      guard slots[index].result == nil else { continue }
      io_prep_pread(
        control + index, descriptor, bytes(ofSlot: index).baseAddress,
        slots[index].blockCount * Self.blockBytes,
        Int64(
          clamping: device.descriptorOffset + slots[index].start * UInt64(Self.blockBytes)))
      control[index].data = UnsafeMutableRawPointer(bitPattern: index + 1)
      submission[queued] = control + index
      queued += 1
    }
    var done = 0
    while done < queued {
      let n = io_submit(context, queued - done, submission + done)
      if n > 0 {
        done += Int(n)
        continue
      }
      if n == -EINTR { continue }
      // The requests that were not queued are read one by one by deliver(), which reports errors.
      for i in done..<queued {
        let index = Int(bitPattern: submission[i]?.pointee.data) - 1
        slots[index].result = -Int(EIO)
      }
      return
    }
  }

  private func reap(minimum: Int) {
    guard let context else { return }
    let n = io_getevents(context, minimum, depth, events, nil)
    guard n > 0 else { return }
    for i in 0..<Int(n) {
      let index = Int(bitPattern: events[i].data) - 1
      slots[index].result = Int(bitPattern: UInt(events[i].res))
    }
  }

  private func deliver<E: Error>(
    _ slot: Slot, _ index: Int, _ body: (UInt64, RawSpan, BlockIOError?) throws(E) -> Void
  ) throws(E) {
    let bytes = self.bytes(ofSlot: index)
    guard slot.result != Self.beyondEnd else {
      let end = BlockIOError(.read, path: device.path, offset: device.byteCount, code: 0)
      try body(slot.start, RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)), end)
      return
    }
    let whole = slot.result == slot.blockCount * Self.blockBytes
    for i in 0..<slot.blockCount where slot.wanted >> UInt32(i) & 1 == 1 {
      let block = UnsafeMutableRawBufferPointer(
        rebasing: bytes[(i * Self.blockBytes)..<((i + 1) * Self.blockBytes)])
      var failure: BlockIOError?
      if !whole {
        do throws(BlockIOError) {
          try device.read(into: block, at: (slot.start + UInt64(i)) * UInt64(Self.blockBytes))
        } catch {
          failure = error
        }
      }
      try body(
        slot.start + UInt64(i), RawSpan(_unsafeBytes: UnsafeRawBufferPointer(block)), failure)
    }
  }

  /// Waits for all requests in flight after `body` threw, because the kernel writes into the
  /// buffer.
  private func drain(from head: Int, count: Int) {
    for i in 0..<count {
      while slots[(head + i) % depth].result == nil { reap(minimum: 1) }
    }
  }
}
