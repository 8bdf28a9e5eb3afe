public import BlockIO
public import ThinFormat

/// A write-back cache of metadata blocks.
///
/// A block is checked when it is first read; its number and checksum are set when it is written.
/// Buffers stay in place until `trim`, which callers invoke between operations. The limit is
/// enforced only then, so an operation may hold as many blocks as it needs.
///
/// Memory: 4 KiB per cached block, `blocksMax` of them between operations, four bytes per block of
/// the used parts of the device, and 256 KiB for writing neighbours together.
///
/// Invariants: `indexes` has the slot of each cached block, plus one. A dirty block is not used by
/// the committed state, so that writing it early is harmless.
public final class BlockCache {
  private struct Slot {
    var buffer: UnsafeMutableRawBufferPointer
    var block: UInt64
    var kind: BlockKind
    var isDirty = true
    /// Whether it was used since the clock hand last passed.
    var isRecent = true
    /// Whether it holds a block.
    var isUsed = true
  }

  /// The device of the blocks.
  public let device: any BlockDevice
  /// Usable blocks: those of the device, up to the format's limit.
  public private(set) var blockCount: UInt64
  /// The most blocks kept between operations.
  public let blocksMax: Int
  private var indexes: ZeroedArray<UInt32>
  private var slots: UnsafeMutablePointer<Slot>
  private var slotsMade = 0
  private var slotsMax: Int
  /// The memory of all buffers.
  private var slabs: [AlignedBuffer] = []
  /// A buffer for writing neighbours together, made on first use.
  private var runBuffer: AlignedBuffer?
  /// The most neighbours written together.
  private static let runBlocksMax = 64
  /// Slots without a block.
  private var spare: [UInt32] = []
  private var hand = 0

  /// A cache of at most `blocksMax` blocks of 4 KiB between operations.
  public init(_ device: any BlockDevice, blocksMax: Int = 8192) {
    self.device = device
    self.blocksMax = blocksMax
    blockCount = Self.usableBlocks(device)
    indexes = ZeroedArray(count: Int(blockCount))
    slotsMax = 256
    slots = .allocate(capacity: slotsMax)
  }

  deinit { slots.deallocate() }

  private static func usableBlocks(_ device: any BlockDevice) -> UInt64 {
    min(device.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Updates the device's size after it grew. Call between operations.
  public func updateSize() {
    let count = Self.usableBlocks(device)
    guard count != blockCount else { return }
    let larger = ZeroedArray<UInt32>(count: Int(count))
    for i in 0..<slotsMade where slots[i].isUsed && slots[i].block < count {
      larger[Int(slots[i].block)] = UInt32(i) + 1
    }
    indexes = larger
    blockCount = count
  }

  /// A slot for a block that is not cached.
  private func take(_ block: UInt64, _ kind: BlockKind) -> Int {
    if let free = spare.popLast() {
      let slot = slots + Int(free)
      slot.pointee = Slot(buffer: slot.pointee.buffer, block: block, kind: kind)
      indexes[Int(block)] = free + 1
      return Int(free)
    }
    if slotsMade == slotsMax {
      let larger = UnsafeMutablePointer<Slot>.allocate(capacity: slotsMax * 2)
      larger.moveInitialize(from: slots, count: slotsMade)
      slots.deallocate()
      slots = larger
      slotsMax *= 2
    }
    let buffer = newBuffer()
    (slots + slotsMade).initialize(to: Slot(buffer: buffer, block: block, kind: kind))
    slotsMade += 1
    indexes[Int(block)] = UInt32(slotsMade)
    return slotsMade - 1
  }

  /// Memory for a block, cut from large pieces: allocated alone, each block would cost twice its
  /// size.
  private func newBuffer() -> UnsafeMutableRawBufferPointer {
    let perSlab = 64
    let at = slotsMade % perSlab * Limits.blockBytes
    if at == 0 { slabs.append(AlignedBuffer(count: perSlab * Limits.blockBytes)) }
    return UnsafeMutableRawBufferPointer(
      rebasing: slabs[slabs.count - 1].bytes[at..<(at + Limits.blockBytes)])
  }

  private func release(_ index: Int) {
    slots[index].isUsed = false
    indexes[Int(slots[index].block)] = 0
    spare.append(UInt32(index))
  }

  /// The content of `block`, read and checked unless it is cached; valid until `trim`.
  public func read(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> UnsafeMutableRawBufferPointer
  {
    guard block < blockCount else { throw .block(block, .beyondEnd(blockCount: blockCount)) }
    let known = indexes[Int(block)]
    if known != 0 {
      let slot = slots + Int(known - 1)
      guard slot.pointee.kind == kind else {
        throw .block(block, .format(.wrongKind(expected: kind, found: slot.pointee.kind)))
      }
      slot.pointee.isRecent = true
      return slot.pointee.buffer
    }
    let index = take(block, kind)
    let buffer = slots[index].buffer
    slots[index].isDirty = false
    do throws(BlockIOError) {
      try device.read(into: buffer, at: block * UInt64(Limits.blockBytes))
    } catch {
      release(index)
      throw .block(block, .io(error))
    }
    do throws(FormatError) {
      try BlockHeader.verify(
        RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer)), number: block, kind: kind)
    } catch {
      release(index)
      throw .block(block, .format(error))
    }
    return buffer
  }

  /// A buffer of zeros for a block to be written; the device is not read.
  /// - Precondition: `block` is below `blockCount`.
  public func zeroed(_ block: UInt64, _ kind: BlockKind) -> UnsafeMutableRawBufferPointer {
    let known = indexes[Int(block)]
    let index = known != 0 ? Int(known - 1) : take(block, kind)
    let buffer = slots[index].buffer
    slots[index] = Slot(buffer: buffer, block: block, kind: kind)
    buffer.initializeMemory(as: UInt8.self, repeating: 0)
    return buffer
  }

  /// Marks a cached block as changed.
  public func markDirty(_ block: UInt64) {
    let known = indexes[Int(block)]
    if known != 0 { slots[Int(known - 1)].isDirty = true }
  }

  /// Writes every dirty block, neighbours together, and flushes the device.
  public func flush() throws(PoolError) {
    var dirty: [(block: UInt64, slot: Int)] = []
    for i in 0..<slotsMade where slots[i].isUsed && slots[i].isDirty {
      dirty.append((slots[i].block, i))
    }
    dirty.sort { $0.block < $1.block }
    var start = 0
    while start < dirty.count {
      var end = start + 1
      while end < dirty.count, end - start < Self.runBlocksMax,
        dirty[end].block == dirty[end - 1].block + 1
      {
        end += 1
      }
      if end - start == 1 { try write(dirty[start].slot) } else { try write(dirty[start..<end]) }
      start = end
    }
    do throws(BlockIOError) { try device.flush() } catch { throw .io(error) }
  }

  /// Writes consecutive blocks with one call.
  private func write(_ run: ArraySlice<(block: UInt64, slot: Int)>) throws(PoolError) {
    let together = runBuffer ?? AlignedBuffer(count: Self.runBlocksMax * Limits.blockBytes)
    runBuffer = together
    var filled = 0
    for (block, slot) in run {
      let buffer = slots[slot].buffer
      BlockHeader.seal(buffer, number: block, kind: slots[slot].kind)
      together.bytes[filled..<(filled + Limits.blockBytes)].copyBytes(from: buffer)
      filled += Limits.blockBytes
    }
    try write(together.bytes[0..<filled], at: run[run.startIndex].block)
    for (_, slot) in run { slots[slot].isDirty = false }
  }

  private func write(_ index: Int) throws(PoolError) {
    let slot = slots[index]
    BlockHeader.seal(slot.buffer, number: slot.block, kind: slot.kind)
    try write(slot.buffer[...], at: slot.block)
    slots[index].isDirty = false
  }

  private func write(_ bytes: Slice<UnsafeMutableRawBufferPointer>, at block: UInt64)
    throws(PoolError)
  {
    let buffer = UnsafeRawBufferPointer(UnsafeMutableRawBufferPointer(rebasing: bytes))
    do throws(BlockIOError) {
      try device.write(buffer, at: block * UInt64(Limits.blockBytes))
    } catch {
      throw .io(error)
    }
  }

  /// Reduces the cache to its limit, the least recently used blocks first. Pointers to contents are
  /// invalid afterwards.
  public func trim() throws(PoolError) {
    guard slotsMade - spare.count > blocksMax else { return }
    let target = blocksMax * 7 / 8
    // Two rounds of the clock visit every slot twice, the second time as not recent.
    var steps = 2 * slotsMade
    while slotsMade - spare.count > target && steps > 0 {
      steps -= 1
      hand = hand + 1 < slotsMade ? hand + 1 : 0
      guard slots[hand].isUsed else { continue }
      if slots[hand].isRecent {
        slots[hand].isRecent = false
        continue
      }
      if slots[hand].isDirty { try write(hand) }
      release(hand)
    }
  }

  /// Drops one block, with its changes.
  public func forget(_ block: UInt64) {
    let known = indexes[Int(block)]
    if known != 0 { release(Int(known - 1)) }
  }

  /// Drops all blocks, with their changes.
  public func drop() {
    for i in 0..<slotsMade where slots[i].isUsed { release(i) }
  }
}
