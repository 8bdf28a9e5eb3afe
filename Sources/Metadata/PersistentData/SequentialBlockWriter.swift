public import BlockIO
import Glibc
public import ThinFormat

/// Why new metadata blocks could not be written.
public enum BlockWriteError: Error, Equatable, Sendable {
  /// A write, flush or read of the device failed.
  case device(BlockIOError)
  /// No free block is left. `needed` is the number of device blocks used so far, block 0 included,
  /// if there had been enough.
  case full(needed: UInt64)
}

/// Writes new metadata blocks, 4 KiB each, in batches.
///
/// Block numbers come from an allocator. By default they ascend from 1, so that the whole device is
/// written front to back; a caller that writes into a live image passes its own allocator.
/// Consecutive numbers written one after the other share a write of up to 1 MiB.
///
/// Invariants: a block is in the batch or on the device, and never in the batch twice; after a
/// failure nothing more is written.
public final class SequentialBlockWriter {
  private static let batchBlocks = 256

  /// The device that is written.
  public let device: any BlockDevice
  /// The number of blocks allocated so far.
  public private(set) var allocatedCount: UInt64 = 0
  private let next: () -> UInt64?
  private let batch: AlignedBuffer
  private var batchStart: UInt64 = 0
  private var batchCount = 0
  private var failure: BlockWriteError?

  /// A writer that takes block numbers from `allocate`.
  /// - Parameter allocate: returns the next block that may be overwritten, each once; nil if there
  ///   is none left.
  public init(_ device: any BlockDevice, allocate: @escaping () -> UInt64?) {
    self.device = device
    next = allocate
    batch = AlignedBuffer(count: Self.batchBlocks * Limits.blockBytes)
  }

  /// A writer that allocates blocks 1 to `blockCount` - 1 in this order.
  /// - Parameter blockCount: usable blocks of the device, block 0 included.
  public convenience init(_ device: any BlockDevice, blockCount: UInt64) {
    var number: UInt64 = 0
    self.init(device) {
      guard number + 1 < blockCount else { return nil }
      number += 1
      return number
    }
  }

  /// Allocates the next free block.
  /// - Throws: `full` if there is none.
  public func allocate() throws(BlockWriteError) -> UInt64 {
    guard let number = next() else { throw .full(needed: allocatedCount + 2) }
    allocatedCount += 1
    return number
  }

  /// Writes an allocated block, once.
  /// - Parameter fill: receives the block's 4096 bytes, all zero. Number and checksum are set
  ///   afterwards.
  /// - Throws: errors of writing the batch, if that was necessary to make room.
  public func write(
    _ number: UInt64, kind: BlockKind, fill: (UnsafeMutableRawBufferPointer) -> Void
  ) throws(BlockWriteError) {
    let isNext = number == batchStart + UInt64(batchCount)
    if batchCount == Self.batchBlocks || (batchCount > 0 && !isNext) { try flushBatch() }
    if batchCount == 0 { batchStart = number }
    let block = unsafe slot(batchCount)
    unsafe block.initializeMemory(as: UInt8.self, repeating: 0)
    unsafe fill(block)
    unsafe BlockHeader.seal(block, number: number, kind: kind)
    batchCount += 1
  }

  /// Reads a written block, even if it is still in the batch.
  /// - Parameter buffer: 4096 bytes, aligned to 4096.
  public func read(_ number: UInt64, into buffer: UnsafeMutableRawBufferPointer)
    throws(BlockWriteError)
  {
    if number >= batchStart, number - batchStart < UInt64(batchCount) {
      unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(slot(Int(number - batchStart))))
      return
    }
    do throws(BlockIOError) {
      try unsafe device.read(into: buffer, at: number * UInt64(Limits.blockBytes))
    } catch {
      throw .device(error)
    }
  }

  /// Writes the batch to the device.
  public func flushBatch() throws(BlockWriteError) {
    if let failure { throw failure }
    guard batchCount > 0 else { return }
    let bytes = unsafe UnsafeRawBufferPointer(
      rebasing: batch.bytes[0..<(batchCount * Limits.blockBytes)])
    do throws(BlockIOError) {
      try unsafe device.write(bytes, at: batchStart * UInt64(Limits.blockBytes))
    } catch {
      failure = .device(error)
      throw .device(error)
    }
    batchCount = 0
  }

  /// Returns once everything written so far is durable.
  public func flush() throws(BlockWriteError) {
    try flushBatch()
    do throws(BlockIOError) {
      try device.flush()
    } catch {
      failure = .device(error)
      throw .device(error)
    }
  }

  private func slot(_ index: Int) -> UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(
      rebasing: batch.bytes[(index * Limits.blockBytes)..<((index + 1) * Limits.blockBytes)])
  }
}
