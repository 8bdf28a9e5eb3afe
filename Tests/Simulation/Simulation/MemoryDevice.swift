public import BlockIO
import Glibc

/// A device in memory that records changes, so that one image serves many trials.
public final class MemoryDevice: BlockDevice {
  /// The device's name in messages.
  public let path: String
  /// Size in bytes.
  public var byteCount: UInt64 { UInt64(size) }
  /// Nil: reads cannot be queued.
  public var descriptor: Int32? { nil }
  private var bytes: UnsafeMutableRawBufferPointer
  /// The apparent size of the device; trials truncate it.
  private var size: Int
  private var originals: [Int: [UInt8]] = [:]
  private static let blockBytes = 4096

  /// A device with the contents of a file.
  public init(contentsOf path: String) throws(BlockIOError) {
    self.path = path
    let file = try FileDevice(path: path, access: .readOnly, exclusive: false)
    size = Int(file.byteCount) / Self.blockBytes * Self.blockBytes
    bytes = .allocate(byteCount: size, alignment: Self.blockBytes)
    try file.read(into: bytes, at: 0)
  }

  /// A device of zeros.
  public init(byteCount: Int) {
    path = "memory"
    size = byteCount
    bytes = .allocate(byteCount: byteCount, alignment: Self.blockBytes)
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }

  deinit { bytes.deallocate() }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    guard offset <= UInt64(size), UInt64(buffer.count) <= UInt64(size) - offset else {
      throw BlockIOError(.read, path: path, offset: offset, code: 0)
    }
    let start = Int(offset)
    buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[start..<(start + buffer.count)]))
  }

  /// Writes all of `buffer` at `offset`.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset <= UInt64(size), UInt64(buffer.count) <= UInt64(size) - offset else {
      throw BlockIOError(.write, path: path, offset: offset, code: ENOSPC)
    }
    let start = Int(offset)
    for block in (start / Self.blockBytes)...((start + max(1, buffer.count) - 1) / Self.blockBytes)
    {
      remember(block)
    }
    UnsafeMutableRawBufferPointer(rebasing: bytes[start..<(start + buffer.count)])
      .copyMemory(from: buffer)
  }

  /// Does nothing.
  public func flush() {}

  /// The bytes of one block, to be changed; `revert` restores them.
  /// - Precondition: `block` is below the device's end.
  public func edit(_ block: UInt64) -> UnsafeMutableRawBufferPointer {
    remember(Int(block))
    return self.block(Int(block))
  }

  /// The bytes of one block, for reading.
  public func peek(_ block: UInt64) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(self.block(Int(block)))
  }

  /// Truncates the device to `count` blocks until `revert`.
  public func truncate(blocks count: Int) { size = min(bytes.count, count * Self.blockBytes) }

  /// Enlarges the device with zeros.
  public func grow(byteCount: Int) {
    let larger = UnsafeMutableRawBufferPointer.allocate(
      byteCount: byteCount, alignment: Self.blockBytes)
    larger.initializeMemory(as: UInt8.self, repeating: 0)
    larger.copyMemory(from: UnsafeRawBufferPointer(bytes))
    bytes.deallocate()
    bytes = larger
    size = byteCount
  }

  private func block(_ block: Int) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      rebasing: bytes[(block * Self.blockBytes)..<((block + 1) * Self.blockBytes)])
  }

  private func remember(_ block: Int) {
    if originals[block] == nil { originals[block] = Array(self.block(block)) }
  }

  /// Reverts every change since the start or the last `revert`.
  public func revert() {
    for (number, original) in originals {
      original.withUnsafeBytes { block(number).copyMemory(from: $0) }
    }
    originals.removeAll()
    size = bytes.count
  }

  /// Keeps every change permanently.
  public func keep() { originals.removeAll() }

  /// Blocks changed since the last `revert` or `keep`.
  public var changedBlocks: [UInt64] { originals.keys.map { UInt64($0) }.sorted() }
}
