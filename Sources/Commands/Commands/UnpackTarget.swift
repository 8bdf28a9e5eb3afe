import BlockIO
import Glibc
import ThinFormat
import ThinTools

/// The destination of unpacked metadata: a file that is replaced, or a device that is overwritten.
final class UnpackTarget {
  private let device: FileDevice?
  private let file: TextOutput?
  private let blockBytes = UInt64(Limits.blockBytes)
  /// Block 0 of a device, which is written last.
  private let superblock = AlignedBuffer(count: Limits.blockBytes)
  private var blockCount: UInt64 = 0

  /// Whether it is a device.
  var isDevice: Bool { device != nil }

  init(_ path: String, input: String, force: Bool) throws(ToolError) {
    var info = stat()
    let isThere = unsafe stat(path, &info) == 0
    do throws(OutputError) {
      if isThere, info.st_mode & S_IFMT == S_IFBLK {
        device = try MetadataOutput.open(path, reading: [input])
        file = nil
      } else {
        var rules = TextOutput.Rules()
        rules.inputs = [input]
        if !force { rules.isPrecious = InputChecks.preciousContent }
        file = try TextOutput(path: path, rules)
        device = nil
      }
    } catch {
      throw ToolError(error)
    }
    guard device != nil || file?.isAside == true else {
      throw ToolError(.unsuitable(.output), "\(path) is neither a file nor a block device")
    }
    guard let device, !force else { return }
    do throws(BlockIOError) { try unsafe device.read(into: superblock.bytes, at: 0) } catch {
      return
    }
    if let what = unsafe InputChecks.preciousContent(Array(superblock.bytes)) {
      throw ToolError(
        .precious, "\(path) holds \(what); with --force it is overwritten")
    }
  }

  /// Makes room for this many blocks, all zero.
  func begin(_ blockCount: UInt64) throws(ToolError) {
    self.blockCount = blockCount
    do throws(BlockIOError) {
      try file?.setSize(blockCount * blockBytes)
      guard let device else { return }
      unsafe superblock.bytes.initializeMemory(as: UInt8.self, repeating: 0)
      try zero(device)
    } catch {
      throw ToolError(error)
    }
  }

  private func zero(_ device: FileDevice) throws(BlockIOError) {
    guard device.byteCount >= blockCount * blockBytes else {
      throw BlockIOError(.write, path: device.path, offset: device.byteCount, code: ENOSPC)
    }
    let zeros = AlignedBuffer(count: 256 * Limits.blockBytes)
    unsafe zeros.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    var next: UInt64 = 0
    while next < blockCount {
      let count = min(256, blockCount - next)
      let piece = unsafe UnsafeRawBufferPointer(
        rebasing: zeros.bytes[..<(Int(count) * Limits.blockBytes)])
      try unsafe device.write(piece, at: next * blockBytes)
      next += count
    }
    try device.flush()
    withExtendedLifetime(zeros) {}
  }

  /// Writes a run of blocks.
  func write(_ first: UInt64, _ bytes: UnsafeRawBufferPointer) throws(BlockIOError) {
    guard let device else {
      try unsafe file?.write(bytes, at: first * blockBytes)
      return
    }
    guard first == 0 else { return try unsafe device.write(bytes, at: first * blockBytes) }
    unsafe superblock.bytes.copyMemory(
      from: UnsafeRawBufferPointer(rebasing: bytes[..<Limits.blockBytes]))
    let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[Limits.blockBytes...])
    if unsafe !rest.isEmpty { try unsafe device.write(rest, at: blockBytes) }
  }

  /// Makes the result durable and puts it in place.
  func commit() throws(ToolError) {
    do throws(BlockIOError) {
      try file?.commit()
      guard let device else { return }
      try device.flush()
      try unsafe device.write(UnsafeRawBufferPointer(superblock.bytes), at: 0)
      try device.flush()
    } catch {
      throw ToolError(error)
    }
  }
}
