import CDMThin
import Glibc

/// The part of a device from a byte on, as a device of its own that is only read: metadata or data that
/// lies inside a larger device or an image of a disk.
public final class DeviceWindow: BlockDevice {
  private let device: any BlockDevice
  private let start: UInt64
  /// Size in bytes.
  public let byteCount: UInt64
  /// The larger device's name.
  public var path: String { device.path }
  /// The larger device's.
  public var descriptor: Int32? { device.descriptor }
  /// Where the part is in the larger device.
  public var descriptorOffset: UInt64 { device.descriptorOffset + start }

  /// The part of `device` from byte `start` on, a multiple of 512.
  /// - Throws: `BlockIOError` if the device ends before.
  public init(_ device: any BlockDevice, from start: UInt64) throws(BlockIOError) {
    guard start < device.byteCount else {
      throw BlockIOError(
        .open, path: device.path, code: EINVAL,
        detail: "it has \(device.byteCount) bytes, and nothing at byte \(start)")
    }
    self.device = device
    self.start = start
    byteCount = device.byteCount - start
    // Reads that bypass the page cache must be aligned, and these would not be.
    if start % 4096 != 0, let descriptor = device.descriptor {
      let flags = fcntl(descriptor, F_GETFL)
      if flags >= 0 { _ = fcntl(descriptor, F_SETFL, flags & ~dmthin_o_direct) }
    }
  }

  /// Fills `buffer` from `offset` on.
  public func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    guard offset <= byteCount, UInt64(buffer.count) <= byteCount - offset else {
      throw BlockIOError(.read, path: path, offset: start &+ offset, code: 0)
    }
    try unsafe device.read(into: buffer, at: start + offset)
  }

  /// Always fails.
  public func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    throw BlockIOError(.write, path: path, offset: start &+ offset, code: EROFS)
  }

  /// Does nothing.
  public func flush() {}
}
