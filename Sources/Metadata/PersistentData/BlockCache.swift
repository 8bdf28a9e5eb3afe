public import BlockIO
public import ThinFormat

/// A write-back cache of metadata blocks.
///
/// A block is checked when it is first read; its number and checksum are set when it is written.
/// Buffers stay in place until `trim`, which callers invoke between operations. The limit is
/// enforced only then, so an operation may hold as many blocks as it needs.
///
/// The device may wait while others look blocks up here (`isInMemoryOnly`), and read them by themselves
/// (`beginReading`); only one at a time changes blocks, reads them through the device, or calls `trim`.
///
/// Memory: 4 KiB per cached block, `blocksMax` of them between operations, and four bytes per block of
/// the parts of the device that are used.
///
/// Invariants: `indexes` has the slot of each cached block, plus one; a slot that is being filled is in
/// neither `indexes` nor `spare`; a dirty block is one that the committed state does not use, so that
/// writing it early does no harm.
@safe public final class BlockCache {
  @safe private struct Slot {
    var buffer: UnsafeMutableRawBufferPointer
    var block: UInt64
    var kind: BlockKind
    var isDirty = true
    /// Whether it was used since the clock hand last passed.
    var isRecent = true
    /// Whether it holds a block.
    var isUsed = true
    /// Chosen by `trim`, to be written first.
    var isGoing = false
  }

  /// The device of the blocks.
  public let device: any BlockDevice
  /// Usable blocks: those of the device, up to the format's limit.
  @safe @exclusivity(unchecked) public private(set) var blockCount: UInt64
  /// The most blocks kept between operations.
  public let blocksMax: Int
  private var indexes: ZeroedArray<UInt32>
  private var slots: UnsafeMutablePointer<Slot>
  private var slotsMade = 0
  private var slotsMax: Int
  /// The memory of all buffers.
  private var slabs: [AlignedBuffer] = []
  /// Blocks that others read, as long as nothing has changed them.
  @safe @exclusivity(unchecked) private var reading: Set<UInt64> = []
  /// Nothing is read: what is not here is `absent`.
  package var isInMemoryOnly: Bool {
    get { readsNothing }
    set { readsNothing = newValue }
  }
  private var readsNothing = false
  /// The last block that was not here, and of which kind it is.
  @safe @exclusivity(unchecked)
  package private(set) var absent: (block: UInt64, kind: BlockKind) = (0, .btreeNode)
  /// Slots without a block.
  @safe @exclusivity(unchecked) private var spare: [UInt32] = []
  private var hand = 0

  /// A cache of at most `blocksMax` blocks of 4 KiB between operations.
  public init(_ device: any BlockDevice, blocksMax: Int = 8192) {
    self.device = device
    self.blocksMax = blocksMax
    blockCount = Self.usableBlocks(device)
    indexes = ZeroedArray(count: Int(blockCount))
    slotsMax = 256
    unsafe slots = .allocate(capacity: slotsMax)
  }

  deinit { unsafe slots.deallocate() }

  private static func usableBlocks(_ device: any BlockDevice) -> UInt64 {
    min(device.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Updates the device's size after it grew. Call between operations.
  public func updateSize() {
    let count = Self.usableBlocks(device)
    guard count != blockCount else { return }
    let larger = ZeroedArray<UInt32>(count: Int(count))
    for i in 0..<slotsMade where unsafe slots[i].isUsed && slots[i].block < count {
      unsafe larger[Int(slots[i].block)] = UInt32(i) + 1
    }
    indexes = larger
    blockCount = count
  }

  /// A slot for a block that is not here, which is to be indexed.
  private func take(_ block: UInt64, _ kind: BlockKind) -> Int {
    if let free = spare.popLast() {
      let slot = unsafe slots + Int(free)
      unsafe slot.pointee = Slot(buffer: slot.pointee.buffer, block: block, kind: kind)
      return Int(free)
    }
    if slotsMade == slotsMax {
      let larger = UnsafeMutablePointer<Slot>.allocate(capacity: slotsMax * 2)
      unsafe larger.moveInitialize(from: slots, count: slotsMade)
      unsafe slots.deallocate()
      unsafe slots = larger
      slotsMax *= 2
    }
    let buffer = unsafe newBuffer()
    unsafe (slots + slotsMade).initialize(to: Slot(buffer: buffer, block: block, kind: kind))
    slotsMade += 1
    return slotsMade - 1
  }

  /// Memory for a block, cut from large pieces: allocated alone, each block would cost twice its
  /// size.
  private func newBuffer() -> UnsafeMutableRawBufferPointer {
    let perSlab = 64
    let at = slotsMade % perSlab * Limits.blockBytes
    if at == 0 { slabs.append(AlignedBuffer(count: perSlab * Limits.blockBytes)) }
    return unsafe UnsafeMutableRawBufferPointer(
      rebasing: slabs[slabs.count - 1].bytes[at..<(at + Limits.blockBytes)])
  }

  private func release(_ index: Int) {
    unsafe slots[index].isUsed = false
    unsafe indexes[Int(slots[index].block)] = 0
    spare.append(UInt32(index))
  }

  /// The contents of `block` if it is here.
  private func known(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> UnsafeMutableRawBufferPointer?
  {
    let known = indexes[Int(block)]
    guard known != 0 else { return nil }
    let slot = unsafe slots + Int(known - 1)
    guard unsafe slot.pointee.kind == kind else {
      throw unsafe .block(block, .format(.wrongKind(expected: kind, found: slot.pointee.kind)))
    }
    unsafe slot.pointee.isRecent = true
    return unsafe slot.pointee.buffer
  }

  /// The contents of `block`, read and checked if it is not here; valid until `trim`.
  /// - Throws: also `.absent`, where nothing is to be read.
  public func read(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> UnsafeMutableRawBufferPointer
  {
    guard block < blockCount else { throw .block(block, .beyondEnd(blockCount: blockCount)) }
    if let known = try unsafe known(block, kind) { return unsafe known }
    if readsNothing {
      absent = (block, kind)
      throw .absent(block)
    }
    let index = take(block, kind)
    let buffer = unsafe slots[index].buffer
    unsafe slots[index].isUsed = false
    do throws(PoolError) {
      do throws(BlockIOError) {
        try unsafe device.read(into: buffer, at: block * UInt64(Limits.blockBytes))
      } catch {
        throw .block(block, .io(error))
      }
      // While that took its time, others may have read it too.
      if let known = try unsafe known(block, kind) {
        spare.append(UInt32(index))
        return unsafe known
      }
      try unsafe Self.verify(buffer, block, kind)
    } catch {
      spare.append(UInt32(index))
      throw error
    }
    unsafe slots[index] = Slot(buffer: buffer, block: block, kind: kind, isDirty: false)
    indexes[Int(block)] = UInt32(index) + 1
    return unsafe buffer
  }

  private static func verify(
    _ buffer: UnsafeMutableRawBufferPointer, _ block: UInt64, _ kind: BlockKind
  ) throws(PoolError) {
    do throws(FormatError) {
      try unsafe BlockHeader.verify(
        RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer)), number: block, kind: kind)
    } catch {
      throw .block(block, .format(error))
    }
  }

  /// Notes that the caller reads a block that is absent, beside other work here; `endReading` follows.
  package func beginReading(_ block: UInt64) { reading.insert(block) }

  /// Takes in what was read, unless the block came here or was changed meanwhile. Nil: it could not be read.
  /// - Throws: where the contents are not those of such a block.
  package func endReading(
    _ block: UInt64, _ kind: BlockKind, _ bytes: UnsafeMutableRawBufferPointer?
  ) throws(PoolError) {
    guard reading.remove(block) != nil, let bytes = unsafe bytes, block < blockCount,
      indexes[Int(block)] == 0
    else { return }
    try unsafe Self.verify(bytes, block, kind)
    let index = take(block, kind)
    unsafe slots[index].buffer.copyMemory(from: UnsafeRawBufferPointer(bytes))
    unsafe slots[index].isDirty = false
    indexes[Int(block)] = UInt32(index) + 1
  }

  /// Whether there are more blocks here than are kept between operations.
  package var isOverLimit: Bool { slotsMade - spare.count > blocksMax }

  /// A buffer of zeros for a block that is to be written; what the device holds is not read.
  /// - Precondition: `block` is below `blockCount`.
  public func zeroed(_ block: UInt64, _ kind: BlockKind) -> UnsafeMutableRawBufferPointer {
    if !reading.isEmpty { reading.remove(block) }
    let known = indexes[Int(block)]
    let index = known != 0 ? Int(known - 1) : take(block, kind)
    indexes[Int(block)] = UInt32(index) + 1
    let buffer = unsafe slots[index].buffer
    unsafe slots[index] = Slot(buffer: buffer, block: block, kind: kind)
    unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
    return unsafe buffer
  }

  /// Marks a cached block as changed.
  public func markDirty(_ block: UInt64) {
    if !reading.isEmpty { reading.remove(block) }
    let known = indexes[Int(block)]
    if known != 0 { unsafe slots[Int(known - 1)].isDirty = true }
  }

  /// Writes every dirty block, neighbours together, and flushes the device.
  public func flush() throws(PoolError) {
    try write((0..<slotsMade).filter { unsafe slots[$0].isUsed && slots[$0].isDirty })
    do throws(BlockIOError) { try device.flush() } catch { throw .io(error) }
  }

  /// Writes blocks, all of them at once.
  private func write(_ dirty: [Int]) throws(PoolError) {
    let dirty = dirty.sorted { unsafe slots[$0].block < slots[$1].block }
    var pieces: [BlockPiece] = []
    pieces.reserveCapacity(dirty.count)
    for index in dirty {
      let slot = unsafe slots[index]
      unsafe BlockHeader.seal(slot.buffer, number: slot.block, kind: slot.kind)
      unsafe pieces.append(
        BlockPiece(
          UnsafeRawBufferPointer(slot.buffer), at: slot.block * UInt64(Limits.blockBytes)))
    }
    do throws(BlockIOError) { try device.write(pieces) } catch { throw .io(error) }
    for index in dirty { unsafe slots[index].isDirty = false }
  }

  /// Reduces the cache to its limit, the least recently used blocks first. Pointers to contents are
  /// invalid afterwards.
  public func trim() throws(PoolError) {
    guard isOverLimit else { return }
    var excess = slotsMade - spare.count - blocksMax * 7 / 8
    // Two rounds of the clock see everything twice, the second time as not recent.
    var steps = 2 * slotsMade
    var dirty: [Int] = []
    while excess > 0 && steps > 0 {
      steps -= 1
      hand = hand + 1 < slotsMade ? hand + 1 : 0
      guard unsafe slots[hand].isUsed, unsafe !slots[hand].isGoing else { continue }
      if unsafe slots[hand].isRecent {
        unsafe slots[hand].isRecent = false
        continue
      }
      excess -= 1
      if unsafe slots[hand].isDirty {
        unsafe slots[hand].isGoing = true
        dirty.append(hand)
      } else {
        release(hand)
      }
    }
    guard !dirty.isEmpty else { return }
    defer { for index in dirty { unsafe slots[index].isGoing = false } }
    try write(dirty)
    for index in dirty { release(index) }
  }

  /// Drops one block, with its changes.
  public func forget(_ block: UInt64) {
    let known = indexes[Int(block)]
    if known != 0 { release(Int(known - 1)) }
  }

  /// Drops all blocks, with their changes.
  public func drop() {
    for i in 0..<slotsMade where unsafe slots[i].isUsed { release(i) }
  }
}
