public import BlockIO
public import ThinFormat

/// Metadata blocks in memory, with what is to be written.
///
/// A block is checked when it is first read, and number and checksum are filled in when it is
/// written. Buffers stay where they are until `trim`, which callers invoke between operations;
/// only then is the limit enforced, so an operation may hold as many blocks as it needs.
///
/// Invariants: `slots` maps each cached block to its buffer; a dirty block is one that the
/// committed state does not use, so that writing it early does no harm.
public final class BlockCache {
  private struct Slot {
    var buffer: UnsafeMutableRawBufferPointer
    var kind: BlockKind
    var isDirty: Bool
    /// Used since the clock hand last passed.
    var isRecent: Bool
  }

  /// Where blocks are.
  public let device: any BlockDevice
  /// Blocks that the device has and the format can use.
  public private(set) var blockCount: UInt64
  /// Blocks kept between operations.
  public let blocksMax: Int
  private var slots: [UInt64: Slot] = [:]
  private var spare: [UnsafeMutableRawBufferPointer] = []

  /// A cache of at most `blocksMax` blocks of 4 KiB between operations.
  public init(_ device: any BlockDevice, blocksMax: Int = 8192) {
    self.device = device
    self.blocksMax = blocksMax
    blockCount = Self.usableBlocks(device)
  }

  deinit {
    for slot in slots.values { slot.buffer.deallocate() }
    for buffer in spare { buffer.deallocate() }
  }

  private static func usableBlocks(_ device: any BlockDevice) -> UInt64 {
    min(device.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
  }

  /// Looks at the device's size again, after it grew.
  public func updateSize() { blockCount = Self.usableBlocks(device) }

  private func buffer() -> UnsafeMutableRawBufferPointer {
    spare.popLast()
      ?? .allocate(byteCount: Limits.blockBytes, alignment: Limits.blockBytes)
  }

  /// The contents of `block`, read and checked if it is not here; valid until `trim`.
  public func read(_ block: UInt64, _ kind: BlockKind) throws(PoolError)
    -> UnsafeMutableRawBufferPointer
  {
    if let slot = slots[block] {
      guard slot.kind == kind else {
        throw .block(block, .format(.wrongKind(expected: kind, found: slot.kind)))
      }
      if !slot.isRecent { slots[block]?.isRecent = true }
      return slot.buffer
    }
    guard block < blockCount else { throw .block(block, .beyondEnd(blockCount: blockCount)) }
    let buffer = self.buffer()
    do throws(BlockIOError) {
      try device.read(into: buffer, at: block * UInt64(Limits.blockBytes))
    } catch {
      spare.append(buffer)
      throw .block(block, .io(error))
    }
    do throws(FormatError) {
      try BlockHeader.verify(
        RawSpan(_unsafeBytes: UnsafeRawBufferPointer(buffer)), number: block, kind: kind)
    } catch {
      spare.append(buffer)
      throw .block(block, .format(error))
    }
    slots[block] = Slot(buffer: buffer, kind: kind, isDirty: false, isRecent: true)
    return buffer
  }

  /// A buffer of zeros for a block that is to be written; what the device holds is not read.
  public func zeroed(_ block: UInt64, _ kind: BlockKind) -> UnsafeMutableRawBufferPointer {
    let buffer = slots[block]?.buffer ?? self.buffer()
    buffer.initializeMemory(as: UInt8.self, repeating: 0)
    slots[block] = Slot(buffer: buffer, kind: kind, isDirty: true, isRecent: true)
    return buffer
  }

  /// Notes that the contents of a cached block changed.
  public func markDirty(_ block: UInt64) { slots[block]?.isDirty = true }

  /// Writes every dirty block and flushes the device.
  public func flush() throws(PoolError) {
    let dirty = slots.filter { $0.value.isDirty }.map(\.key).sorted()
    for block in dirty { try write(block) }
    do throws(BlockIOError) { try device.flush() } catch { throw .io(error) }
  }

  private func write(_ block: UInt64) throws(PoolError) {
    guard let slot = slots[block] else { return }
    BlockHeader.seal(slot.buffer, number: block, kind: slot.kind)
    do throws(BlockIOError) {
      try device.write(
        UnsafeRawBufferPointer(slot.buffer), at: block * UInt64(Limits.blockBytes))
    } catch {
      throw .io(error)
    }
    slots[block]?.isDirty = false
  }

  /// Brings the number of blocks back under the limit; pointers to contents are void after it.
  public func trim() throws(PoolError) {
    guard slots.count > blocksMax else { return }
    var excess = slots.count - blocksMax * 3 / 4
    // What was not used since the last time goes first; two rounds see everything.
    for _ in 0..<2 where excess > 0 {
      for (block, slot) in slots {
        guard excess > 0 else { break }
        if slot.isRecent {
          slots[block]?.isRecent = false
          continue
        }
        if slot.isDirty { try write(block) }
        slots[block] = nil
        spare.append(slot.buffer)
        excess -= 1
      }
    }
    while spare.count > 64 { spare.removeLast().deallocate() }
  }

  /// Forgets one block, changes included.
  public func forget(_ block: UInt64) {
    if let slot = slots.removeValue(forKey: block) { spare.append(slot.buffer) }
  }

  /// Forgets everything, changes included.
  public func drop() {
    spare += slots.values.map(\.buffer)
    slots.removeAll()
  }
}
